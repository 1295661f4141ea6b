"""Finds how much of a model has to go for it to be as fast as was asked."""

import copy
import statistics
from typing import NamedTuple

from torch import nn

from hf_worm.core.random_states import random_states_kept
from hf_worm.report.speed import LARGE_BATCH, Batch, counts, forward, race, repeated
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket

LIMIT = 1.25  # times the multiply-adds that were asked for, at the most
TRIES = 4
ROUNDS, SECONDS = 7, 4.0  # of a try, as for [`race`]
MARGIN = 1.05  # of the speed that is aimed at after a try that missed it
CLOSE = 1.1  # times what was asked for: near enough


class Gain(NamedTuple):
    """Speed of a smaller model, relative to the dense one.

    Args:
        multiply_adds (`float`): How many times fewer multiply-adds its forward pass has.
        measured (`float`, *optional*): How many times faster its forward pass of 32 rows is: the median over rounds in
            which both models take their turn. `None` where it was not timed.
    """

    multiply_adds: float
    measured: float | None = None

    def as_dict(self) -> dict[str, float]:
        """Return the numbers that there are, JSON-ready."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def gain(model: nn.Module, ticket: Ticket, batch: Batch, timed: bool = True) -> Gain:
    """Measure what cutting a ticket's units out of a copy of the model would gain.

    Args:
        model (`nn.Module`): The model, which stays as it is.
        ticket (`Ticket`): Of neurons and heads.
        batch (`Mapping[str, Any]`): What the model is called with; repeated as needed.
        timed (`bool`, *optional*, defaults to `True`): Whether to time it as well.
    """
    drawn = copy.deepcopy(model)
    ticket.apply_(drawn)
    models = {"dense": copy.deepcopy(model), "compact": ticket.compact(drawn)}
    with random_states_kept():
        size = [counts(one, repeated(batch, 1))["multiply_adds"] for one in models.values()]
        times = race(models, repeated(batch, LARGE_BATCH), forward, ROUNDS, SECONDS) if timed else None
    faster = None if times is None else [one / other for one, other in zip(*times.values(), strict=True)]
    return Gain(size[0] / size[1], None if faster is None else statistics.median(faster))


def fit(search: TicketSearch, model: nn.Module, batch: Batch, asked: float, timed: bool) -> tuple[float, Gain]:
    """Find the factor by which weights of projections have to become fewer for a speed to be what was asked.

    Products of queries and keys have no weights, so that multiply-adds fall by less or by more; and what is no product
    of matrices stays as slow as it was, so that time falls by less. After each try the next factor is found on the line
    through the dense model and that try.

    Args:
        search (`TicketSearch`): The search, whose scores make the tickets.
        model, batch: As for [`gain`].
        asked (`float`): The speed, above 1.
        timed (`bool`): Whether the measured time is to be so many times shorter, beside multiply-adds.

    Returns:
        `tuple[float, Gain]`: The factor, a quarter above `asked` at the most, and what it gains.
    """
    factor, best = asked, None
    for _ in range(TRIES):
        try:
            (ticket,) = search.tickets(speedups=[factor])
        except ValueError:
            if best is None:
                raise
            break  # no more can be had
        found = gain(model, ticket, batch, timed)
        slowest = min(found.as_dict().values())
        if best is None or _is_better(slowest, factor, best, asked):
            best = factor, found
        if asked <= slowest <= CLOSE * asked or slowest <= 1 or (slowest < asked and factor == LIMIT * asked):
            break
        saved = (1 - 1 / slowest) / (1 - 1 / factor)  # share of the cost that goes with all weights
        share = (1 - 1 / (asked * MARGIN)) / saved
        following = LIMIT * asked if share >= 1 else min(1 / (1 - share), LIMIT * asked)
        if (slowest < asked) != (following > factor):
            break  # units are too large for a step in between
        factor = following
    assert best is not None  # or the first try has raised
    return best


def _is_better(slowest: float, factor: float, best: tuple[float, Gain], asked: float) -> bool:
    """True if a try reaches what was asked for with less than the best has lost, or comes nearer to it."""
    reached = min(best[1].as_dict().values())
    if slowest >= asked:
        return reached < asked or factor < best[0]
    return reached < slowest
