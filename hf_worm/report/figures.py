"""Figures of one run, or of several in one: the only module that needs matplotlib."""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, MultipleLocator
from transformers.trainer import TRAINER_STATE_NAME

from hf_worm.config import split_ratios
from hf_worm.report.account import STAGES
from hf_worm.report.density import block, density
from hf_worm.report.record import Record, short_names, shortened
from hf_worm.search import FADE_BOUND
from hf_worm.ticket import TICKET_NAME
from hf_worm.units.kinds import WORDS

# Okabe and Ito's colours, which people with any colour blindness tell apart; yellow, faint on white, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#606060"
DPI = 150  # pixels per inch of the files
LABEL = 30  # characters of a run's name: three fit beside each other
BLOCKS = 96  # in either direction of a mask, at the most
SIZES = {"*": 12, "v": 10, ".": 6}  # of markers, where not 8 points
COLUMNS = 6  # masks beside each other
MAP = "cividis"  # of one hue after another as the lightness grows, for any eyes
MARKS = {"before_draw": "o", "drawn": "v", "retrained": "s"}


Style = Literal["-", "--", ":", "-.", ""]


class Shown(NamedTuple):
    """A run, its name, and its colour in every figure."""

    record: Record
    label: str
    colour: Any


def shown(records: Sequence[Record]) -> list[Shown]:
    """Runs with short names and colours."""
    names = short_names([record.path.rstrip("/") for record in records], "/")
    if len(records) == 1:
        names = [Path(records[0].path).resolve().name]
    # A pair of `$` would be taken for a formula.
    names = [shortened(name, LABEL).replace("$", r"\$") for name in names]
    colours: Sequence[Any] = COLOURS[: len(records)]
    if len(records) > len(COLOURS):
        colours = [colormaps["viridis"](0.9 * place / (len(records) - 1)) for place in range(len(records))]
    return [Shown(*run) for run in zip(records, names, colours, strict=True)]


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
    fades = any(record.config.truncation_target == "fade" for record in records)
    for name, (lacks, draw) in FIGURES.items():
        if draw is fading and not fades:
            continue  # it is not missing
        drawable = [run for run in runs if not lacks(run.record)]
        reasons: dict[str, list[str]] = {}
        for run in runs:
            if reason := lacks(run.record):
                reasons.setdefault(reason, []).append(run.label)
        without = "; ".join(f"{', '.join(labels)} ({reason})" for reason, labels in reasons.items())
        if not drawable:
            lines.append(f"no {name}: {' or '.join(reasons)}")
            continue
        file = io.BytesIO()
        draw(drawable).savefig(file, format="png", dpi=DPI)
        path = folder / name
        path.unlink(missing_ok=True)  # or what a link leads to would be written over
        path.write_bytes(file.getvalue())
        lines.append(f"{path}{f', without {without}' if without else ''}")
    return lines


def distances(runs: Sequence[Shown]) -> Figure:
    """The paper's Figure 1: max and mean mask distance, s and s + δ, where truncation starts, what was drawn.

    Over epochs, or over observations where the epochs of a run are not known.
    """
    figure, axes = _figure()
    known = all(epoch is not None for run in runs for epoch, _ in run.record.places())
    limits = {(run.record.config.stopping_point, run.record.config.margin): run.colour for run in runs}
    for record, label, colour in runs:
        x = [float(epoch or 0) if known else place for place, (epoch, _) in enumerate(record.places(), 1)]
        compared = [(at, seen) for at, seen in zip(x, record.observations, strict=True) if seen.distances]
        places = [at for at, _ in compared]
        largest = [seen.max_distance or 0.0 for _, seen in compared]
        means = [seen.mean_distance or 0.0 for _, seen in compared]
        axes.plot(places, largest, "-", marker=".", color=colour, label=f"{label}: max distance")
        axes.plot(places, means, "--", marker=".", color=colour, label=f"{label}: mean distance")
        start = _truncation_start(record, x)
        if start is not None:
            _mark(axes, *start, "v", colour, f"{label}: truncation starts")
        if record.drawn:
            _mark(axes, places[-1], largest[-1], "*", colour, f"{label}: drawn")
    for (stop, margin), colour in limits.items():
        colour = GREY if len(limits) == 1 else colour
        axes.axhline(stop, color=colour, linewidth=1, linestyle=":", label=f"s = {stop:g}")
        axes.axhline(stop + margin, color=colour, linewidth=1, linestyle="-.", label=f"s + δ = {stop + margin:g}")
    axes.set(xlabel="epoch" if known else "observation", ylabel="mask distance (share of units that differ)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    if axes.get_xlim()[1] >= 3:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    limit_entries = [
        _entry(f"stopping point s = {_either(stop for stop, _ in limits)}", ":"),
        _entry(f"trigger s + δ = {_either(stop + margin for stop, margin in limits)}", "-."),
    ]
    run_entries = [
        _entry("max distance", "-", "."),
        _entry("mean distance", "--", "."),
        _entry("truncation starts", "", "v"),
        _entry("drawn", "", "*"),
    ]
    _legends(figure, runs, [*_used(axes, run_entries), *limit_entries])
    return figure


