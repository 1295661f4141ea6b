"""The page on neurons and heads, from the finished runs of `reproduce.py --units`."""

from itertools import product
from pathlib import Path

from protocol import (
    FADING,
    METHODS,
    SCALES,
    SCORED_UNITS,
    TEXT,
    UNIT_METHODS,
    UNIT_SCORES,
    UNITS,
    Scale,
)
from summary import (
    RETRAINED,
    STEPS,
    Number,
    Records,
    after_an_epoch,
    begin,
    by_seed,
    cells,
    group,
    interval,
    metric,
    of_part,
    paired,
    section,
    spread,
    stages,
    table,
)

TITLES = {**METHODS, **FADING, **UNIT_SCORES, "random": "random units, train, prune, retrain"}

NOTE = "Paired by seed: mean and 95 % confidence interval (Student's t); these are over seeds, not over rows."
MEASURES = {
    "Accuracy, in points (above 0: better than random units)": RETRAINED,
    "Loss, in hundredths (above 0: worse than random units)": metric("retrained", "loss"),
}

CONSTANT = "Of MRPC's rows 68.4 % have one label: a model that always says the same has 68.4 or 31.6 %."


def less_random(
    found: Records, task: str, layers: tuple[str, ...], ratio: float, method: str, of: Number = RETRAINED
) -> dict[int, float]:
    """A number of a method's runs less that of random units, by seed."""
    kind = {"task": task, "layers": layers, "prune_ratio": ratio}
    mine, control = (by_seed(found, method=name, **kind) for name in (method, "random"))
    return paired(mine, control, of, of)


def in_short(found: Records) -> list[str]:
    """By task and kind of unit a row: each method less random units in the end, by accuracy and by loss."""
    methods = [method for method in UNIT_METHODS if method != "random"]
    lines = [*section("Less random units", "--units"), f"In the end. {NOTE}", ""]
    for title, of in MEASURES.items():
        rows = []
        for task, (layers, ratio) in product(TEXT, UNITS):
            differences = [[*less_random(found, task, layers, ratio, method, of).values()] for method in methods]
            if any(differences):
                rows.append([task, " and ".join(layers), f"{ratio:.2g}", *map(interval, differences)])
        lines += [f"{title}:", "", *table(["task", "units", "p", *map(TITLES.__getitem__, methods)], rows)]
    return [*lines, in_pairs(found), ""]


def in_pairs(found: Records) -> str:
    """In how many pairs of runs, over tasks, kinds of unit and seeds, random units end as well as EB Train."""
    accuracy, loss = (
        [
            difference
            for task, (layers, ratio) in product(TEXT, UNITS)
            for difference in less_random(found, task, layers, ratio, "eb_train", of).values()
        ]
        for of in MEASURES.values()
    )
    pairs, higher, lower = len(accuracy), sum(value <= 0 for value in accuracy), sum(value >= 0 for value in loss)
    return (
        f"Beside EB Train, random units end as high or higher by accuracy in {higher} of {pairs} pairs of runs, "
        f"and as low or lower by loss in {lower}."
    )


def tables(found: Records) -> list[str]:
    """By task and kind of unit, a row for each method."""
    head = ["method", "seeds", "before the draw, %", "drawn, %", "drop, points", "after an epoch, %"]
    head += ["after three epochs, %", "steps in all"]
    lines: list[str] = []
    for task, (layers, ratio) in product(TEXT, UNITS):
        rows = []
        for method in UNIT_METHODS:
            runs = group(found, task=task, layers=layers, prune_ratio=ratio, method=method)
            if runs:
                rows.append([TITLES[method], *cells(runs, *stages(method)[:3], after_an_epoch, RETRAINED, STEPS)])
        if rows:
            lines += [f"## {task}: {' and '.join(layers)}, p = {ratio:.2g}", "", *table(head, rows)]
    return lines


def scores(scale: Scale, records: Records) -> list[str]:
    """What is lost at the draw when units go by other scores: accuracy and loss, over the seeds."""
    found = of_part("scores", scale, records)
    lines: list[str] = []
    for what, factor, digits in (("accuracy", 100, 1), ("loss", 1, 2)):
        rows = []
        for task, (layers, ratio) in product(TEXT, SCORED_UNITS):
            runs = group(found, task=task, layers=layers, prune_ratio=ratio)
            if runs:
                ranked = [name for name in runs[0]["drawn_by"] if not name.startswith("random")]
                values = [[factor * run["drawn_by"][name][what] for run in runs] for name in ranked]
                values.append(
                    [
                        factor * seen[what]
                        for run in runs
                        for name, seen in run["drawn_by"].items()
                        if name not in ranked
                    ]
                )
                cells_of = [spread(of, digits) for of in values]
                rows.append([task, " and ".join(layers), f"{ratio:.2g}", str(len(runs)), *cells_of])
        if rows:
            head = ["task", "units", "p", "seeds", *ranked, "random"]
            lines += [f"{what.capitalize()}{', %' if factor == 100 else ''}:", "", *table(head, rows)]
    if not lines:
        return []
    return [
        *section("What units are ranked by", "--scores"),
        "Drawn after three epochs without truncation, and not retrained; random: three masks for each seed. The L1 "
        "norm over all that a unit owns is what hf_worm has; *in × out* is the norm of the first view (a neuron's row, "
        "a head's query) times that of the last (its columns in the output projection).",
        "",
        *lines,
    ]


def write(scale_name: str, records: Records, out: Path) -> Path | None:
    """Write the page, if there are runs for it."""
    scale: Scale = SCALES[scale_name]
    found = of_part("units", scale, records)
    if not found:
        return None
    lines = begin("Neurons and heads", " --units --scores", scale_name, records, ("units", "scores"))
    lines += [f"Three epochs of search at the most, and three of retraining after it. {CONSTANT}", ""]
    lines += [*in_short(found), *scores(scale, records), *tables(found)]
    page = out / f"units-{scale_name}.md"
    page.write_text("\n".join(lines))
    return page
