"""The figure of the share pruned of each layer."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from hf_worm.report.figures.drawing import Shown, either, entry, figure_with_axes, legends
from hf_worm.report.text import short_names


def layers(runs: Sequence[Shown]) -> Figure:
    """Draw the share pruned of each layer, a bar for each run, beside the prune ratio."""
    names = list(dict.fromkeys(name for run in runs for name in run.record.layers))
    figure, axes = figure_with_axes(1.6 + 0.25 * len(names) * (1 + 0.4 * (len(runs) - 1)))
    height = 0.8 / len(runs)
    for place, (record, label, colour) in enumerate(runs):
        rows = [names.index(name) - 0.4 + (place + 0.5) * height for name in record.layers]
        axes.barh(rows, [100 * share for share in record.layers.values()], height, color=colour, label=label)
    ratios = dict.fromkeys(ratio for run in runs for ratio in run.record.config.prune_ratios.values())
    for ratio in ratios:
        axes.axvline(100 * ratio, color="black", linewidth=1, linestyle=":", label=f"p = {ratio:g}")
    axes.set_yticks(range(len(names)), short_names(names, "."))
    axes.set(xlabel="pruned share of the layer's units, %", xlim=(0, 100), ylim=(len(names) - 0.5, -0.5))
    legends(figure, runs, [entry(f"prune ratio p = {either(ratios)}", ":")] if ratios else [])
    return figure
