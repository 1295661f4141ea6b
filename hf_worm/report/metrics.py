"""Names of the evaluations around the draw, and which values of an evaluation are metrics."""

from collections.abc import Iterable, Mapping
from typing import Any

# The three evaluations of a run, in their order, and the phase that ends with each.
STAGES = {"before_draw": "before the draw", "drawn": "drawn", "retrained": "retrained"}
ENDS = {"before_draw": "search", "drawn": "draw", "retrained": "retrain"}
# Ends of the names of what the Trainer adds to an evaluation.
NOT_METRICS = ("_runtime", "_per_second", "_preparation_time", "_alloc_delta", "_peaked_delta")


def is_number(value: Any) -> bool:
    """Tell numbers from the other values that a metric may have."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep the values that are numbers."""
    return {name: value for name, value in values.items() if is_number(value)}


def metric_names(evaluations: Iterable[Iterable[str]]) -> list[str]:
    """List the names of all metrics of some evaluations, in their order, but the losses last."""
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation))
    return sorted(names, key=lambda name: name.endswith("loss"))
