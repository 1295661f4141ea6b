"""Several runs side by side as text: a column for each, and as many tables one under another as 100 columns ask for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from hf_worm.core.window import Observation
from hf_worm.report.layout import Table, paragraph, section, side_by_side
from hf_worm.report.metrics import STAGES
from hf_worm.report.record import Epoch, Record
from hf_worm.report.sentences import PHASES, effect, phase_title, pruned
from hf_worm.report.tables import metric_cells
from hf_worm.report.terminal import method_lines, note_lines, shared_names, short_layers, title_lines
from hf_worm.report.text import distance, number, percent, shortened

RESULT = ["", "metric", "before", "drawn", "retrained", "search epochs", "seconds", "pruned", "of model"]


def comparison_text(records: Sequence[Record]) -> str:
    """Write all that is known of several runs, which are numbered from 1."""
    effects = dict.fromkeys(line for record in records for line in paragraph(effect(record)))
    return "\n".join(
        [
            *_numbered(records, lambda record: [*title_lines(record), *method_lines(record)]),
            *section("Result", _results(records)),
            *section("Settings", _settings(records)),
            *section("Max distance at each observation (* converged)", _observed(records, _max)),
            *section("Mean distance at each observation (* truncating, or fading)", _observed(records, _mean)),
            *section("Norm left at each observation: share of it in the weights to be pruned", _norm_left(records)),
            *section("Training loss, mean of each epoch", _epochs(records, lambda record, epoch: epoch.loss)),
            *section("Evaluation in each epoch, the metric as above", _epochs(records, _first_metric)),
            *section("Pruned of each layer, or to be pruned by the newest mask", _layers(records)),
            *section("Account", [*_numbered(records, lambda record: paragraph(pruned(record))), *effects]),
            *section("Not here", _numbered(records, note_lines)),
        ]
    )


def _heads(records: Sequence[Record]) -> list[str]:
    return [f"[{place}]" for place in range(1, len(records) + 1)]


def _searches(records: Sequence[Record]) -> list[tuple[str, Record]]:
    """List the runs that searched, each with its number."""
    numbered = zip(_heads(records), records, strict=True)
    return [(head, record) for head, record in numbered if record.status != "dense"]


def _numbered(records: Sequence[Record], lines: Callable[[Record], list[str]]) -> list[str]:
    """Write lines about each run, the first of them after its number."""
    return [
        f"{head if place == 0 else '':<{len(head)}} {line}"
        for head, record in zip(_heads(records), records, strict=True)
        for place, line in enumerate(lines(record))
    ]


def _results(records: Sequence[Record]) -> list[str]:
    rows = [[head, *_result(record)] for head, record in zip(_heads(records), records, strict=True)]
    return Table(RESULT, rows).lines()


def _result(record: Record) -> list[str]:
    names = record.metric_names[:1]
    metrics = {"before_draw": record.last_evaluation()} if record.status == "dense" else record.metrics
    stages = [cell for stage in STAGES for cell in metric_cells(metrics.get(stage, {}), names or [""], "-")]
    epochs = number(record.phases.get("search", {}).get("epochs"), 2, "-")  # of a dense run, all
    seconds = sum(phase.get("seconds", 0) for phase in record.phases.values())
    account = record.account or {}
    shares = [percent(account.get(name)) for name in ("share_of_representative", "share_of_model")]
    metric = shortened(names[0], 20) if names else "-"
    return [metric, *stages, epochs, number(seconds or None, 1, "-"), *shares]


def _settings(records: Sequence[Record]) -> list[str]:
    """Tabulate the settings that differ, and list the others; a dense run has none."""
    settings = {
        head: {name: shortened(repr(value), 40) for name, value in asdict(record.config).items()}
        for head, record in _searches(records)
    }
    if not settings:
        return []
    first = next(iter(settings.values()))
    differing = [name for name in first if len({values[name] for values in settings.values()}) > 1]
    columns = [[head, *(values[name] for name in differing)] for head, values in settings.items()]
    same = ", ".join(f"{name}={value}" for name, value in first.items() if name not in differing)
    table = side_by_side(["", *differing], columns) if differing else []
    return [*table, *paragraph(f"{'The same in all' if differing else 'All the same'}: {same}")]


def _observed(records: Sequence[Record], cell: Callable[[Record, Observation], str]) -> list[str]:
    """Write a row for each observation, with a cell of each run that searched."""
    most = max(len(record.observations) for record in records)
    columns = []
    for head, record in _searches(records):
        cells = [cell(record, observation) for observation in record.observations]
        columns.append([head, *cells, *[""] * (most - len(cells))])
    return side_by_side(["", *map(str, range(1, most + 1))], columns) if most else []


def _max(record: Record, observation: Observation) -> str:
    return distance(observation.max_distance) + ("*" if observation.converged else " ")


def _mean(record: Record, observation: Observation) -> str:
    return distance(observation.mean_distance) + ("*" if observation.truncating and record.method.truncates else " ")


def _norm_left(records: Sequence[Record]) -> list[str]:
    """Write the shares of the runs whose weights fade; without one there is nothing to write."""
    if all(observation.doomed_share is None for record in records for observation in record.observations):
        return []
    return _observed(records, lambda record, observation: percent(observation.doomed_share, 2))


def _epochs(records: Sequence[Record], value: Callable[[Record, Epoch], float | None]) -> list[str]:
    """Write a row for each epoch of each phase in which a run has a value."""
    found: list[dict[tuple[str, int], float]] = []
    for record in records:
        values = {(epoch.phase, epoch.number): value(record, epoch) for epoch in record.epochs()}
        found.append({at: known for at, known in values.items() if known is not None})
    phases = list(PHASES)
    epochs = sorted({at for values in found for at in values}, key=lambda at: (phases.index(at[0]), at[1]))
    columns = [
        [head, *(number(values.get(at)) for at in epochs)] for head, values in zip(_heads(records), found, strict=True)
    ]
    rows = [f"{phase_title(phase, records)} {place}" for phase, place in epochs]
    return side_by_side(["epoch", *rows], columns) if epochs else []


def _first_metric(record: Record, epoch: Epoch) -> float | None:
    return epoch.metrics.get(record.metric_names[0]) if epoch.metrics else None


def _layers(records: Sequence[Record]) -> list[str]:
    names = list(dict.fromkeys(name for record in records for name in record.layers))
    columns = [
        [head, *(percent(record.layers[name]) if name in record.layers else "" for name in names)]
        for head, record in _searches(records)
    ]
    return [*shared_names(names), *side_by_side(["", *short_layers(names)], columns)] if names else []
