"""The window: which masks it holds, and how far the newest is from each of them."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_worm.core.masks import pack
from hf_worm.core.window import MaskWindow

SHAPES = {"query": (3,), "key": (7, 1), "gamma": (5, 2)}  # 20 units, and no layer a whole number of bytes
UNITS = 20


def random_masks(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) < 0.5 for name, shape in SHAPES.items()}


def flat(masks: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([mask.flatten() for mask in masks.values()])


def push(window: MaskWindow, masks: dict[str, torch.Tensor]) -> tuple[float, ...]:
    units = sum(mask.numel() for mask in masks.values())
    return window.push({name: pack(mask) for name, mask in masks.items()}, units)


@given(length=st.integers(2, 6), count=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_the_newest_mask_against_each_older_one_oldest_first(length: int, count: int, seed: int) -> None:
    window = MaskWindow(length)
    seen: list[torch.Tensor] = []
    for step in range(count):
        masks = random_masks(seed + step)
        distances = push(window, masks)
        older = seen[-(length - 1) :]
        seen.append(flat(masks))
        # Counted over all layers in integers and divided once: the very same floats.
        assert distances == tuple(int((seen[-1] != mask).sum()) / UNITS for mask in older)
        assert len(distances) == min(step, length - 1)
        assert window.full == (step + 1 >= length)


def test_the_first_mask_has_no_distance() -> None:
    window = MaskWindow(3)
    assert push(window, random_masks(0)) == ()
    assert not window.full


def test_the_same_mask_again_is_at_distance_zero_and_its_complement_at_one() -> None:
    window = MaskWindow(3)
    masks = random_masks(0)
    push(window, masks)
    assert push(window, masks) == (0.0,)
    assert push(window, {name: ~mask for name, mask in masks.items()}) == (1.0, 1.0)


def test_layers_count_by_their_units_and_not_each_alike() -> None:
    window = MaskWindow(2)
    masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    push(window, masks)
    assert push(window, {**masks, "query": torch.ones(3, dtype=torch.bool)}) == (3 / UNITS,)


def test_a_mask_takes_one_bit_per_unit() -> None:
    window = MaskWindow(4)
    shapes = {"query": (128, 96), "key": (10, 10)}
    for _ in range(6):
        push(window, {name: torch.rand(shape) < 0.5 for name, shape in shapes.items()})
    assert len(window.masks) == 4
    for masks in window.masks:
        sizes = {name: packed.untyped_storage().nbytes() for name, packed in masks.items()}
        assert sizes == {name: math.ceil(math.prod(shape) / 8) for name, shape in shapes.items()}


def test_the_window_holds_copies() -> None:
    window = MaskWindow(2)
    masks = random_masks(0)
    push(window, masks)
    for mask in masks.values():
        mask.logical_not_()
    assert push(window, masks) == (1.0,)
