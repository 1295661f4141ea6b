"""A budget is filled with the units of the largest scores, of one kind or two; each layer keeps its best."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_worm.core.budget import Steps, fill, in_each, largest, over_all

Layers = list[torch.Tensor]


def layers(*sizes: int, seed: int = 0) -> Layers:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(size, generator=generator, dtype=torch.float64) for size in sizes]


def gain(scores: Layers, counts: list[int]) -> float:
    return sum(
        float(layer.sort(descending=True).values[:count].sum()) for layer, count in zip(scores, counts, strict=True)
    )


@given(
    seed=st.integers(0, 1000),
    heads=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    neurons=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    share=st.floats(0.0, 1.0),
)
def test_no_other_number_of_heads_and_neurons_is_worth_more(
    seed: int, heads: list[int], neurons: list[int], share: float
) -> None:
    """Against all combinations of one number of heads and one of neurons, the best of either kind (Kwon et al.)."""
    kinds = (layers(*heads, seed=seed), 7.0), (layers(*neurons, seed=seed + 1), 2.0)
    least = 7 * len(heads) + 2 * len(neurons)
    budget = least + share * (7 * sum(heads) + 2 * sum(neurons) - least)
    steps = [over_all(scores, [cost] * len(scores)) for scores, cost in kinds]
    found = fill(steps, budget)
    assert found is not None
    spent = sum(cost * sum(counts) for (_, cost), counts in zip(kinds, found, strict=True))
    worth = sum(gain(scores, counts) for (scores, _), counts in zip(kinds, found, strict=True))
    best = max(
        float(first.gains + second.gains)
        for first, second in product(*(map(Steps._make, zip(*one, strict=True)) for one in steps))
        if first.costs + second.costs <= budget
    )
    assert spent <= budget
    assert worth == pytest.approx(best)
    assert all(min(counts) >= 1 for counts in found)


@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3), share=st.floats(0.0, 1.0))
def test_of_one_kind_the_best_stay_over_all_layers(seed: int, sizes: list[int], share: float) -> None:
    scores = layers(*sizes, seed=seed)
    budget = len(sizes) + share * (sum(sizes) - len(sizes))
    found = fill([over_all(scores, [1.0] * len(sizes))], budget)
    assert found is not None
    choices = [counts for counts in product(*(range(1, size + 1) for size in sizes)) if sum(counts) <= budget]
    assert gain(scores, found[0]) == pytest.approx(max(gain(scores, list(counts)) for counts in choices))


def test_dearer_units_have_to_be_worth_it() -> None:
    cheap, dear = torch.tensor([1.0, 0.5, 0.4]), torch.tensor([3.0, 0.6])
    assert fill([over_all([cheap, dear], [1.0, 2.0])], 5.0) == [[3, 1]]
    assert fill([over_all([cheap, dear], [1.0, 1.0])], 4.0) == [[2, 2]]


def test_each_layer_loses_the_same_share() -> None:
    counts = in_each(layers(2, 4, 8), [1.0] * 3).counts.tolist()
    assert counts[0] == [1, 1, 1]
    assert counts[3] == [1, 2, 4]
    assert counts[-1] == [2, 4, 8]


def test_layers_of_the_same_width_stay_so() -> None:
    found = fill([in_each(layers(6, 6), [5.0] * 2), in_each(layers(16, 16, seed=1), [2.0] * 2)], 70.0)
    assert found is not None
    assert all(len(set(counts)) == 1 for counts in found)


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("steps_of", [over_all, in_each])
def test_too_small_a_budget_fills_nothing(kinds: int, steps_of: object) -> None:
    assert callable(steps_of)
    steps = [steps_of(layers(3, 4), [2.0, 2.0])] * kinds
    assert fill(steps, 4.0 * kinds - 0.5) is None
    assert fill(steps, 4.0 * kinds) == [[1, 1]] * kinds


def test_of_equal_scores_the_lower_index_goes_first() -> None:
    assert largest(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 3).tolist() == [False, True, False, True, True]
    assert fill([over_all([torch.ones(2), torch.ones(2)], [1.0, 1.0])], 3.0) == [[1, 2]]
