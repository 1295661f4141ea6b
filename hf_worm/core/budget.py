"""Fill a budget with units of several kinds: the largest sum of scores wins (Kwon et al., arXiv:2204.09656).

All units of one kind and layer cost the same. Of each layer the best unit always stays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Steps(NamedTuple):
    """Choices of the units of one kind that stay, from the fewest to all of them.

    Args:
        costs (`torch.Tensor`): `float64` of shape `(steps,)`, ascending: the cost of the units that stay.
        gains (`torch.Tensor`): `float64` of shape `(steps,)`: the sum of their scores.
        counts (`torch.Tensor`): `int64` of shape `(steps, layers)`: how many units of each layer stay.
    """

    costs: torch.Tensor
    gains: torch.Tensor
    counts: torch.Tensor


def over_all(scores: Sequence[torch.Tensor], costs: Sequence[float]) -> Steps:
    """Let the units go by their score for each cost, over all layers together.

    Args:
        scores (`Sequence[torch.Tensor]`): For each layer, of shape `(units,)`.
        costs (`Sequence[float]`): Of one unit of each layer.
    """
    ranked = [_ranked(layer) for layer in scores]
    places = torch.cat([torch.full((len(layer) - 1,), place) for place, layer in enumerate(ranked)])
    values = torch.cat([layer[1:] for layer in ranked])
    prices = torch.tensor(costs, dtype=torch.float64)
    order = _descending(values / prices[places])
    first_cost, first_gain = prices.sum(), torch.stack([layer[0] for layer in ranked]).sum()
    added = torch.zeros(len(order) + 1, len(ranked), dtype=torch.int64)
    added[torch.arange(1, len(order) + 1), places[order]] = 1
    return Steps(
        costs=first_cost + _from_zero(prices[places[order]]),
        gains=first_gain + _from_zero(values[order]),
        counts=1 + added.cumsum(0),
    )


def in_each(scores: Sequence[torch.Tensor], costs: Sequence[float]) -> Steps:
    """Let the same share of each layer's units go.

    Args:
        scores, costs: As for [`over_all`].
    """
    sizes = torch.tensor([len(layer) for layer in scores])
    widest = int(sizes.max())
    counts = (torch.arange(1, widest + 1)[:, None] * sizes // widest).clamp(min=1)
    gains = [_ranked(layer).cumsum(0)[counts[:, place] - 1] for place, layer in enumerate(scores)]
    return Steps(counts.double() @ torch.tensor(costs, dtype=torch.float64), torch.stack(gains).sum(0), counts)


def fill(kinds: Sequence[Steps], budget: float) -> list[list[int]] | None:
    """Choose a step of each of one or two kinds: the largest sum of scores that the budget allows.

    Args:
        kinds (`Sequence[Steps]`): What may stay of each kind.
        budget (`float`): What it may cost in all.

    Returns:
        `list[list[int]]`: For each kind, how many units of each layer stay; `None` if the budget is too small.
    """
    first, *others = kinds
    left = budget - first.costs
    if not others:
        reached = int((left >= 0).sum()) - 1
        return None if reached < 0 else [first.counts[reached].tolist()]
    (second,) = others
    reached_by_step = torch.searchsorted(second.costs, left, right=True) - 1  # for each step of the first
    gains = first.gains + second.gains[reached_by_step.clamp(min=0)]
    gains[reached_by_step < 0] = -torch.inf
    best = int(gains.argmax())
    if reached_by_step[best] < 0:
        return None
    return [first.counts[best].tolist(), second.counts[reached_by_step[best]].tolist()]


def largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The mask of the units that stay when so many of the largest scores do; of equal ones the lower index goes first.

    Args:
        scores (`torch.Tensor`): Of shape `(units,)`.
        count (`int`): How many stay.
    """
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[_descending(scores)[:count]] = True
    return mask


def _ranked(scores: torch.Tensor) -> torch.Tensor:
    return scores.double().sort(descending=True).values


def _descending(values: torch.Tensor) -> torch.Tensor:
    """Indices from the largest value to the smallest; of equal ones the last comes first."""
    return len(values) - 1 - values.flip(0).sort(descending=True, stable=True).indices


def _from_zero(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([values.new_zeros(1), values.cumsum(0)])
