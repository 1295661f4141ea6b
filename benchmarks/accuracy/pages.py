"""The page and the figures of a reproduction, from its finished runs: every number in them comes from a record."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from protocol import (
    COMPARED_RATIOS,
    DENSE,
    FADING,
    GOES_ON,
    IMAGE_PARTS,
    IMAGES,
    METHODS,
    RATIOS,
    SAMPLES_PER_EPOCH,
    SCALES,
    TEXT,
    TEXT_PARTS,
    TRUNCATIONS,
    Scale,
)
from summary import (
    BEFORE,
    DRAWN,
    RETRAINED,
    SEARCHED,
    SECONDS,
    STEPS,
    Number,
    Records,
    after_an_epoch,
    begin,
    by_seed,
    cell,
    cells,
    decided,
    drop,
    epochs_to_target,
    group,
    half_interval,
    of_part,
    pruned_to,
    section,
    spread,
    stages,
    table,
)

# The paper's figures (arXiv:2406.11872), in the order of the columns below.
TABLE_1 = {1.0: "7 / 22 / 1", 0.5: "6 / 20 / 2", 0.1: "5 / 21 / 3", 0.05: "6 / 26 / 2", 0.01: "5 / 26 / 2"}
TABLE_2 = {"eb_train": "6 / 81.67 / 84.67 / 3.3", "worm_gradient": "5 / 80.67 / 82.67 / 4"}
TABLE_3 = {"eb_train": "6.7 / 95.33 / 90.67 / 1", "worm_gradient": "5.7 / 92.33 / 89.67 / 1.7"}
TABLE_4 = {
    "sst2": "89.33 / 4 / 86.35 / 88.76",
    "mrpc": "81.86 / 3 / 78.67 / 83.57",
    "rte": "64.98 / 3 / 50.90 / 62.09",
}
TABLE_5 = {"rte": "66.1 / 3 / 51.3 / 65.03"}
TABLE_6 = {
    "sst2": "88.53 / 4 / 88.30 / 88.81",
    "mrpc": "82.59 / 4 / 76.90 / 83.82",
    "rte": "65.34 / 4 / 52.70 / 62.81",
}
COLOURS = {"eb_train": "#0072B2", "worm_gradient": "#D55E00", "worm_update": "#009E73"}  # Okabe and Ito's
PAGE_PARTS = (*IMAGE_PARTS, *TEXT_PARTS, "baselines", "sampling", "start", "drift", "schedules")


def in_short(scale: Scale, records: Records) -> list[str]:
    """Accuracy in the end of what matters most, all tasks beside each other."""
    found: Records = {}
    for part in ("baselines", "sampling", "schedules", "comparison"):
        found |= of_part(part, scale, records)
    usual = {"samples_per_epoch": 1, "retrain_schedule": "restart"}
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("dense fine-tuning", "dense", {}),
        ("the same, in the two schedules of EB Train", "dense_restarted", {}),
        ("EB Train", "eb_train", {}),
        ("WORM, gradient", "worm_gradient", {}),
        ("WORM, update", "worm_update", {}),
        ("EB Train, 4 samplings an epoch", "eb_train", {"samples_per_epoch": 4}),
        ("EB Train, 4 samplings, one schedule", "eb_train", {"samples_per_epoch": 4, **GOES_ON}),
        ("WORM, fading", "worm_fade", {}),
        ("WORM, fading, one schedule", "worm_fade", GOES_ON),
        ("WORM, fading, 4 samplings, one schedule", "worm_fade", {"samples_per_epoch": 4, **GOES_ON}),
        ("magnitude pruning before fine-tuning", "before", {}),
        ("gradual magnitude pruning", "gradual", {}),
        ("random mask", "random", {}),
    ]
    columns = [(task, ratio) for task, ratio in product(("sst2", "mrpc", "rte"), RATIOS) if group(found, task=task)]
    rows = []
    for title, method, changes in kinds:
        row = [title]
        for task, ratio in columns:
            runs = group(found, task=task, method=method, **{**usual, **changes}, **pruned_to(ratio, method))
            once = method not in DENSE or ratio == RATIOS[0]
            row.append(cell(runs, stages(method)[3]) if once else "")
        rows.append(row)
    return [
        *section("In short: accuracy in the end, %", "--baselines", "--sampling", "--schedules", "--comparison"),
        f"Query and key; {scale.search_epochs + 1:g} epochs in all.",
        "",
        *table(["", *(f"{task}, p = {ratio:g}" for task, ratio in columns)], rows),
    ]


# The paper's tables.


def cnn_tables(scale: Scale, records: Records) -> list[str]:
    found = of_part("table 1", scale, records)
    rows, lines = [], []
    for truncation in TRUNCATIONS:
        runs = group(found, truncation=truncation)
        if not runs:
            continue
        row = cells(runs, SEARCHED, DRAWN, epochs_to_target)
        rows.append([f"{truncation:g}", TABLE_1[truncation], *row, converged(runs)])
    head = ["r", "paper: epochs of search / drawn, % / epochs to 90 %", "seeds", "epochs of search", "drawn, %"]
    if rows:
        lines = section("Table 1: VGG-11, truncated from the first step", "--table 1")
        lines += table([*head, "epochs to 90 %", "converged"], rows)
    for name, network, paper in (("2", "ResNet-18", TABLE_2), ("3", "VGG-11", TABLE_3)):
        found = of_part(f"table {name}", scale, records)
        rows = []
        for method, figures in paper.items():
            runs = group(found, method=method)
            if not runs:
                continue
            row = cells(runs, SEARCHED, BEFORE, DRAWN, after_an_epoch, epochs_to_target, SECONDS)
            rows.append([METHODS[method], figures, *row, converged(runs)])
        if not rows:
            continue
        lines += section(f"Table {name}: {network}", f"--table {name}")
        head = ["method", "paper: epochs of search / before the draw, % / after an epoch, % / epochs to 90 %", "seeds"]
        head += [
            "epochs of search",
            "before the draw, %",
            "drawn, %",
            "after an epoch, %",
            "epochs to 90 %",
            "CPU seconds",
        ]
        lines += table([*head, "converged"], rows)
    return lines


def text_tables(scale: Scale, records: Records) -> list[str]:
    lines = []
    for name, title, paper in (
        ("4", "EB Train, query, key and value", TABLE_4),
        ("5", "EB Train, query and key", TABLE_5),
        ("6", "WORM, query and key", TABLE_6),
    ):
        found = of_part(f"table {name}", scale, records)
        rows = [
            [task, figures, *cells(group(found, task=task), BEFORE, SEARCHED, DRAWN, after_an_epoch, SECONDS)]
            for task, figures in paper.items()
            if group(found, task=task)
        ]
        if not rows:
            continue
        lines += section(f"Table {name}: {title}", f"--table {name}")
        head = ["task", "paper: before the draw, % / epochs of search / drawn, % / after an epoch, %", "seeds"]
        head += ["before the draw, %", "epochs of search", "drawn, %", "after an epoch, %", "CPU seconds"]
        lines += table(head, rows)
    return lines


def converged(runs: Sequence[dict[str, Any]]) -> str:
    return f"{sum(record['converged'] for record in runs)} of {len(runs)}"


# The baselines.


def baselines(scale: Scale, records: Records) -> list[str]:
    found = of_part("baselines", scale, records)
    lines = [
        *section("Baselines at the same number of epochs", "--baselines"),
        "*Drawn*: as pruned, before any training with the mask. *In the end*: after all epochs. Dense fine-tuning, "
        "gradual pruning and pruning before fine-tuning have one schedule, with a learning rate that falls to 0 once; "
        "what searches or trains first has one for that and one for the retraining, and the lottery ticket one for "
        "each of its four rounds. EB Train that searches for all its epochs is train, prune, retrain: one run, in both "
        "rows. CPU seconds: of the run's process, evaluations and set-up included.",
        "",
    ]
    head = ["method", "seeds", "before the draw, %", "drawn, %", "drop, points", "in the end, %"]
    head += ["epochs to the ticket", "steps", "CPU seconds"]
    for task, ratio in product(TEXT, RATIOS):
        rows = []
        for method, title in METHODS.items() if group(found, task=task) else []:
            runs = group(found, task=task, method=method, **pruned_to(ratio, method))
            rows.append([title, *cells(runs, *stages(method), STEPS, SECONDS)])
        if rows:
            lines += [f"### {task}, p = {ratio:g}", "", *table(head, rows)]
    return lines


# What the paper claims of WORM against EB Train: the number, whether less of it or more is claimed, what matters.
CLAIMS: dict[str, tuple[str, Number, int, float]] = {
    "drop at the draw": ("a smaller drop at the draw", drop, -1, 1.0),
    "drawn": ("a higher accuracy once drawn", DRAWN, +1, 1.0),
    "in the end": ("a higher accuracy after retraining", RETRAINED, +1, 1.0),
    "epochs of search": ("a shorter search", SEARCHED, -1, 0.25),
}
VERDICTS = ("holds", "fails", "no difference", "undecided")


def claims(scale: Scale, records: Records) -> list[str]:
    """WORM less EB Train, seed by seed: a row for each task and target, a column for each claim."""
    found: Records = {}
    for part in ("baselines", "start", "table 2", "table 3"):
        found |= of_part(part, scale, records)
    kinds = product((*TEXT, *IMAGES), RATIOS, ("worm_gradient", "worm_update"), ("trigger", "start"))
    verdicts: dict[str, list[str]] = {name: [] for name in CLAIMS}
    rows = []
    for task, ratio, method, begun in kinds:
        pairs = with_eb_train(found, task, ratio, method, begun)
        if len(pairs) < 2:
            continue
        row = []
        for name, (_, of, sign, matters) in CLAIMS.items():
            differences = paired(pairs, of)
            row.append(difference(differences))
            verdicts[name].append(verdict(differences, sign, matters))
        rows.append([task, f"{ratio:g}", METHODS[method], begun, str(len(pairs)), *row])
    if not rows:
        return []
    held = [
        [f"WORM has {claim}", *(str(verdicts[name].count(word)) for word in VERDICTS)]
        for name, (claim, *_) in CLAIMS.items()
    ]
    return [
        *section("The paper's claims: WORM less EB Train, paired by seed", "--baselines", "--start", "--table 2 3"),
        "In how many of the rows below a claim holds or fails: the 95 % confidence interval of the mean difference "
        "(Student's t, over seeds alone) excludes 0, which it does by chance in one row of twenty. *No difference*: it "
        "has 0 in it and lies within 1 point, or a quarter of an epoch. On GLUE the masks have converged as soon as "
        "there are three of them: no search could be shorter, and from the trigger point truncation has but the last "
        "of three epochs to act in; *start*: it acts from the first step on.",
        "",
        *table(["claim", *VERDICTS], held),
        "In the paper's tables on transformers WORM takes 1.24 to 1.63 times EB Train's time; here its step takes "
        "[as long as one of EB Train](overhead.md).",
        "",
        "Mean difference, in points and epochs, ± its standard deviation (least to greatest); bold where the interval "
        "excludes 0.",
        "",
        *table(["task", "p", "method", "truncated from", "seeds", *CLAIMS], rows),
    ]


def verdict(differences: Sequence[float], sign: int, matters: float) -> str:
    mean = statistics.mean(differences)
    if decided(differences):
        return "holds" if sign * mean > 0 else "fails"
    return "no difference" if abs(mean) + half_interval(differences) < matters else "undecided"


def paired(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], of: Number) -> list[float]:
    """The differences of a number, of those pairs in which both have it."""
    numbers = [(of(one), of(other)) for one, other in pairs]
    return [one - other for one, other in numbers if one is not None and other is not None]


def with_eb_train(
    found: Records, task: str, ratio: float, method: str, begun: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each run of a method with the run of EB Train that has its seed."""
    pairs = []
    for setting, record in found.items():
        if (setting.task, setting.prune_ratio, setting.method, setting.truncate_from) == (task, ratio, method, begun):
            other = found.get(replace(setting, method="eb_train", truncation=1.0, truncate_from="trigger"))
            if other is not None:
                pairs.append((record, other))
    return pairs