def _truncation_start(record: Record, x: Sequence[float]) -> tuple[float, float] | None:
    """Where truncation began: place and mean distance of the observation that decided it, or the very start."""
    if not record.config.truncates:
        return None
    if record.config.truncate_from == "start":
        return 0.0, 0.0
    for place, seen in zip(x, record.observations, strict=True):
        if seen.truncating:
            return place, seen.mean_distance or 0.0
    return None


def fading(runs: Sequence[Shown]) -> Figure:
    """Share of the L1 norm that the weights to be pruned hold, and the bound below which they may be drawn.

    Over epochs, or over observations where the epochs of a run are not known.
    """
    figure, axes = _figure(4.0)
    known = all(epoch is not None for run in runs for epoch, _ in run.record.places())
    for record, label, colour in runs:
        x = [float(epoch or 0) if known else place for place, (epoch, _) in enumerate(record.places(), 1)]
        shares = [100 * (seen.doomed_share or 0.0) for seen in record.observations]
        axes.plot(x, shares, "-", marker=".", color=colour, label=f"{label}: doomed weights")
        if record.drawn:
            _mark(axes, x[-1], shares[-1], "*", colour, f"{label}: drawn")
    axes.axhline(100 * FADE_BOUND, color=GREY, linewidth=1, linestyle=":", label="bound")
    axes.set(xlabel="epoch" if known else "observation", ylabel="doomed weights, % of the L1 norm")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    entries = _used(axes, [_entry("doomed weights", "-", "."), _entry("drawn", "", "*")])
    _legends(figure, runs, [*entries, _entry(f"may be drawn below {FADE_BOUND:.0%}", ":")])
    return figure


def loss(runs: Sequence[Shown]) -> Figure:
    """The paper's Figure 2: training loss over optimizer steps, through search, draw and retraining."""
    figure, axes = _figure()
    for record, label, colour in runs:
        for phase, style in (("search", "-"), ("retraining", "--")):
            points = [point for point in record.losses() if (point[0] <= record.searched) == (phase == "search")]
            if points:
                axes.plot(*zip(*points, strict=True), style, marker=".", color=colour, label=f"{label}: {phase}")
        if record.drawn and "steps" in record.phases.get("search", {}):
            axes.axvline(record.searched, color=colour, linewidth=1, linestyle=":", label=f"{label}: draw")
    axes.set(xlabel="optimizer step", ylabel="training loss (mean since the last logging)")
    axes.set_xlim(left=0)
    entries = [_entry("search", "-", "."), _entry("retraining", "--", "."), _entry("draw", ":")]
    _legends(figure, runs, _used(axes, entries))
    return figure


def layers(runs: Sequence[Shown]) -> Figure:
    """Share pruned of each layer, a bar for each run, beside the prune ratio."""
    names = list(dict.fromkeys(name for run in runs for name in run.record.layers))
    figure, axes = _figure(1.6 + 0.25 * len(names) * (1 + 0.4 * (len(runs) - 1)))
    height = 0.8 / len(runs)
    for place, (record, label, colour) in enumerate(runs):
        rows = [names.index(name) - 0.4 + (place + 0.5) * height for name in record.layers]
        axes.barh(rows, [100 * share for share in record.layers.values()], height, color=colour, label=label)
    ratios = dict.fromkeys(ratio for run in runs for ratio in run.record.config.prune_ratios.values())
    for ratio in ratios:
        axes.axvline(100 * ratio, color="black", linewidth=1, linestyle=":", label=f"p = {ratio:g}")
    axes.set_yticks(range(len(names)), short_names(names, "."))
    axes.set(xlabel="pruned share of the layer's units, %", xlim=(0, 100), ylim=(len(names) - 0.5, -0.5))
    _legends(figure, runs, [_entry(f"prune ratio p = {_either(ratios)}", ":")])
    return figure


