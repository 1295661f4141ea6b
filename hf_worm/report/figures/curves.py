"""The figures over training: mask distances, fading, loss, accuracy."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_worm.report.figures.drawing import GREY, Shown, either, entry, figure_with_axes, legends, mark, used
from hf_worm.report.metrics import STAGES
from hf_worm.report.record import Record
from hf_worm.search import FADE_BOUND

MARKS = {"before_draw": "o", "drawn": "v", "retrained": "s"}


def distances(runs: Sequence[Shown]) -> Figure:
    """Draw the paper's Figure 1: max and mean mask distance, s and s + δ, where truncation starts, what was drawn.

    Over epochs, or over observations where the epochs of a run are not known.
    """
    figure, axes = figure_with_axes()
    known = _epochs_known(runs)
    for run in runs:
        _draw_distances(axes, run, _places(run.record, known))
    limits = {
        (run.record.config.stopping_point, run.record.config.margin): run.colour
        for run in runs
        if run.record.method.early_bird
    }
    for (stop, margin), colour in limits.items():
        colour = GREY if len(limits) == 1 else colour
        axes.axhline(stop, color=colour, linewidth=1, linestyle=":", label=f"s = {stop:g}")
        axes.axhline(stop + margin, color=colour, linewidth=1, linestyle="-.", label=f"s + δ = {stop + margin:g}")
    _set_epochs(axes, known, "mask distance (share of units that differ)")
    if axes.get_xlim()[1] >= 3:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    run_entries = [
        entry("max distance", "-", "."),
        entry("mean distance", "--", "."),
        entry("truncation starts", "", "v"),
        entry("drawn", "", "*"),
    ]
    limit_entries = [
        entry(f"stopping point s = {either(stop for stop, _ in limits)}", ":"),
        entry(f"trigger s + δ = {either(stop + margin for stop, margin in limits)}", "-."),
    ]
    legends(figure, runs, [*used(axes, run_entries), *(limit_entries if limits else [])])
    return figure


def _draw_distances(axes: Axes, run: Shown, x: Sequence[float]) -> None:
    """Draw the distances of one run, where truncation starts, and the draw."""
    record, label, colour = run
    compared = [
        (at, observation) for at, observation in zip(x, record.observations, strict=True) if observation.distances
    ]
    places = [at for at, _ in compared]
    largest = [observation.max_distance or 0.0 for _, observation in compared]
    means = [observation.mean_distance or 0.0 for _, observation in compared]
    axes.plot(places, largest, "-", marker=".", color=colour, label=f"{label}: max distance")
    axes.plot(places, means, "--", marker=".", color=colour, label=f"{label}: mean distance")
    start = _truncation_start(record, x)
    if start is not None:
        mark(axes, *start, "v", colour, f"{label}: truncation starts")
    if record.drawn:
        mark(axes, places[-1], largest[-1], "*", colour, f"{label}: drawn")


def _truncation_start(record: Record, x: Sequence[float]) -> tuple[float, float] | None:
    """Find where truncation began: place and mean distance of the observation that decided it, or the very start."""
    if not record.method.truncates:
        return None
    if record.config.truncate_from == "start":
        return 0.0, 0.0
    for place, observation in zip(x, record.observations, strict=True):
        if observation.truncating:
            return place, observation.mean_distance or 0.0
    return None


def fading(runs: Sequence[Shown]) -> Figure:
    """Draw the share of the L1 norm in the weights to be pruned, and the bound below which they may be drawn.

    Over epochs, or over observations where the epochs of a run are not known.
    """
    figure, axes = figure_with_axes(4.0)
    known = _epochs_known(runs)
    for record, label, colour in runs:
        x = _places(record, known)
        shares = [100 * (observation.doomed_share or 0.0) for observation in record.observations]
        axes.plot(x, shares, "-", marker=".", color=colour, label=f"{label}: norm left")
        if record.drawn:
            mark(axes, x[-1], shares[-1], "*", colour, f"{label}: drawn")
    axes.axhline(100 * FADE_BOUND, color=GREY, linewidth=1, linestyle=":", label="bound")
    _set_epochs(axes, known, "weights to be pruned, % of the L1 norm")
    entries = used(axes, [entry("norm left", "-", "."), entry("drawn", "", "*")])
    legends(figure, runs, [*entries, entry(f"may be drawn below {FADE_BOUND:.0%}", ":")])
    return figure


def _epochs_known(runs: Sequence[Shown]) -> bool:
    return all(epoch is not None for run in runs for epoch, _ in run.record.places())


def _places(record: Record, epochs: bool) -> list[float]:
    """Place the observations on an axis of epochs, or of their numbers."""
    return [float(epoch or 0) if epochs else place for place, (epoch, _) in enumerate(record.places(), 1)]


def _set_epochs(axes: Axes, known: bool, ylabel: str) -> None:
    axes.set(xlabel="epoch" if known else "observation", ylabel=ylabel)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def loss(runs: Sequence[Shown]) -> Figure:
    """Draw the paper's Figure 2: training loss over optimizer steps, through search, draw and retraining."""
    figure, axes = figure_with_axes()
    for record, label, colour in runs:
        for phase, style in (("search", "-"), ("retraining", "--")):
            points = [point for point in record.losses() if (point[0] <= record.searched) == (phase == "search")]
            if points:
                axes.plot(*zip(*points, strict=True), style, marker=".", color=colour, label=f"{label}: {phase}")
        if record.drawn and "steps" in record.phases.get("search", {}):
            axes.axvline(record.searched, color=colour, linewidth=1, linestyle=":", label=f"{label}: draw")
    axes.set(xlabel="optimizer step", ylabel="training loss (mean since the last logging)")
    axes.set_xlim(left=0)
    entries = [entry("search", "-", "."), entry("retraining", "--", "."), entry("draw", ":")]
    legends(figure, runs, used(axes, entries))
    return figure


def accuracy(runs: Sequence[Shown]) -> Figure:
    """Draw the first metric of each run at every evaluation, and mark those around the draw."""
    figure, axes = figure_with_axes()
    for run in runs:
        _draw_accuracy(axes, *run)
    metrics = dict.fromkeys(run.record.metric_names[0] for run in runs)
    axes.set(xlabel="optimizer step", ylabel=" or ".join(metrics))
    axes.set_xlim(left=0)
    legends(figure, runs, used(axes, [entry(STAGES[stage], "", marker) for stage, marker in MARKS.items()]))
    return figure


def _draw_accuracy(axes: Axes, record: Record, label: str, colour: Any) -> None:
    evaluations = record.evaluations(record.metric_names[0])
    points = [(at.step, at.value) for at in evaluations]
    axes.plot(*zip(*points, strict=True), "-", marker=".", color=colour, label=label)
    for at in evaluations:
        if at.stage is not None:
            mark(axes, at.step, at.value, MARKS[at.stage], colour, f"{label}: {STAGES[at.stage]}")