def difference(differences: Sequence[float]) -> str:
    text = f"{statistics.mean(differences):+.1f} ± {statistics.stdev(differences):.1f}"
    text = f"**{text}**" if decided(differences) else text
    return f"{text} ({min(differences):+.1f} to {max(differences):+.1f})"


ADVISABLE = ("eb_train", "worm_gradient", "worm_update", "worm_fade", "gradual", "before")


def recommendations(scale: Scale, records: Records) -> list[str]:
    """By task and ratio, the method with the best mean in the end, and those that are not decided to be worse."""
    found = {**of_part("baselines", scale, records), **of_part("comparison", scale, records)}
    often = of_part("sampling", scale, records)
    rows = []
    for task, ratio in product(TEXT, COMPARED_RATIOS):
        options = {
            METHODS.get(method) or FADING[method]: by_seed(found, task=task, method=method, **pruned_to(ratio, method))
            for method in ADVISABLE
        }
        best, others = leaders(options)
        if best is None:
            continue
        runs = options[best]
        losses = {seed: one for seed, one in by_seed(found, task=task, method="dense").items() if seed in runs}
        lost = [100 * losses[seed]["metrics"]["dense"]["accuracy"] - (RETRAINED(runs[seed]) or 0.0) for seed in losses]
        intervals = {
            str(samples): by_seed(often, task=task, method="eb_train", samples_per_epoch=samples)
            for samples in (SAMPLES_PER_EPOCH if ratio == 0.8 else ())
        }
        rarest, too = leaders(intervals)
        rows.append(
            [
                f"{task}, {scale.rows.get(task, 'all')} rows",
                f"{ratio:g}",
                str(len(runs)),
                best,
                ", ".join(others) or "none",
                cell(list(runs.values()), drop),
                spread(lost),
                "–" if rarest is None else ", ".join(sorted([rarest, *too], key=int)),
            ]
        )
    head = ["task", "p", "seeds", "best in the end", "not decided to be worse", "drop at the draw, points"]
    return [
        *section("What to take", "--baselines", "--sampling", "--comparison"),
        "By accuracy after all training, paired by seed; *decided* as above: with three seeds, only what is off by "
        "much. *Lost*: dense fine-tuning at the same number of steps less the best, which is chosen on the same data. "
        "*Samplings*: how many an epoch EB Train may take, none decided to be worse.",
        "",
        *table([*head, "lost in all, points", "samplings an epoch"], rows),
    ]


