"""Metrics of evaluations and trainings: names around the draw, which values are metrics, and sums of two trainings."""

from collections.abc import Iterable, Mapping, Sequence
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


def stage_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Keep the metrics of an evaluation that are numbers, under names without `eval_`."""
    evaluated = {name: value for name, value in metrics.items() if name.startswith("eval_")}
    return {
        name.removeprefix("eval_"): value
        for name, value in numbers(evaluated).items()
        if not name.endswith(NOT_METRICS)
    }


def rename_(metrics: dict[str, float], old: str, new: str) -> None:
    """Give the metrics whose names begin with `old` names that begin with `new`, in place and in their order."""
    renamed = {new + name.removeprefix(old) if name.startswith(old) else name: metrics[name] for name in metrics}
    metrics.clear()
    metrics.update(renamed)


def sum_trainings(first: Mapping[str, float], second: Mapping[str, float], steps: Sequence[int]) -> dict[str, float]:
    """Join the summaries of two trainings of a run: the sum of their times, and means over all steps.

    Args:
        first, second (`Mapping[str, float]`): What a Trainer logs at the end of each: `train_loss`, `train_runtime`.
        steps (`Sequence[int]`): Optimizer steps of each.
    """
    both, metrics = (first, second), dict(second)
    metrics["train_runtime"] = runtime = sum(one["train_runtime"] for one in both)
    for name in ("train_samples_per_second", "train_steps_per_second"):
        if all(name in one for one in both):
            metrics[name] = round(sum(one[name] * one["train_runtime"] for one in both) / runtime, 3)
    losses = (one["train_loss"] * count for one, count in zip(both, steps, strict=True))
    return {**metrics, "train_loss": sum(losses) / max(sum(steps), 1)}
