"""Masks against `torch.nn.utils.prune` and against the naive formula; bit packing."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from hf_worm.core.masks import (
    NotFiniteError,
    _select,
    count_differences,
    count_kept,
    keep_mask,
    keep_masks,
    keep_masks_over_all,
    keep_n_of_m,
    last_of_largest,
    pack,
    pruned_share,
    unpack,
)

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]

shapes = st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple)
ratios = st.one_of(st.sampled_from([0, 1e-9, 0.003, 0.25, 0.5, 0.9, 0.999]), st.floats(0, 1, exclude_max=True))
dtypes = st.sampled_from(FLOATS)
seeds = st.integers(0, 2**31)


def tie_free(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Weights of both signs, no two of the same magnitude: neighbouring bit patterns from 0.01 on, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    count = math.prod(shape)
    bits = BITS[torch.finfo(dtype).bits // 8]
    start = torch.tensor([0.01], dtype=dtype).view(bits)
    magnitudes = (start + torch.randperm(count, generator=generator).to(bits)).view(dtype)
    signs = torch.randint(2, (count,), generator=generator) * 2 - 1
    weights = (magnitudes * signs).view(shape)
    assert weights.abs().unique().numel() == count
    return weights


def naive_mask(weights: torch.Tensor, ratio: float) -> torch.Tensor:
    order = weights.double().abs().flatten().argsort(stable=True)  # float64 holds every value of the others exactly
    mask = torch.ones(weights.numel(), dtype=torch.bool, device=weights.device)
    mask[order[: round(ratio * weights.numel())]] = False
    return mask.view(weights.shape)


def masks_by(scope: str, weights: list[torch.Tensor], ratio: float) -> list[torch.Tensor]:
    if scope == "global":
        return keep_masks_over_all(iter(weights), [layer.shape for layer in weights], ratio)
    return keep_masks(weights, [ratio] * len(weights))


@given(shape=shapes, ratio=ratios, dtype=dtypes, seed=seeds)
def test_layer_masks_equal_torchs_l1_unstructured(
    shape: tuple[int, ...], ratio: float, dtype: torch.dtype, seed: int
) -> None:
    weight = tie_free(shape, dtype, seed)
    module = nn.Module()
    module.weight = nn.Parameter(weight.clone())
    expected = prune.l1_unstructured(module, "weight", amount=float(ratio)).weight_mask
    assert torch.equal(keep_mask(weight, ratio), expected.bool())


@given(sizes=st.lists(shapes, min_size=1, max_size=4), ratio=ratios, dtype=dtypes, seed=seeds)
def test_global_masks_equal_torchs_global_unstructured(
    sizes: list[tuple[int, ...]], ratio: float, dtype: torch.dtype, seed: int
) -> None:
    counts = [math.prod(shape) for shape in sizes]
    parts = tie_free((sum(counts),), dtype, seed).split(counts)
    weights = [part.view(shape) for part, shape in zip(parts, sizes, strict=True)]
    modules = [nn.Module() for _ in weights]
    for module, weight in zip(modules, weights, strict=True):
        module.weight = nn.Parameter(weight.clone())
    prune.global_unstructured([(module, "weight") for module in modules], prune.L1Unstructured, amount=float(ratio))
    masks = masks_by("global", weights, ratio)
    assert len(masks) == len(modules)
    for mask, module in zip(masks, modules, strict=True):
        assert torch.equal(mask, module.weight_mask.bool())


@given(sizes=st.lists(shapes, min_size=1, max_size=4), ratio=ratios, seed=seeds)
def test_layer_scope_prunes_the_ratio_in_each_layer(sizes: list[tuple[int, ...]], ratio: float, seed: int) -> None:
    weights = [tie_free(shape, torch.float32, seed + i) for i, shape in enumerate(sizes)]
    masks = masks_by("layer", weights, ratio)
    assert [mask.tolist() for mask in masks] == [naive_mask(weight, ratio).tolist() for weight in weights]


@given(count=st.integers(1, 300), ratio=ratios, dtype=dtypes, levels=st.integers(1, 5), seed=seeds)
def test_exact_count_and_tie_rule_where_most_scores_tie(
    count: int, ratio: float, dtype: torch.dtype, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(1 - levels, levels, (count,), generator=generator).to(dtype)
    mask = keep_mask(weights, ratio)
    assert int((~mask).sum()) == round(ratio * count)
    assert torch.equal(mask, naive_mask(weights, ratio))


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), ratio=ratios, dtype=dtypes, seed=seeds)
def test_global_ties_prune_the_earlier_layer_and_the_lower_index_first(
    sizes: list[int], ratio: float, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randint(-2, 3, (size,), generator=generator).to(dtype) for size in sizes]
    expected = naive_mask(torch.cat(weights), ratio)
    assert torch.equal(torch.cat(masks_by("global", weights, ratio)), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_ratio_for_each_tensor(device: str) -> None:
    weights, ratios = [torch.randn(50, 7, device=device) for _ in range(5)], [0.0, 0.9, 0.5, 0.33, 0.1]
    found = keep_masks(weights, ratios)
    assert all(torch.equal(mask, keep_mask(w, p)) for mask, w, p in zip(found, weights, ratios, strict=True))


def test_tensors_of_several_types_are_ranked_together_in_one_that_holds_them_all() -> None:
    weights = [torch.randn(5).to(dtype) for dtype in (torch.bfloat16, torch.float64, torch.float32)]
    expected = naive_mask(torch.cat([layer.double() for layer in weights]), 0.4)
    assert torch.equal(torch.cat(masks_by("global", weights, 0.4)), expected)


def naive_n_of_m(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Take m neighbours at a time, and let the smallest go one by one, of equal ones the first."""
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    for start in range(0, scores.numel(), m):
        group = scores.flatten()[start : start + m].tolist()
        for place in sorted(range(m), key=lambda place: (group[place], place))[: m - n]:
            mask[start + place] = False
    return mask.view(scores.shape)