def leaders(options: dict[str, dict[int, dict[str, Any]]]) -> tuple[str | None, list[str]]:
    """The option with the greatest mean accuracy in the end, of those with the most seeds, and those on a par."""
    most = max(map(len, options.values()), default=0)
    finals = {
        name: {seed: RETRAINED(record) or 0.0 for seed, record in runs.items()}
        for name, runs in options.items()
        if most > 1 and len(runs) == most
    }
    if not finals:
        return None, []
    best = max(finals, key=lambda name: statistics.mean(finals[name].values()))
    others = []
    for name, values in finals.items():
        differences = [value - values[seed] for seed, value in finals[best].items() if seed in values]
        if name != best and differences and not decided(differences):
            others.append(name)
    return best, others


def sampling(scale: Scale, records: Records) -> list[str]:
    found = of_part("sampling", scale, records)
    rows = []
    for task, method, samples in product(TEXT, METHODS, SAMPLES_PER_EPOCH):
        runs = group(found, task=task, method=method, samples_per_epoch=samples)
        if runs:
            rows.append([task, METHODS[method], str(samples), *cells(runs, SEARCHED, BEFORE, DRAWN, RETRAINED)])
    head = ["task", "method", "samplings an epoch", "seeds", "epochs to the ticket", "before the draw, %", "drawn, %"]
    return [
        *section("Sampling within an epoch", "--sampling"),
        f"p = 0.8, {scale.search_epochs + 1:g} epochs in all: what the search leaves is retrained. A model that has "
        "learned nothing yet has converged masks too: those of its pretrained weights, see above.",
        "",
        *table([*head, "retrained, %"], rows),
    ]


