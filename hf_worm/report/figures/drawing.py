"""Parts of all figures: the runs with their names and colours, axes, marks and legends."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_worm.report.record import Record
from hf_worm.report.text import short_names, shortened

# Okabe and Ito's colours, which people with any colour blindness tell apart; yellow, faint on white, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#606060"
LABEL = 30  # characters of a run's name: three fit beside each other
SIZES = {"*": 12, "v": 10, ".": 6}  # of markers, where not 8 points

Style = Literal["-", "--", ":", "-.", ""]


class Shown(NamedTuple):
    """A run, its name, and its colour in every figure."""

    record: Record
    label: str
    colour: Any


def shown(records: Sequence[Record]) -> list[Shown]:
    """Give each run a short name and a colour."""
    names = short_names([record.path.rstrip("/") for record in records], "/")
    if len(records) == 1:
        names = [Path(records[0].path).resolve().name]
    # A pair of `$` would be taken for a formula.
    names = [shortened(name, LABEL).replace("$", r"\$") for name in names]
    colours: Sequence[Any] = COLOURS[: len(records)]
    if len(records) > len(COLOURS):
        colours = [colormaps["viridis"](0.9 * place / (len(records) - 1)) for place in range(len(records))]
    return [Shown(*run) for run in zip(records, names, colours, strict=True)]


def figure_with_axes(height: float = 5.0) -> tuple[Figure, Axes]:
    """Make a figure of 8 inches by `height`, and its axes."""
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def mark(axes: Axes, x: float, y: float, marker: str, colour: Any, label: str) -> None:
    """Draw a mark with a rim, by which it stands out from a line and from another mark."""
    size = SIZES.get(marker, 8)
    axes.plot([x], [y], marker, color=colour, markersize=size, markeredgecolor="white", clip_on=False, label=label)


def entry(title: str, style: Style, marker: str = "None") -> Line2D:
    """Make an entry of the legend that is of all runs."""
    return Line2D([], [], linestyle=style, marker=marker, markersize=SIZES.get(marker, 8), color=GREY, label=title)


def used(axes: Axes, entries: Sequence[Line2D]) -> list[Line2D]:
    """Keep the entries of which there is something in the axes: its label is that of a run and the entry's."""
    labels = [str(line.get_label()) for line in axes.lines]
    return [entry for entry in entries if any(label.endswith(f": {entry.get_label()}") for label in labels)]


def either(values: Iterable[float]) -> str:
    """Write one value, or several with "or" between them."""
    return " or ".join(dict.fromkeys(f"{value:g}" for value in values))


def legends(figure: Figure, runs: Sequence[Shown], entries: Sequence[Line2D]) -> None:
    """Name the runs by their colours above the axes, and below what lines and marks mean."""
    colours = [Line2D([], [], color=run.colour, linewidth=3, label=run.label) for run in runs]
    figure.legend(handles=colours, loc="outside upper left", ncols=3, frameon=False, fontsize="small")
    figure.legend(handles=entries, loc="outside lower left", ncols=3, frameon=False, fontsize="small")
