"""The curve of quality against speed: what several tickets of one search would be as they are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_worm.report.layout import Table
from hf_worm.report.metrics import metric_names
from hf_worm.report.text import number, percent

TRADE_OFF_NAME, TRADE_OFF_FIGURE = "worm_trade_off.json", "worm_trade_off.png"
NOTE = (
    "Each as it would be drawn, without retraining. Measured: median time of a forward pass of the dense model by "
    "that of the smaller one, on the machine that trained, with rows of its data."
)


@dataclass(frozen=True)
class Point:
    """A ticket that could be drawn.

    Args:
        speedup (`float`): What was asked for; 1 is the model without pruning.
        multiply_adds (`float`): How many times fewer the smaller model has.
        measured (`float`, *optional*): How many times faster it is; `None` where it was not measured.
        kept (`dict[str, float]`): Share of the units that stay, by kind.
        metrics (`dict[str, float]`): Of the evaluation; empty where there is nothing to evaluate on.
    """

    speedup: float
    multiply_adds: float
    measured: float | None
    kept: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def trade_off_table(points: Sequence[Point]) -> Table:
    """Tabulate the points: a row for each speed that was asked for."""
    kinds = list(dict.fromkeys(kind for point in points for kind in point.kept))
    names = metric_names([point.metrics for point in points])
    head = ["speedup", "multiply-adds", "measured", *(f"{kind}s kept" for kind in kinds), *names]
    rows = [
        [
            "dense" if point.speedup == 1 else f"{point.speedup:g}×",
            f"{point.multiply_adds:.2f}×",
            "-" if point.measured is None else f"{point.measured:.2f}×",
            *(percent(point.kept.get(kind, 1.0)) for kind in kinds),
            *(number(point.metrics.get(name)) for name in names),
        ]
        for point in points
    ]
    return Table(head, rows)