def masks(runs: Sequence[Shown]) -> Figure:
    """The newest masks: of a matrix, the share kept in blocks of rows and columns; of BatchNorms, a line a layer."""
    names = list(dict.fromkeys(name for run in runs for name in run.record.masks))
    with_matrices = [run for run in runs if any(mask.dim() > 1 for mask in run.record.masks.values())]
    panels: list[tuple[Shown, str]] = []
    lined: list[tuple[Shown, list[str]]] = []
    for name in names:
        if any(name in run.record.masks and run.record.masks[name].dim() > 1 for run in runs):
            panels += [(run, name) for run in with_matrices]
    for run in runs:
        if flat := [name for name, mask in run.record.masks.items() if mask.dim() < 2]:
            lined.append((run, flat))
    together = max(len(with_matrices), 1)
    columns = max(together, COLUMNS // together * together)  # a layer's masks of all runs are in a row
    rows = -(-len(panels) // columns)
    heights = [*([0.3 + rows * (0.5 + 8 / columns)] if panels else []), *(1.0 + 0.22 * len(flat) for _, flat in lined)]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    parts = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    if panels:
        part = parts.pop(0)
        grid = part.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        shorts = short_names([name for _, name in panels], ".")
        for axes, (run, name), short in zip(grid.flat, panels, shorts, strict=False):
            if name not in run.record.masks:  # this run does not watch it
                axes.set_visible(False)
                continue
            _draw_matrix(axes, run.record.masks[name])
            title = [run.label, short] if len(runs) > 1 else [short]
            axes.set_title("\n".join(shortened(line, 140 // columns) for line in title), fontsize=8)
        part.supxlabel("input feature", fontsize="medium")
        part.supylabel("output feature", fontsize="medium")
        scale = ScalarMappable(Normalize(0, 1), MAP)
        part.colorbar(scale, ax=grid.ravel().tolist(), fraction=0.03, aspect=30, label="share of weights kept")
    for part, (run, flat) in zip(parts, lined, strict=True):
        axes = part.subplots()
        for place, name in enumerate(flat):
            units = run.record.masks[name].flatten()[None].numpy()
            extent = (0, units.shape[1], place + 0.4, place - 0.4)
            axes.imshow(units, cmap=MAP, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(flat)), short_names(flat, "."), fontsize=8)
        words = {name.partition("@")[0] for name in split_ratios(run.record.config.layers)}
        kinds = [kind.granularity for word, kind in WORDS.items() if word in words and kind.granularity != "weight"]
        axes.set(title=run.label, xlabel=" or ".join(kinds) or "unit", ylim=(len(flat) - 0.5, -0.5))
        axes.set_xlim(0, max(run.record.masks[name].numel() for name in flat))
        entries = [Patch(color=colormaps[MAP](float(kept)), label="kept" if kept else "pruned") for kept in (1, 0)]
        part.legend(handles=entries, loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _draw_matrix(axes: Axes, mask: torch.Tensor) -> None:
    """Input features to the right, output features, and so the heads of query and key, downwards."""
    rows, columns = mask.flatten(1).shape
    shares = density(mask, BLOCKS)
    extent = (0, shares.shape[1] * block(columns, BLOCKS), shares.shape[0] * block(rows, BLOCKS), 0)
    axes.imshow(shares, cmap=MAP, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="nearest")
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    for axis, length in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_major_locator(MultipleLocator(block(length, 8)))  # as heads are: by powers of two
    axes.tick_params(labelsize=6)


def accuracy(runs: Sequence[Shown]) -> Figure:
    """The first metric of each run at every evaluation, those around the draw marked."""
    figure, axes = _figure()
    for record, label, colour in runs:
        evaluations = record.evaluations(record.metric_names[0])
        points = [(seen.step, seen.value) for seen in evaluations]
        axes.plot(*zip(*points, strict=True), "-", marker=".", color=colour, label=label)
        for seen in evaluations:
            if seen.stage is not None:
                _mark(axes, seen.step, seen.value, MARKS[seen.stage], colour, f"{label}: {STAGES[seen.stage]}")
    metrics = dict.fromkeys(run.record.metric_names[0] for run in runs)
    axes.set(xlabel="optimizer step", ylabel=" or ".join(metrics))
    axes.set_xlim(left=0)
    _legends(figure, runs, _used(axes, [_entry(STAGES[stage], "", marker) for stage, marker in MARKS.items()]))
    return figure


def _figure(height: float = 5.0) -> tuple[Figure, Axes]:
    """A figure of 8 inches by `height`, and its axes."""
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _mark(axes: Axes, x: float, y: float, marker: str, colour: Any, label: str) -> None:
    """A mark with a rim, by which it stands out from a line and from another mark."""
    size = SIZES.get(marker, 8)
    axes.plot([x], [y], marker, color=colour, markersize=size, markeredgecolor="white", clip_on=False, label=label)


def _entry(title: str, style: Style, marker: str = "None") -> Line2D:
    """An entry of the legend that is of all runs."""
    return Line2D([], [], linestyle=style, marker=marker, markersize=SIZES.get(marker, 8), color=GREY, label=title)


def _used(axes: Axes, entries: Sequence[Line2D]) -> list[Line2D]:
    """Those of which there is something in the axes: its label is that of a run and the entry's."""
    labels = [str(line.get_label()) for line in axes.lines]
    return [entry for entry in entries if any(label.endswith(f": {entry.get_label()}") for label in labels)]


def _either(values: Iterable[float]) -> str:
    return " or ".join(dict.fromkeys(f"{value:g}" for value in values))


def _legends(figure: Figure, runs: Sequence[Shown], entries: Sequence[Line2D]) -> None:
    """The runs by their colours above the axes, and below what lines and marks mean."""
    colours = [Line2D([], [], color=run.colour, linewidth=3, label=run.label) for run in runs]
    figure.legend(handles=colours, loc="outside upper left", ncols=3, frameon=False, fontsize="small")
    figure.legend(handles=entries, loc="outside lower left", ncols=3, frameon=False, fontsize="small")


def _no_distances(record: Record) -> str:
    return "" if any(seen.distances for seen in record.observations) else "a distance takes two observations"


def _no_fading(record: Record) -> str:
    return "" if any(seen.doomed_share is not None for seen in record.observations) else "nothing faded"


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