@given(n=st.integers(1, 5), more=st.integers(1, 4), rows=st.integers(1, 4), dtype=dtypes, levels=st.integers(1, 9))
def test_n_of_each_m_neighbours_stay(n: int, more: int, rows: int, dtype: torch.dtype, levels: int) -> None:
    m = n + more
    scores = torch.randint(levels, (rows, 3 * m), generator=torch.Generator().manual_seed(levels)).to(dtype)
    assert torch.equal(keep_n_of_m(scores, n, m), naive_n_of_m(scores, n, m))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_have_no_n_largest(value: float) -> None:
    with pytest.raises(NotFiniteError):
        keep_n_of_m(torch.tensor([[1.0, value, 2.0, 3.0]]), 2, 4)


def test_the_last_of_the_largest_stays_alone() -> None:
    assert last_of_largest(torch.tensor([1.0, 3.0, 3.0, 2.0])).tolist() == [False, False, True, False]


def test_the_share_that_pruned_weights_hold_is_of_the_l1_norm() -> None:
    masks = [torch.tensor([True, False]), torch.tensor([False, True, True])]
    weights = [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0, 1.0])]
    assert pruned_share(zip(weights, masks, strict=True)) == 5 / 8
    assert pruned_share([(torch.zeros(2), masks[0])]) == 0


def test_global_scope_may_take_all_of_one_layer_and_nothing_of_another() -> None:
    low, high = torch.full((2, 3), 0.5), torch.full((6,), -2.0)
    masks = masks_by("global", [high, low], 0.5)
    assert masks[0].all() and not masks[1].any()
    assert [mask.shape for mask in masks] == [high.shape, low.shape]


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_rounded_to_bfloat16_keep_the_exact_count(dtype: torch.dtype) -> None:
    weights = (torch.randn(64, 96) * 0.02).to(torch.bfloat16).to(dtype)
    assert weights.abs().unique().numel() < weights.numel() / 2  # they do tie
    for ratio in (0.1, 0.5, 0.9):
        mask = keep_mask(weights, ratio)
        assert int((~mask).sum()) == round(ratio * weights.numel())
        assert torch.equal(mask, naive_mask(weights, ratio))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [0.0, 1.0, 2**-14])
