"""One run as text: plain, aligned, within 100 columns; and the table that a run ends with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any

from hf_worm.report import tables
from hf_worm.report.layout import paragraph, section
from hf_worm.report.reading import record_of
from hf_worm.report.record import Record
from hf_worm.report.sentences import effect, gains, method_line, pruned, speed_line, status
from hf_worm.report.text import shared_ends, short_names, shortened
from hf_worm.report.trade_off import NOTE, TRADE_OFF_FIGURE, TRADE_OFF_NAME, Point, trade_off_table
from hf_worm.report.worm_report import REPORT_NAME

NAME = 44  # characters of a layer's name, at the most
METRICS = 50  # characters of a row of metrics, at the most
BAR = 20  # characters of a bar that stands for all units of a layer


def result_table(report: Mapping[str, Any]) -> str:
    """Write what a run that pruned ends with: metrics, epochs, seconds, sparsity.

    Args:
        report (`Mapping[str, Any]`): The content of `worm_report.json`.
    """
    record = record_of(report)
    lines = [
        method_line(record),
        *tables.stages(record, record.metric_names).lines(),
        pruned(record),
        *cost_lines(record),
        *wrap(effect(record), 120),
    ]
    return "\n".join(lines)


def trade_off_text(points: Sequence[Point], folder: str) -> str:
    """Write the curve of quality against speed, and how to draw one of its tickets.

    Args:
        points (`Sequence[Point]`): The curve.
        folder (`str`): The run's.
    """
    lines = [*trade_off_table(points).lines(), *paragraph(NOTE)]
    then = (
        "To draw one and train it: the same command with `--speedup`, such as "
        f"`--speedup {points[-1].speedup:g} --resume_from_checkpoint last`, in place of `--trade_off`. The curve is in "
        f"{folder}/{TRADE_OFF_NAME}, and drawn in {TRADE_OFF_FIGURE} where there are metrics."
    )
    return "\n".join([*lines, *paragraph(then)])


def plain_table(
    title: str, metrics: Mapping[str, float], epochs: float | None = None, seconds: float | None = None
) -> str:
    """Write what a run without pruning, or without training, ends with.

    Args:
        title (`str`): What was done.
        metrics (`Mapping[str, float]`): The metrics by their plain names.
        epochs (`float`, *optional*): Epochs of training, if there was training.
        seconds (`float`, *optional*): Its wall-clock seconds.
    """
    table = tables.evaluation(title, metrics, epochs, seconds)
    return "\n".join(["Nothing trained" if epochs is None else "Nothing pruned", *table.lines()])


def run_text(record: Record) -> str:
    """Write all that is known of a run."""
    return "\n".join(
        [
            *title_lines(record),
            *section("Result", _result(record)),
            *section("Settings", _settings(record)),
            *section(f"Observations: {tables.observation_title(record)}", _observations(record)),
            *section("Training and evaluation", _training(record)),
            *section("Pruned of each layer", _layers(record)),
            *section("Account", [*paragraph(pruned(record)), *paragraph(effect(record))]),
            *section("Size and time", cost_lines(record)),
            *section("Not here", note_lines(record)),
        ]
    )


def title_lines(record: Record) -> list[str]:
    """Write where the run is, and how far it is."""
    return [record.path, *paragraph(status(record))]


def method_lines(record: Record) -> list[str]:
    """Write the method and the outcome of the search; nothing of a dense run."""
    return [] if record.status == "dense" else paragraph(method_line(record))


def note_lines(record: Record) -> list[str]:
    """Write what is missing, and what was passed over."""
    return [line for note in record.notes for line in paragraph(note)]


def cost_lines(record: Record) -> list[str]:
    """Write what speed was asked for, sizes and median times, and what was gained, as far as it was measured."""
    asked = [] if record.speed is None else paragraph(speed_line(record.speed))
    if record.costs is None:
        return asked
    return [*asked, *tables.costs(record.costs, spread=False).lines(), *paragraph(gains(record.costs))]


def short_layers(names: Iterable[str]) -> list[str]:
    """Shorten names of layers by what they share; of those that are still too long, keep the end."""
    return [shortened(name, NAME) for name in short_names(list(names), ".")]


def shared_names(names: Iterable[str]) -> list[str]:
    """Name the ends that [`short_layers`] cuts off all names."""
    ends = [f"`{end}`" for end in shared_ends(list(names), ".") if end]
    return paragraph(f"Names without {' and '.join(ends)}.") if ends else []


def _result(record: Record) -> list[str]:
    if record.status == "dense":
        training = record.phases["search"]
        lasted = training["epochs"], training.get("seconds")
        return plain_table("fine-tuned", record.last_evaluation(), *lasted).splitlines()
    names, more = _fitting_metrics(record)
    table = tables.stages(record, names).lines() if record.phases else []
    others = paragraph(f"More metrics, in `{REPORT_NAME}`: {', '.join(more)}.") if more else []
    return [*method_lines(record), *table, *others]


def _settings(record: Record) -> list[str]:
    return [] if record.status == "dense" else paragraph(", ".join(tables.settings(record)))


def _fitting_metrics(record: Record) -> tuple[list[str], list[str]]:
    """Part the names of the metrics into those that fit into a row, the first in any case, and the others."""
    names, width = record.metric_names, 0
    for place, name in enumerate(names):
        width += max(len(name), 6) + 2
        if place and width > METRICS:
            return names[:place], names[place:]
    return names, []


def _observations(record: Record) -> list[str]:
    if not record.observations:
        return []
    return [*tables.observations(record).lines(), *tables.observation_notes(record)]


def _training(record: Record) -> list[str]:
    table = tables.training(record, _fitting_metrics(record)[0])
    return table.lines() if table.rows else []


def _layers(record: Record) -> list[str]:
    if not record.layers:
        return []
    table = tables.layers(record, short_layers(record.layers))
    bars = [round(share * BAR) for share in record.layers.values()]
    rows = [[*row, "#" * bar + "." * (BAR - bar)] for row, bar in zip(table.rows, bars, strict=True)]
    newest = [] if record.drawn else ["By the newest mask: nothing is pruned before the draw."]
    return [*newest, *shared_names(record.layers), *replace(table, rows=rows).lines(head=False)]
