"""The page and the figure on fading, from the runs of `reproduce.py --fading --comparison --earlier`."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from pages import COLOURS
from protocol import (
    COMPARED,
    COMPARISONS,
    FADED,
    FADED_EARLIER,
    FADING,
    METHODS,
    QUERY_KEY,
    SCALES,
    TEXT,
    Scale,
    Setting,
)
from summary import (
    BEFORE,
    DRAWN,
    RETRAINED,
    SEARCHED,
    STEPS,
    Number,
    Records,
    begin,
    by_seed,
    cell,
    cells,
    decided,
    drop,
    group,
    interval,
    of_part,
    paired,
    pruned_to,
    section,
    stages,
    table,
)

TITLES = {**METHODS, **FADING}
STORY = {"eb_train": COLOURS["eb_train"], "worm_update": COLOURS["worm_update"], "worm_fade": "#CC79A7"}


def curve(setting: Setting) -> str:
    if setting.method.startswith("gradual"):
        whole = "the training" if setting.method == "gradual" else "three epochs, and a schedule anew"
        return f"none: gradual magnitude, ramp over {setting.ramp:g} of {whole}"
    if setting.method in METHODS:
        return f"none: {METHODS[setting.method]}"
    kind = {"worm_fade": "exponential", "fade_linear": "linear", "fade_cubic": "cubic"}.get(setting.method)
    return kind or "exponential, drawn at the end of all training"


def schedules(scale: Scale, records: Records) -> list[str]:
    """A row for each way to fade, over its seeds, task by task."""
    found = of_part("fading", scale, records)
    lines = [
        *section("How to fade", "--fading"),
        "*Epochs*: in which a doomed weight falls to 1 % of its size (exponential), or to 0. What the search leaves of "
        "the epochs is retrained, with a fresh optimizer; *drawn at the end* and the CNNs have one optimizer and one "
        "schedule.",
        "",
    ]
    head = ["curve", "from", "epochs", "samplings an epoch", "seeds", "before the draw, %", "drawn, %", "drop, points"]
    head += ["retrained, %", "epochs to the ticket", "steps"]
    for task, (layers, ratio) in FADED.items():
        rows = []
        for setting in dict.fromkeys(replace(setting, seed=0) for setting in found if setting.task == task):
            runs = [record for other, record in found.items() if replace(other, seed=0) == setting]
            how = ["–", "–"]
            if "fade" in setting.method:
                how = [setting.truncate_from, f"{setting.fade_epochs:g}"]
            searches = "fade" in setting.method or setting.method in ("eb_train", "worm_update")
            how.append(str(setting.samples_per_epoch) if searches else "–")
            rows.append([curve(setting), *how, *cells(runs, *COLUMNS)])
        if rows:
            lines += [f"### Fading {task}: {', '.join(layers)}, p = {ratio:g}", "", *table(head, rows)]
    return lines


def earlier(scale: Scale, records: Records) -> list[str]:
    """Fading that begins or is drawn earlier, less pruning before fine-tuning, where that ended above the preset."""
    found = of_part("earlier", scale, records)
    task, layers, ratio = FADED_EARLIER
    before = by_seed(found, method="before")
    ways = dict.fromkeys(replace(setting, seed=0) for setting in found if setting.method == "worm_fade")
    if len(ways) < 2:
        return []
    rows = [[TITLES["before"], "–", "–", "–", *cells([*before.values()], *stages("before")), ""]]
    for way in ways:
        runs = {setting.seed: record for setting, record in found.items() if replace(setting, seed=0) == way}
        less_before = interval([*paired(runs, before, RETRAINED, RETRAINED).values()])
        how = [way.truncate_from, f"{way.fade_epochs:g}", str(way.samples_per_epoch)]
        rows.append([TITLES["worm_fade"], *how, *cells([*runs.values()], *stages("worm_fade")), less_before])
    head = ["method", "from", "fade epochs", "samplings an epoch", "seeds", "before the draw, %", "drawn, %"]
    head += ["drop, points", "in the end, %", "epochs to the ticket", "less pruning before fine-tuning, points"]
    return [
        *section("Fading earlier, where pruning before fine-tuning ended above it", "--earlier"),
        f"{task}: {', '.join(layers)}, p = {ratio:g}, one schedule of {scale.search_epochs + 1:g} epochs.",
        "",
        *table(head, rows),
    ]


COLUMNS: tuple[Number, ...] = (BEFORE, DRAWN, drop, RETRAINED, SEARCHED, STEPS)


def comparison(scale: Scale, records: Records) -> list[str]:
    """Every method by task and ratio, and fading less each of the others, paired by seed."""
    found = of_part("comparison", scale, records)
    lines = [
        *section("Fading beside the others, at the same number of steps", "--comparison"),
        "*Fading less this*: accuracy after all training, in points, paired by seed: mean and 95 % confidence interval "
        "(Student's t).",
        "",
    ]
    head = ["method", "seeds", "before the draw, %", "drawn, %", "drop, points", "in the end, %"]
    head += ["epochs to the ticket", "steps", "fading less this, points"]
    for task, layers, ratio in COMPARISONS:
        rows = []
        for method in COMPARED:
            runs = group(found, task=task, method=method, **pruned_to(ratio, method, layers))
            if runs:
                row = cells(runs, *stages(method), STEPS)
                other = "" if method == "worm_fade" else interval([*less(found, task, layers, ratio, method).values()])
                rows.append([TITLES[method], *row, other])
        if any(row[0] != TITLES["dense"] for row in rows):
            lines += [f"### {task}: {', '.join(layers)}, p = {ratio:g}", "", *table(head, rows)]
    return lines


def verdicts(scale: Scale, records: Records) -> list[str]:
    """By task and ratio: the drop at the draw, and which methods end decidedly lower or higher than fading."""
    found = of_part("comparison", scale, records)
    rows = []
    for task, layers, ratio in COMPARISONS:
        fading = group(found, task=task, method="worm_fade", **pruned_to(ratio, "worm_fade", layers))
        usual = group(found, task=task, method="eb_train", **pruned_to(ratio, "eb_train", layers))
        lower, undecided, higher = [], [], []
        for method in COMPARED:
            differences = list(less(found, task, layers, ratio, method).values()) if method != "worm_fade" else []
            if len(differences) > 1:
                kind = undecided if not decided(differences) else lower if statistics.mean(differences) > 0 else higher
                kind.append(SHORT.get(method, TITLES[method]))
        if fading and usual:
            drops = [cell(usual, drop), cell(fading, drop), cell(fading, RETRAINED)]
            what = f"{task}: {', '.join(layers)}" if task in TEXT else task
            others = (", ".join(names) or "–" for names in (lower, undecided, higher))
            rows.append([what, f"{ratio:g}", str(len(fading)), *drops, *others])
    head = ["", "p", "seeds", "drop of EB Train, points", "of fading", "fading in the end, %", "above", "undecided"]
    return [
        *section("In short", "--comparison"),
        "*Above*, *below*: the 95 % confidence interval of the differences in the end, paired by seed, excludes 0.",
        "",
        *table([*head, "below"], rows),
        *together(found),
    ]


def together(found: Records) -> list[str]:
    """Fading less the others, over the tasks, queries and keys pruned to 0.8 and more: a mean for each seed."""
    tables = [(task, ratio) for task, layers, ratio in COMPARISONS if layers == QUERY_KEY and ratio >= 0.8]
    told = []
    for method in COMPARED:
        by_table = [less(found, task, QUERY_KEY, ratio, method) for task, ratio in tables]
        seeds = set(by_table[0])
        if method != "worm_fade" and len(seeds) > 1 and all(set(values) == seeds for values in by_table):
            means = [statistics.mean(values[seed] for values in by_table) for seed in seeds]
            told.append(f"{SHORT.get(method, TITLES[method])} {interval(means)}")
    if not told:
        return []
    return [
        f"Fading less each of them, in points: the mean of the {len(tables)} tables of queries and keys with p ≥ 0.8, "
        f"seed by seed: {', '.join(told)}.",
        "",
    ]


SHORT = {
    "dense": "dense",
    "before": "before fine-tuning",
    "gradual": "gradual",
    "one_shot": "train–prune–retrain",
    "random": "random mask",
    "worm_gradient": "WORM gradient",
    "worm_update": "WORM update",
}


def less(found: Records, task: str, layers: tuple[str, ...], ratio: float, method: str) -> dict[int, float]:
    """Accuracy in the end, in points: fading less a method, by seed."""
    others = by_seed(found, task=task, method=method, **pruned_to(ratio, method, layers))
    fading = by_seed(found, task=task, method="worm_fade", prune_ratio=ratio, layers=layers)
    return paired(fading, others, RETRAINED, stages(method)[3])


def points(record: dict[str, Any]) -> list[tuple[float, float]]:
    """Accuracy in % against optimizer steps: each epoch's end, and before and after the draw."""
    searched = record["steps_by_phase"].get("search", record["steps"])
    found = [(float(step), 100 * value) for step, value in record["evaluations"]]
    return [
        *(point for point in found if point[0] < searched),
        (searched, BEFORE(record) or 0.0),
        (searched, DRAWN(record) or 0.0),
        *dict.fromkeys(point for point in found if point[0] > searched),
    ]


