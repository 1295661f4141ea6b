"""The tickets of several speeds from one search, each evaluated as it would be drawn."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hf_worm.files import replace_file
from hf_worm.report.trade_off import TRADE_OFF_FIGURE, TRADE_OFF_NAME, Point
from hf_worm.report.worm_report import report_json
from hf_worm.run import Run
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket
from hf_worm.trainer import compat
from hf_worm.trainer.cutting import fitted_speedup, measured_gain

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin

logger = logging.getLogger(__name__)


def trade_off(trainer: "WormTrainerMixin", run: Run, speedups: Sequence[float]) -> list[Point]:
    """Evaluate and measure what several tickets would be, and write the curve into the run's folder.

    The first process measures, and writes; the points of others have no measured speed.

    Args:
        trainer (`WormTrainerMixin`): The trainer; its weights are as before afterwards, bit for bit.
        run (`Run`): Its run, whose search has observed something.
        speedups (`Sequence[float]`): Above 1.

    Returns:
        `list[Point]`: First the model as it is.
    """
    search = run.searched
    search.require_speedups(speedups)  # before anything is evaluated
    points = [Point(1.0, 1.0, 1.0, _kept(search, None), trainer.evaluate_stage("before_draw") or {})]
    for speedup in sorted(speedups):
        factor, gained = fitted_speedup(trainer, run, speedup)
        (ticket,) = search.tickets(speedups=[factor])
        with _pruned(search, ticket):
            metrics = trainer.evaluate_stage(f"speedup_{speedup:g}") or {}
        if gained is None or gained.measured is None:  # multiply-adds alone were counted
            gained = measured_gain(trainer, ticket) or gained
        reached, measured = (factor, None) if gained is None else gained
        points.append(Point(speedup, reached, measured, _kept(search, ticket), metrics))
    if trainer.is_world_process_zero():
        folder = Path(compat.run_folder(trainer))
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / TRADE_OFF_NAME, report_json([point.as_dict() for point in points]))
        _draw(points, folder / TRADE_OFF_FIGURE)
    return points


def _draw(points: Sequence[Point], path: Path) -> None:
    """Draw the curve, where matplotlib is installed."""
    if find_spec("matplotlib") is None:
        logger.info("The curve is not drawn: that takes matplotlib, `pip install matplotlib`.")
        return
    from hf_worm.report.figures.trade_off import write_trade_off

    write_trade_off(points, path)


@contextmanager
def _pruned(search: TicketSearch, ticket: Ticket) -> Iterator[None]:
    """Set what a ticket prunes to 0, and put the weights back."""
    weights = {view.parameter: view.parameter.data.clone() for layer in search.layers for view in layer.views}
    try:
        for layer in search.layers:
            layer.zero_(ticket.masks[layer.name])
        yield
    finally:
        for parameter, weight in weights.items():
            parameter.data.copy_(weight)


def _kept(search: TicketSearch, ticket: Ticket | None) -> dict[str, float]:
    """The share of units that stay, by kind."""
    found: dict[str, list[int]] = {}
    for layer in search.layers:
        units = layer.shape.numel()
        kept = units if ticket is None else int(ticket.masks[layer.name].count_nonzero())
        whole = found.setdefault(layer.granularity, [0, 0])
        whole[0], whole[1] = whole[0] + kept, whole[1] + units
    return {kind: kept / units for kind, (kept, units) in found.items()}