def schedules(scale: Scale, records: Records) -> list[str]:
    """After the draw, a schedule of its own or the search's."""
    found: Records = {}
    for part in ("baselines", "sampling", "fading", "schedules"):
        found |= of_part(part, scale, records)
    rows = []
    kinds = product(TEXT, ("eb_train", "worm_fade"), (1, 4), ("restart", "continue"))
    for task, method, samples, after in kinds:
        wanted = {"samples_per_epoch": samples, "retrain_schedule": after, **pruned_to(0.8, method)}
        wanted |= {"truncate_from": "trigger", "fade_epochs": 1.0}
        runs = group(found, task=task, method=method, **wanted)
        if runs:
            title = METHODS.get(method) or FADING[method]
            numbers = cells(runs, SEARCHED, BEFORE, DRAWN, RETRAINED)
            rows.append([task, title, str(samples), after, *numbers])
    head = ["task", "method", "samplings an epoch", "`retrain_schedule`", "seeds", "epochs to the ticket"]
    return [
        *section("One schedule or two", "--baselines", "--sampling", "--schedules", "--fading"),
        f"p = 0.8, {scale.search_epochs + 1:g} epochs in all. *Restart*: after the draw, a fresh optimizer and a "
        "learning rate that falls to 0 once more; *continue*: those of the search go on to the end.",
        "",
        *table([*head, "before the draw, %", "drawn, %", "in the end, %"], rows),
    ]


