"""Writes the figures of runs into a folder, each whose data there are."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from transformers.trainer import TRAINER_STATE_NAME

from hf_worm.report.figures.curves import accuracy, distances, fading, loss
from hf_worm.report.figures.drawing import Shown, shown
from hf_worm.report.figures.layers import layers
from hf_worm.report.figures.masks import masks
from hf_worm.report.record import Record
from hf_worm.ticket import TICKET_NAME

DPI = 150  # pixels per inch of the files


def write_figures(records: Sequence[Record], folder: Path) -> list[str]:
    """Write the figures whose data there are, each to a file of its own.

    Args:
        records (`Sequence[Record]`): The runs.
        folder (`Path`): Where to; made where it is missing. Only the files named are written over.

    Returns:
        `list[str]`: A line for each: the file, or why it is not there; and which runs it has to do without.

    Raises:
        OSError: The folder or a file can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = shown(records)
    lines = []
    for name, (lacks, draw) in FIGURES.items():
        if draw is fading and not any(record.method.fades for record in records):
            continue  # it is not missing
        drawable = [run for run in runs if not lacks(run.record)]
        reasons = _reasons(runs, lacks)
        if not drawable:
            lines.append(f"no {name}: {' or '.join(reasons)}")
            continue
        write_figure(draw(drawable), folder / name)
        without = "; ".join(f"{', '.join(labels)} ({reason})" for reason, labels in reasons.items())
        lines.append(f"{folder / name}{f', without {without}' if without else ''}")
    return lines


def _reasons(runs: Sequence[Shown], lacks: Callable[[Record], str]) -> dict[str, list[str]]:
    """Group the runs that lack something by what it is."""
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if reason := lacks(run.record):
            reasons.setdefault(reason, []).append(run.label)
    return reasons


def write_figure(figure: Figure, path: Path) -> None:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    path.unlink(missing_ok=True)  # or what a link leads to would be written over
    path.write_bytes(file.getvalue())


def _no_distances(record: Record) -> str:
    return (
        "" if any(observation.distances for observation in record.observations) else "a distance takes two observations"
    )


def _no_fading(record: Record) -> str:
    return "" if any(observation.doomed_share is not None for observation in record.observations) else "nothing faded"


def _no_loss(record: Record) -> str:
    if record.losses():
        return ""
    return "no training loss was logged (see `logging_steps`)" if record.log else f"no `{TRAINER_STATE_NAME}`"


def _no_layers(record: Record) -> str:
    return "" if record.layers else "no masks"


def _no_masks(record: Record) -> str:
    return "" if record.masks else f"no `{TICKET_NAME}`"


def _no_evaluations(record: Record) -> str:
    names = record.metric_names
    return "" if names and record.evaluations(names[0]) else "no evaluation is on record"


# By file: what a run lacks for it, in words, and what draws it.
FIGURES: dict[str, tuple[Callable[[Record], str], Callable[[Sequence[Shown]], Figure]]] = {
    "distances.png": (_no_distances, distances),
    "fading.png": (_no_fading, fading),
    "loss.png": (_no_loss, loss),
    "layers.png": (_no_layers, layers),
    "masks.png": (_no_masks, masks),
    "accuracy.png": (_no_evaluations, accuracy),
}
