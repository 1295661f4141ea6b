"""The page on neurons and heads, from the finished runs of `reproduce.py --units`."""

import statistics
from itertools import product
from pathlib import Path

from protocol import FADING, METHODS, SCALES, UNIT_METHODS, UNIT_TASKS, UNITS, Scale
from summary import (
    RETRAINED,
    STEPS,
    Records,
    after_an_epoch,
    begin,
    by_seed,
    cells,
    group,
    interval,
    of_part,
    section,
    stages,
    table,
)

TITLES = {**METHODS, **FADING, "random": "random units, train, prune, retrain"}
NOTE = (
    "*Less random units*: accuracy in the end, in points, paired by seed: mean and 95 % confidence interval (Student's "
    "t)."
)

CONSTANT = "Of MRPC's rows 68.4 % have one label: a model that always says the same has 68.4 or 31.6 %."


def less_random(found: Records, task: str, layers: tuple[str, ...], ratio: float, method: str) -> dict[int, float]:
    """Accuracy in the end, in points: a method less random units, by seed."""
    kind = {"task": task, "layers": layers, "prune_ratio": ratio}
    control = by_seed(found, method="random", **kind)
    differences = {}
    for seed, record in by_seed(found, method=method, **kind).items():
        mine, theirs = RETRAINED(record), RETRAINED(control[seed]) if seed in control else None
        if mine is not None and theirs is not None:
            differences[seed] = mine - theirs
    return differences


def in_short(found: Records) -> list[str]:
    """By kind of unit a row: each method less random units, over the tasks that have all their seeds in common."""
    methods = [method for method in UNIT_METHODS if method != "random"]
    rows = []
    for layers, ratio in UNITS:
        row = []
        for method in methods:
            by_task = [less_random(found, task, layers, ratio, method) for task in UNIT_TASKS]
            by_task = [differences for differences in by_task if differences]
            seeds = sorted(set.intersection(*map(set, by_task))) if by_task else []
            row.append(interval([statistics.mean(of[seed] for of in by_task) for seed in seeds]))
        rows.append([f"{' and '.join(layers)}, {ratio:.2g}", *row])
    return [*section("Less random units", "--units"), NOTE, "", *table(["", *map(TITLES.get, methods)], rows)]


def tables(found: Records) -> list[str]:
    """By task and kind of unit, a row for each method."""
    head = ["method", "seeds", "before the draw, %", "drawn, %", "drop, points", "after an epoch, %"]
    head += ["after three epochs, %", "steps in all", "less random units, points"]
    lines: list[str] = []
    for task, (layers, ratio) in product(UNIT_TASKS, UNITS):
        rows = []
        for method in UNIT_METHODS:
            runs = group(found, task=task, layers=layers, prune_ratio=ratio, method=method)
            if runs:
                row = cells(runs, *stages(method)[:3], after_an_epoch, RETRAINED, STEPS)
                differences = less_random(found, task, layers, ratio, method) if method != "random" else {}
                rows.append([TITLES[method], *row, interval([*differences.values()]) if differences else ""])
        if rows:
            lines += [f"## {task}: {' and '.join(layers)}, p = {ratio:.2g}", "", *table(head, rows)]
    return lines


def write(scale_name: str, records: Records, out: Path) -> Path | None:
    """Write the page, if there are runs for it."""
    scale: Scale = SCALES[scale_name]
    found = of_part("units", scale, records)
    if not found:
        return None
    lines = begin("Neurons and heads", " --units", scale_name, records, ("units",))
    lines += [f"Three epochs of search at the most, and three of retraining after it. {CONSTANT}", ""]
    lines += [*in_short(found), *tables(found)]
    page = out / f"units-{scale_name}.md"
    page.write_text("\n".join(lines))
    return page
