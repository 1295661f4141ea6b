"""Finds how many multiply-adds have to go for a model to be measured as fast as was asked."""

import copy
import statistics
from typing import NamedTuple

from torch import nn

from hf_worm.report.speed import LARGE_BATCH, Batch, counts, forward, race, repeated
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket

LIMIT = 1.25  # times the multiply-adds that were asked for, at the most
TRIES = 3
MARGIN = 1.02  # of the speed that is aimed at after a try that missed it


class Gain(NamedTuple):
    """What a smaller model gains.

    Args:
        multiply_adds (`float`): How many times fewer multiply-adds its forward pass has.
        measured (`float`): How many times faster its forward pass of 32 rows is: the median over rounds in which both
            models take their turn.
    """

    multiply_adds: float
    measured: float


def gain(model: nn.Module, ticket: Ticket, batch: Batch) -> Gain:
    """Measure what cutting a ticket's units out of a copy of the model would gain.

    Args:
        model (`nn.Module`): The model, which stays as it is.
        ticket (`Ticket`): Of neurons and heads.
        batch (`Mapping[str, Any]`): What the model is called with; repeated as needed.
    """
    dense, drawn = copy.deepcopy(model), copy.deepcopy(model)
    ticket.apply_(drawn)
    models = {"dense": dense, "compact": ticket.compact(drawn)}
    size = [counts(one, repeated(batch, 1))["multiply_adds"] for one in models.values()]
    times = race(models, repeated(batch, LARGE_BATCH), forward)
    return Gain(
        multiply_adds=size[0] / size[1],
        measured=statistics.median(one / other for one, other in zip(times["dense"], times["compact"], strict=True)),
    )


def fit(search: TicketSearch, model: nn.Module, batch: Batch, asked: float) -> tuple[float, Gain]:
    """Find the factor by which multiply-adds have to fall for the measured speed to be what was asked.

    What is no product of matrices stays as slow as it was, so that time falls by less than multiply-adds. After each
    try the next factor is found on the line through the dense model and that try.

    Args:
        search (`TicketSearch`): The search, whose scores make the tickets.
        model, batch: As for [`gain`].
        asked (`float`): The speed, above 1.

    Returns:
        `tuple[float, Gain]`: The factor, from `asked` to a quarter more, and what it gains.
    """
    factor = asked
    for _ in range(TRIES):
        (ticket,) = search.tickets(speedups=[factor])
        found = gain(model, ticket, batch)
        if found.measured >= asked or found.measured <= 1 or factor == LIMIT * asked:
            break
        saved = (1 - 1 / found.measured) / (1 - 1 / factor)  # share of the time that goes with all multiply-adds
        share = (1 - 1 / (asked * MARGIN)) / saved
        factor = max(factor, LIMIT * asked if share >= 1 else min(1 / (1 - share), LIMIT * asked))
    return factor, found