def story(scale: Scale, records: Records, path: Path) -> bool:
    """Accuracy against optimizer steps through search, draw and retraining; the range over seeds is shaded."""
    found = of_part("comparison", scale, records)
    tasks = [task for task in TEXT if group(found, task=task, method="worm_fade", **pruned_to(0.8, "worm_fade"))]
    if not tasks:
        return False
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.8), layout="constrained", squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for method, colour in STORY.items():
            runs = [points(record) for record in group(found, task=task, method=method, **pruned_to(0.8, method))]
            runs = [run for run in runs if len(run) == len(runs[0])]
            if not runs:
                continue
            places = [place for place, _ in runs[0]]
            values = [[run[i][1] for run in runs] for i in range(len(places))]
            means = [statistics.mean(value) for value in values]
            width = 4.0 if method == "eb_train" else 1.5  # the others are drawn over it, and may hide it
            label = f"{TITLES[method]} ({len(runs)} seeds)"
            axis.plot(places, means, color=colour, linewidth=width, marker=".", label=label)
            axis.fill_between(
                places, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.2, linewidth=0
            )
        axis.set(title=f"{task}, p = 0.8", xlabel="optimizer step")
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def write(scale_name: str, records: Records, out: Path) -> Path | None:
    """Write the page, and the figure, where there are runs for them."""
    scale = SCALES[scale_name]
    if not of_part("fading", scale, records):
        return None
    parts = ("comparison", "earlier", "fading")
    flags = " --fading --comparison --earlier"
    lines = begin("Fading: the comparison and the schedules", flags, scale_name, records, parts)
    if story(scale, records, out / f"fading-{scale_name}.png"):
        lines += [f"![Accuracy against optimizer steps](fading-{scale_name}.png)", ""]
    for part in (verdicts, comparison, earlier, schedules):
        lines += part(scale, records)
    page = out / f"fading-{scale_name}.md"
    page.write_text("\n".join(lines))
    return page