def drift(scale: Scale, records: Records) -> list[str]:
    """How far the masks of EB Train's search are from those of the pretrained weights."""
    found = of_part("drift", scale, records)
    rows = []
    for task, ratio in product(TEXT, COMPARED_RATIOS):
        runs = group(found, task=task, prune_ratio=ratio)
        if runs:
            epochs = range(min(len(record["from_pretrained"]) for record in runs))
            shares = [[100 * record["from_pretrained"][epoch] for record in runs] for epoch in epochs]
            apart = f"{200 * ratio * (1 - ratio):.0f}"
            rows.append([task, f"{ratio:g}", str(len(runs)), *(spread(values, 2) for values in shares), apart])
    if not rows:
        return []
    epochs_shown = [f"after epoch {epoch}, %" for epoch in range(1, len(rows[0]) - 3)]
    return [
        *section("How far the masks move", "--drift"),
        "Share of the units by which the mask differs from that of the pretrained weights, before anything is trained. "
        "Where it is this small, the ticket is nearly magnitude pruning of the pretrained model, and what methods "
        "differ in is for how long they train with it.",
        "",
        *table(["task", "p", "seeds", *epochs_shown, "two masks at random, %"], rows),
    ]


# Figures.


def figure_1(scale: Scale, records: Records, path: Path) -> bool:
    """Mean and largest mask distance at each epoch, one line a seed and the mean of those still searching."""
    found = of_part("figure 1", scale, records)
    if not found:
        return False
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, which, title in zip(axes, ("mean", "max"), ("mean distance", "largest distance"), strict=True):
        for method in ("eb_train", "worm_gradient"):
            lines = [
                [(seen["index"] + 1, seen[f"{which}_distance"]) for seen in record["observations"] if seen["distances"]]
                for record in group(found, method=method)
            ]
            for number_of_line, line in enumerate(lines):
                label = f"{METHODS[method]} ({len(lines)} seeds)" if number_of_line == 0 else None
                axis.plot(*zip(*line, strict=True), color=COLOURS[method], alpha=0.7, linewidth=1.2, label=label)
                axis.plot(*line[-1], "o", color=COLOURS[method], markersize=4)
        limit, text = (0.15, "trigger, s + δ = 0.15") if which == "mean" else (0.1, "stopping point, s = 0.1")
        axis.axhline(limit, color="black", linewidth=0.8, linestyle="--")
        axis.text(0.01, limit, text, ha="left", va="top", fontsize=8, transform=axis.get_yaxis_transform())
        axis.set(xlabel="epoch", title=title)
    axes[0].set_ylim(bottom=0)  # of both, once both are drawn
    axes[0].set_ylabel("share of the channels")
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def figure_2(scale: Scale, records: Records, path: Path) -> bool:
    """Training loss of EB Train and WORM on SST-2, the draw marked."""
    found = of_part("figure 2", scale, records)
    if not found:
        return False
    figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for method in ("eb_train", "worm_gradient"):
        runs = group(found, method=method)
        steps = sorted({step for record in runs for step, _ in record["losses"]})
        losses = [[dict(map(tuple, record["losses"])).get(step) for record in runs] for step in steps]
        kept = [
            (step, [value for value in values if value is not None]) for step, values in zip(steps, losses, strict=True)
        ]
        mean = [statistics.mean(values) for _, values in kept]
        width = 4.0 if method == "eb_train" else 1.3  # the second is drawn over the first, which it may hide
        label = f"{METHODS[method]} ({len(runs)} seeds)"
        axis.plot([step for step, _ in kept], mean, color=COLOURS[method], linewidth=width, label=label)
        low, high = [min(values) for _, values in kept], [max(values) for _, values in kept]
        axis.fill_between([step for step, _ in kept], low, high, color=COLOURS[method], alpha=0.2, linewidth=0)
    for step in sorted({record["steps_by_phase"]["search"] for record in found.values()}):
        axis.axvline(step, color="black", linewidth=0.8, linestyle="--")
        axis.text(step, 1, " draw", va="top", fontsize=8, transform=axis.get_xaxis_transform())
    axis.set(xlabel="optimizer step", ylabel="training loss", title="SST-2: mean and range over seeds")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def write(scale_name: str, records: Records, out: Path) -> Path:
    """Write the page and the figures of a scale."""
    scale = SCALES[scale_name]
    lines = begin("The paper's tables and the baselines", "", scale_name, records, PAGE_PARTS)
    lines += [*in_short(scale, records), *cnn_tables(scale, records), *text_tables(scale, records)]
    for figure, title, draw in (
        ("figure1", "Figure 1: mask distances, ResNet-18", figure_1),
        ("figure2", "Figure 2: loss, SST-2", figure_2),
    ):
        if draw(scale, records, out / f"{figure}-{scale_name}.png"):
            lines += [*section(title, f"--figure {figure[-1]}"), f"![{title}]({figure}-{scale_name}.png)", ""]
    for part in (claims, baselines, drift, sampling, schedules, recommendations):
        lines += part(scale, records)
    page = out / f"reproduce-{scale_name}.md"
    page.write_text("\n".join(lines))
    return page