def test_of_equal_magnitudes_the_lower_flat_index_goes(value: float, dtype: torch.dtype) -> None:
    weights = torch.full((3, 4), value, dtype=dtype)
    weights[:, ::2] *= -1
    mask = keep_mask(weights, 0.5)
    assert mask.flatten().tolist() == [False] * 6 + [True] * 6


@pytest.mark.parametrize("dtype", FLOATS)
def test_minus_zero_ties_with_zero(dtype: torch.dtype) -> None:
    weights = torch.tensor([0.0, -0.0, 1.0, -0.0, 0.0, -1.0], dtype=dtype)
    assert keep_mask(weights, 0.5).tolist() == [False, False, True, False, True, True]


@pytest.mark.parametrize("dtype", FLOATS)
def test_extreme_magnitudes_keep_their_order(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    ascending = torch.tensor([0.0, info.smallest_normal / 2, info.smallest_normal, 1.0, info.max], dtype=dtype)
    shuffled = ascending[[3, 0, 4, 2, 1]]
    for pruned in range(5):
        kept = shuffled[keep_mask(-shuffled, pruned / 5)]
        assert kept.sort().values.tolist() == ascending[pruned:].tolist()


@pytest.mark.parametrize(("count", "ratio"), [(5, 0.5), (7, 0.5), (3, 0.1), (10, 0.25), (100, 0.999), (1, 0.5)])
def test_the_count_is_rounded_as_python_rounds(count: int, ratio: float) -> None:
    mask = keep_mask(torch.rand(count), ratio)
    assert int((~mask).sum()) == round(ratio * count)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_tensor_without_entries_has_a_mask_without_entries(scope: str) -> None:
    masks = masks_by(scope, [torch.rand(0, 3), torch.rand(4)], 0.5)
    assert [tuple(mask.shape) for mask in masks] == [(0, 3), (4,)] and int(masks[1].sum()) == 2
    assert keep_mask(torch.rand(0), 0.5).dtype == torch.bool


@pytest.mark.parametrize("ratio", [0, 0.0, 1e-9])
def test_a_ratio_below_half_a_unit_prunes_nothing(ratio: float) -> None:
    mask = keep_mask(torch.rand(4, 5), ratio)
    assert mask.dtype == torch.bool and mask.shape == (4, 5) and mask.all()
    assert all(layer.all() for layer in masks_by("global", [torch.rand(3), torch.rand(2, 2)], ratio))


@pytest.mark.parametrize("ratio", [0.0, 0.4])
@pytest.mark.parametrize(
    "lay_out",
    [lambda t: t.t(), lambda t: t[:, ::3], lambda t: t[1::2], lambda t: t[:, 2], lambda t: t[:1].expand(4, -1)],
    ids=["transposed", "every third column", "every other row", "one column", "expanded"],
)
def test_flat_index_counts_rows_whatever_the_memory_layout(lay_out, ratio: float) -> None:
    weights = lay_out(torch.randint(-4, 5, (6, 9)).float())
    assert torch.equal(keep_mask(weights, ratio), naive_mask(weights.clone(), ratio))
    assert torch.equal(masks_by("global", [weights], ratio)[0], naive_mask(weights.clone(), ratio))


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_are_left_alone(dtype: torch.dtype, scope: str) -> None:
    weights = nn.Parameter(tie_free((9, 7), dtype))
    before = weights.detach().clone()
    (mask,) = masks_by(scope, [weights], 0.5)
    assert not mask.requires_grad
    assert torch.equal(weights, before)
    mask.fill_(False)  # no part of the weights' memory
    assert torch.equal(weights, before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_masks_are_bool_on_the_device_of_the_weights(dtype: torch.dtype, scope: str, device: str) -> None:
    weights = [torch.randint(-4, 5, shape).to(device, dtype) for shape in [(33, 17), (50,), (2, 3, 4)]]
    masks = masks_by(scope, weights, 0.5)
    assert [(mask.dtype, mask.device, mask.shape) for mask in masks] == [
        (torch.bool, weight.device, weight.shape) for weight in weights
    ]
    flat = naive_mask(torch.cat([weight.flatten() for weight in weights]), 0.5)
    expected = flat if scope == "global" else torch.cat([naive_mask(weight, 0.5).flatten() for weight in weights])
    assert torch.equal(torch.cat([mask.flatten() for mask in masks]), expected)


@pytest.fixture(params=[False, True], ids=["", "deterministic"])
def deterministic(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_selection_for_accelerators_equals_that_for_the_cpu(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_worm.core.masks._select_on_cpu", lambda *arguments: _select(*arguments[:3]))
    for weights in (
        tie_free((11, 7), dtype),
        torch.randint(-2, 3, (11, 7)).to(dtype),
        -torch.zeros(11, 7, dtype=dtype),
    ):
        for ratio in (0.0, 0.003, 0.3, 0.5, 0.999):
            assert torch.equal(keep_mask(weights, ratio), naive_mask(weights, ratio))
    for value in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(NotFiniteError):
            keep_mask(torch.tensor([1.0, value, 2.0], dtype=dtype), 0.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_make_no_mask(value: float, dtype: torch.dtype, device: str) -> None:
    weights = tie_free((4, 5), dtype).to(device)
    weights[2, 3] = value
    for ratio in (0.0, 0.5):
        with pytest.raises(NotFiniteError):
            keep_mask(weights, ratio)
        for scope in ("layer", "global"):
            with pytest.raises(NotFiniteError):
                masks_by(scope, [torch.ones(3, dtype=dtype, device=device), weights], ratio)


@pytest.mark.parametrize("device", DEVICES)
def test_more_units_than_torch_quantile_can_take(device: str) -> None:
    count = 2**24 + 8
    weights = torch.rand(count, device=device).to(torch.bfloat16)
    mask = keep_mask(weights, 0.5)
    assert int(mask.count_nonzero()) == count - round(0.5 * count)
    assert weights[mask].min() >= weights[~mask].max()


bool_masks = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@given(shape=bool_masks, seed=seeds)
def test_packing_round_trip(shape: tuple[int, ...], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack(mask)
    back = unpack(packed, shape)
    assert back.dtype == torch.bool and back.shape == mask.shape and torch.equal(back, mask)
    assert packed.dtype == torch.uint8 and packed.device.type == "cpu"
    assert packed.untyped_storage().nbytes() == math.ceil(mask.numel() / 8)  # one bit per unit
    assert count_kept(packed) == int(mask.sum())


def test_a_mask_without_dimensions_packs_too() -> None:
    assert unpack(pack(torch.tensor(True)), ()).tolist() is True


def test_packing_takes_any_layout_and_puts_flat_index_0_in_the_highest_bit() -> None:
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[1, 0] = True
    assert pack(mask).tolist() == [0b00010000, 0]
    assert pack(mask.t()).tolist() == [0b01000000, 0]


@given(shape=bool_masks, seed=seeds)
def test_differences_are_those_of_the_boolean_masks(shape: tuple[int, ...], seed: int) -> None:
    first, second = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert count_differences(pack(first), pack(second)) == int((first != second).sum())
    assert count_differences(pack(first), pack(first)) == 0


@pytest.mark.parametrize(
    ("packed", "shape", "message"),
    [
        (torch.zeros(2, dtype=torch.uint8), (8,), r"of shape \(8,\) is `uint8` of shape \(1,\), got .* shape \(2,\)"),
        (torch.zeros(0, dtype=torch.uint8), (3, 3), r"of shape \(3, 3\) is `uint8` of shape \(2,\), got"),
        (torch.zeros(1, 2, dtype=torch.uint8), (16,), r"got torch.uint8 of shape \(1, 2\)"),
        (torch.zeros(1, dtype=torch.int8), (8,), "got torch.int8"),
        (torch.zeros(1, dtype=torch.bool), (8,), "got torch.bool"),
        (torch.tensor([0b11100001], dtype=torch.uint8), (7,), "bits set past its 7 units"),
        (torch.tensor([255, 255], dtype=torch.uint8), (3, 3), r"of shape \(3, 3\) has bits set past its 9 units"),
    ],
)
def test_what_pack_does_not_make_is_refused(packed: torch.Tensor, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(packed, shape)
