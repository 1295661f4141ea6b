"""The figure of quality against speed."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from hf_worm.report.figures.drawing import COLOURS, figure_with_axes
from hf_worm.report.figures.writing import write_figure
from hf_worm.report.metrics import metric_names
from hf_worm.report.trade_off import Point


def trade_off(points: Sequence[Point]) -> Figure | None:
    """Draw the first metric against the measured speed, or by multiply-adds where it was not measured.

    Returns:
        `Figure`: `None` where nothing was evaluated.
    """
    names = metric_names([point.metrics for point in points])
    if not names:
        return None
    measured = all(point.measured is not None for point in points)
    speeds = [point.measured if measured and point.measured else point.multiply_adds for point in points]
    values = [point.metrics.get(names[0], float("nan")) for point in points]
    figure, axes = figure_with_axes()
    axes.plot(speeds, values, "-o", color=COLOURS[0])
    for point, speed, value in zip(points, speeds, values, strict=True):
        label = "dense" if point.speedup == 1 else f"{point.speedup:g}×"
        axes.annotate(label, (speed, value), xytext=(6, 6), textcoords="offset points")
    what = "times as fast, measured" if measured else "times fewer multiply-adds"
    axes.set(xlabel=f"the smaller model: {what}", ylabel=f"{names[0]}, as drawn", xlim=(0.9, max(speeds) * 1.1))
    return figure


def write_trade_off(points: Sequence[Point], path: Path) -> bool:
    """Write the figure to a file; tell whether there was anything to draw."""
    figure = trade_off(points)
    if figure is not None:
        write_figure(figure, path)
    return figure is not None
