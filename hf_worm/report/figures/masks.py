"""The figure of the newest masks."""

from collections.abc import Sequence

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from hf_worm.config import split_ratios
from hf_worm.report.figures.density import block, density
from hf_worm.report.figures.drawing import Shown
from hf_worm.report.text import short_names, shortened
from hf_worm.units.kinds import WORDS

BLOCKS = 96  # in either direction of a mask, at the most
COLUMNS = 6  # masks beside each other
MAP = "cividis"  # of one hue after another as the lightness grows, for any eyes


def masks(runs: Sequence[Shown]) -> Figure:
    """Draw the newest masks: of a matrix, the share kept in blocks of rows and columns; of units, a line a layer."""
    with_matrices = [run for run in runs if any(mask.dim() > 1 for mask in run.record.masks.values())]
    matrices = _matrices(runs)
    panels = [(run, name) for name in matrices for run in with_matrices]  # a layer's masks of all runs are in a row
    columns = len(with_matrices) * max(1, COLUMNS // max(1, len(with_matrices)))
    lined = [(run, flat) for run in runs if (flat := _flat(run))]
    heights = [1.0 + 0.22 * len(flat) for _, flat in lined]
    if panels:
        rows = -(-len(panels) // columns)
        heights.insert(0, 0.3 + rows * (0.5 + 8 / columns))
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    parts = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    if panels:
        _draw_matrices(parts.pop(0), panels, columns, several=len(runs) > 1)
    for part, (run, flat) in zip(parts, lined, strict=True):
        _draw_lines(part, run, flat)
    return figure


def _matrices(runs: Sequence[Shown]) -> list[str]:
    """List the layers whose mask is a matrix in one of the runs."""
    names = dict.fromkeys(name for run in runs for name in run.record.masks)
    return [name for name in names if any(run.record.masks[name].dim() > 1 for run in runs if name in run.record.masks)]


def _flat(run: Shown) -> list[str]:
    """List the layers whose mask has one dimension."""
    return [name for name, mask in run.record.masks.items() if mask.dim() < 2]


def _draw_matrices(part: SubFigure, panels: Sequence[tuple[Shown, str]], columns: int, several: bool) -> None:
    """Draw a panel for each matrix, with the run's name over it where there are several runs."""
    grid = part.subplots(-(-len(panels) // columns), columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    shorts = short_names([name for _, name in panels], ".")
    for axes, (run, name), short in zip(grid.flat, panels, shorts, strict=False):
        mask = run.record.masks.get(name)
        if mask is None or mask.dim() < 2:  # this run does not watch the matrix, or larger units of it
            axes.set_visible(False)
            continue
        _draw_matrix(axes, mask)
        title = [run.label, short] if several else [short]
        axes.set_title("\n".join(shortened(line, 140 // columns) for line in title), fontsize=8)
    part.supxlabel("input feature", fontsize="medium")
    part.supylabel("output feature", fontsize="medium")
    scale = ScalarMappable(Normalize(0, 1), MAP)
    part.colorbar(scale, ax=grid.ravel().tolist(), fraction=0.03, aspect=30, label="share of weights kept")


def _draw_matrix(axes: Axes, mask: torch.Tensor) -> None:
    """Draw input features to the right, output features, and so the heads of query and key, downwards."""
    rows, columns = mask.flatten(1).shape
    shares = density(mask, BLOCKS)
    extent = (0, shares.shape[1] * block(columns, BLOCKS), shares.shape[0] * block(rows, BLOCKS), 0)
    axes.imshow(shares, cmap=MAP, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="nearest")
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    for axis, length in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_major_locator(MultipleLocator(block(length, 8)))  # as heads are: by powers of two
    axes.tick_params(labelsize=6)


def _draw_lines(part: SubFigure, run: Shown, names: Sequence[str]) -> None:
    """Draw a line for each layer of units, which are kept or pruned."""
    axes = part.subplots()
    for place, name in enumerate(names):
        units = run.record.masks[name].flatten()[None].numpy()
        extent = (0, units.shape[1], place + 0.4, place - 0.4)
        axes.imshow(units, cmap=MAP, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(names)), short_names(names, "."), fontsize=8)
    words = {name.partition("@")[0] for name in split_ratios(run.record.config.layers)}
    kinds = [kind.granularity for word, kind in WORDS.items() if word in words and kind.granularity != "weight"]
    axes.set(title=run.label, xlabel=" or ".join(kinds) or "unit", ylim=(len(names) - 0.5, -0.5))
    axes.set_xlim(0, max(run.record.masks[name].numel() for name in names))
    entries = [Patch(color=colormaps[MAP](float(kept)), label="kept" if kept else "pruned") for kept in (1, 0)]
    part.legend(handles=entries, loc="outside right upper", frameon=False, fontsize="small")
