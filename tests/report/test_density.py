"""Blocks of a mask against the naive loop."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_worm.report.figures.density import block, density


@given(st.integers(1, 5000), st.integers(1, 200))
def test_a_block_is_the_least_power_of_two_that_fits(length: int, most: int) -> None:
    size = block(length, most)
    assert size & (size - 1) == 0 and (length + size - 1) // size <= most
    assert size == 1 or (length + size // 2 - 1) // (size // 2) > most


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(0, 2**31))
def test_density_is_the_mean_of_each_block(rows: int, columns: int, most: int, seed: int) -> None:
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) > 0.5
    high, wide = block(rows, most), block(columns, most)
    naive = [
        [mask[top : top + high, left : left + wide].double().mean().item() for left in range(0, columns, wide)]
        for top in range(0, rows, high)
    ]
    torch.testing.assert_close(torch.from_numpy(density(mask, most)), torch.tensor(naive, dtype=torch.float64))


def test_heads_show() -> None:
    mask = torch.zeros(768, 768, dtype=torch.bool)
    mask[64:128] = True  # the second of 12 heads
    shares = density(mask, 96)
    assert shares.shape == (96, 96)
    assert (shares[8:16] == 1).all() and shares.sum() == 8 * 96


def test_masks_of_other_shapes() -> None:
    kernel = torch.ones(4, 3, 2, 2, dtype=torch.bool)
    assert density(kernel, 2).shape == (2, 2)
    assert density(torch.tensor([True, False, False, False]), 2).tolist() == [[0.5, 0.0]]
    assert density(torch.tensor(True), 2).tolist() == [[1.0]]
