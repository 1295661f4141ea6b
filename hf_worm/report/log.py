"""Reads a Trainer's `log_history`: metrics, and the phase of each entry."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hf_worm.report.metrics import NOT_METRICS, STAGES, is_number, metric_names, numbers

Entry = dict[str, Any]


def logged_metrics(log: Iterable[Entry]) -> list[str]:
    """List the metrics of all evaluations by their plain names, those around the draw left out."""
    around_the_draw = tuple(f"eval_{stage}_" for stage in STAGES)
    return metric_names(
        [
            name.removeprefix("eval_")
            for name in entry
            if name.startswith("eval_") and not name.startswith(around_the_draw) and not name.endswith(NOT_METRICS)
        ]
        for entry in log
    )


def evaluated(entry: Entry, names: Sequence[str]) -> dict[str, float]:
    """Pick some metrics out of an entry, as far as it has them."""
    return numbers({name: entry.get(f"eval_{name}") for name in names})


def losses(entries: Iterable[Entry]) -> list[tuple[int, float]]:
    """List optimizer step and training loss (the mean since the one before) of the entries that have one."""
    return [(entry["step"], entry["loss"]) for entry in entries if is_number(entry.get("loss"))]


def in_phases(log: Iterable[Entry], searched: float) -> Iterator[tuple[str, Entry, bool]]:
    """Yield each entry with its phase, and whether the training of that phase was over by then.

    An evaluation after the training (of the result, or because a script asks for it) may be of other weights than the
    last epoch's: drawn, or the best. A training is over with its summary; the search, which need not have one of its
    own, with the evaluation before the draw too.

    Args:
        log (`Iterable[dict]`): The entries.
        searched (`float`): Optimizer steps of the search.
    """
    over = {"search": False, "retrain": False}
    for entry in log:
        phase = "search" if entry["step"] <= searched else "retrain"
        over[phase] |= _is_summary(entry) or (phase == "search" and _is_before_draw(entry))
        yield phase, entry, over[phase]


def began_anew(log: Iterable[Entry], searched: float) -> bool:
    """Tell whether the retraining was a training of its own, whose epochs began with it: a run of 0.1.0.

    The log then has a summary at the end of the search too. Since then a run has one, at its end.

    Args:
        log (`Iterable[dict]`): The entries.
        searched (`float`): Optimizer steps of the search.
    """
    entries = list(log)
    return any(_is_summary(entry) and entry["step"] <= searched < entries[-1]["step"] for entry in entries)


def _is_summary(entry: Entry) -> bool:
    return "train_loss" in entry


def _is_before_draw(entry: Entry) -> bool:
    return any(name.startswith("eval_before_draw_") for name in entry)
