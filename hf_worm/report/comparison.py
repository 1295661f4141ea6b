"""Several runs side by side as text: a column for each, and as many tables one under another as 100 columns ask for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Literal

from hf_worm.report.account import STAGES, number
from hf_worm.report.record import Epoch, Record, shortened
from hf_worm.report.table import aligned
from hf_worm.report.terminal import (
    INDENT,
    PHASES,
    WIDTH,
    honest_note,
    left_out,
    method_lines,
    note_lines,
    paragraph,
    phase_title,
    pruned_lines,
    section,
    short_layers,
    title_lines,
)


def comparison_text(records: Sequence[Record]) -> str:
    """All that is known of several runs, which are numbered from 1."""
    notes = dict.fromkeys(line for record in records for line in honest_note(record))
    return "\n".join(
        [
            *_numbered(records, _head),
            *section("Result", _result(records)),
            *section("Settings", _settings(records)),
            *section("Max distance at each observation (* converged)", _distances(records, "max")),
            *section("Mean distance at each observation (* truncating, or fading)", _distances(records, "mean")),
            *section("Doomed weights' share of the L1 norm at each observation", _doomed(records)),
            *section("Training loss, mean of each epoch", _epochs(records, lambda record, seen: seen.loss)),
            *section("Evaluation in each epoch, the metric as above", _epochs(records, _first_metric)),
            *section("Pruned of each layer, or to be pruned by the newest mask", _layers(records)),
            *section("Account", [*_numbered(records, pruned_lines), *notes]),
            *section("Not here", _numbered(records, note_lines)),
        ]
    )


def _heads(records: Sequence[Record]) -> list[str]:
    return [f"[{place}]" for place in range(1, len(records) + 1)]


def _numbered(records: Sequence[Record], lines: Callable[[Record], list[str]]) -> list[str]:
    """Lines about each run, the first of them after its number."""
    return [
        f"{head if place == 0 else '':<{len(head)}} {line}"
        for head, record in zip(_heads(records), records, strict=True)
        for place, line in enumerate(lines(record))
    ]


def _side_by_side(first: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    """Lines of tables with the same first column and as many of the others as fit, one table under another.

    Args:
        first (`Sequence[str]`): The first column, its head included.
        columns (`Sequence[Sequence[str]]`): The others, each of the same length.
    """
    lines: list[str] = []
    start = 0
    while start < len(columns):
        end = start + 1
        while end < len(columns) and _width([first, *columns[start : end + 1]]) <= WIDTH - len(INDENT):
            end += 1
        lines += [*([""] if lines else []), *aligned(list(zip(first, *columns[start:end], strict=True)))]
        start = end
    return lines


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


def _head(record: Record) -> list[str]:
    return [*title_lines(record), *method_lines(record)]


def _result(records: Sequence[Record]) -> list[str]:
    rows = [["", "metric", "before", "drawn", "retrained", "search epochs", "seconds", "pruned", "of model"]]
    for head, record in zip(_heads(records), records, strict=True):
        metric = record.metric_names[0] if record.metric_names else ""
        metrics = {"before_draw": record.last_evaluation()} if record.status == "dense" else record.metrics
        stages = [number(metrics.get(stage, {}).get(metric)) or "-" for stage in STAGES]
        seconds = sum(phase.get("seconds", 0) for phase in record.phases.values())
        shares = ["-", "-"]
        if record.account is not None:
            shares = [f"{record.account[name]:.1%}" for name in ("share_of_representative", "share_of_model")]
        epochs = number(record.phases.get("search", {}).get("epochs"), 2) or "-"  # of a dense run, all
        rows.append(
            [head, shortened(metric, 20) or "-", *stages, epochs, number(seconds, 1) if seconds else "-", *shares]
        )
    return aligned(rows)


def _settings(records: Sequence[Record]) -> list[str]:
    """Those that differ in a table, the others in a line; a dense run has none."""
    settings = {
        head: {name: shortened(repr(value), 40) for name, value in asdict(record.config).items()}
        for head, record in zip(_heads(records), records, strict=True)
        if record.status != "dense"
    }
    if not settings:
        return []
    first = next(iter(settings.values()))
    differing = [name for name in first if len({values[name] for values in settings.values()}) > 1]
    columns = [[head, *(values[name] for name in differing)] for head, values in settings.items()]
    same = ", ".join(f"{name}={value}" for name, value in first.items() if name not in differing)
    table = _side_by_side(["", *differing], columns) if differing else []
    return [*table, *paragraph(f"{'The same in all' if differing else 'All the same'}: {same}")]


def _distances(records: Sequence[Record], which: Literal["max", "mean"]) -> list[str]:
    most = max(len(record.observations) for record in records)
    columns = []
    for head, record in zip(_heads(records), records, strict=True):
        if record.status == "dense":
            continue
        column = [head]
        for seen in record.observations:
            value = seen.max_distance if which == "max" else seen.mean_distance
            marked = seen.converged if which == "max" else seen.truncating and record.config.truncates
            column.append((number(value, 5) or "-") + ("*" if marked else " "))
        columns.append(column + [""] * (most + 1 - len(column)))
    return _side_by_side(["", *map(str, range(1, most + 1))], columns) if most else []


def _doomed(records: Sequence[Record]) -> list[str]:
    """Of runs whose doomed weights fade; the others have nothing to show."""
    shares = [[seen.doomed_share for seen in record.observations] for record in records]
    if all(share is None for column in shares for share in column):
        return []
    most = max(map(len, shares))
    columns = [
        [head, *("-" if share is None else f"{share:.2%}" for share in column), *[""] * (most - len(column))]
        for head, record, column in zip(_heads(records), records, shares, strict=True)
        if record.status != "dense"
    ]
    return _side_by_side(["", *map(str, range(1, most + 1))], columns)


def _epochs(records: Sequence[Record], value: Callable[[Record, Epoch], float | None]) -> list[str]:
    """A row for each epoch of each phase in which a run has a value."""
    found: list[dict[tuple[str, int], float]] = []
    for record in records:
        values = {(seen.phase, seen.number): value(record, seen) for seen in record.epochs()}
        found.append({epoch: known for epoch, known in values.items() if known is not None})
    phases = list(PHASES)
    epochs = sorted({epoch for values in found for epoch in values}, key=lambda at: (phases.index(at[0]), at[1]))
    columns = [
        [head, *(number(values.get(epoch)) for epoch in epochs)]
        for head, values in zip(_heads(records), found, strict=True)
    ]
    rows = [f"{phase_title(phase, records)} {place}" for phase, place in epochs]
    return _side_by_side(["epoch", *rows], columns) if epochs else []


def _first_metric(record: Record, seen: Epoch) -> float | None:
    return seen.metrics.get(record.metric_names[0]) if seen.metrics else None


def _layers(records: Sequence[Record]) -> list[str]:
    names = list(dict.fromkeys(name for record in records for name in record.layers))
    columns = [
        [head, *(f"{record.layers[name]:.1%}" if name in record.layers else "" for name in names)]
        for head, record in zip(_heads(records), records, strict=True)
        if record.status != "dense"
    ]
    return [*left_out(names), *_side_by_side(["", *short_layers(names)], columns)] if names else []
