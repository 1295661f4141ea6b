"""The result table that a run ends with."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from hf_worm.config import WormConfig
from hf_worm.report.account import STAGES, number, pruned_line
from hf_worm.report.speed import cost_rows, gains

PHASES = {"before_draw": "search", "drawn": "draw", "retrained": "retrain"}  # that each stage ends


def result_table(report: Mapping[str, Any]) -> str:
    """The table of a run that pruned, from its `worm_report.json`: metrics, epochs, seconds, sparsity.

    Args:
        report (`Mapping[str, Any]`): The content of `worm_report.json`.
    """
    search, account, config = report["search"], report["account"], WormConfig(**report["config"])
    outcome = "converged" if search["converged"] else "not converged, the newest mask was drawn"
    lines = [
        f"{method_line(config)}: {counted(len(search['observations']), 'observation')}, {outcome}",
        *stage_table(report["metrics"], report),
        pruned_line(account, config.layers),
        *(cost_lines(report["costs"]) if "costs" in report else []),
        *wrap(account["note"], 120),
    ]
    return "\n".join(lines)


def method_line(config: WormConfig) -> str:
    """The method and its numbers, by the paper's symbols: "WORM (p 0.5, r 0.003, s 0.01, δ 0.005, l 3)"."""
    ratios = ", ".join(f"{name} {ratio:g}" for name, ratio in config.prune_ratios.items())
    settings = f"{ratios}, r {config.truncation:g}, s {config.stopping_point:g}"
    faded = f", faded in {counted(config.fade_epochs, 'epoch')}" if config.truncation_target == "fade" else ""
    return f"{config.method} ({settings}, δ {config.margin:g}, l {config.window}{faded})"


def counted(value: float, unit: str) -> str:
    """A number with its unit: "1 epoch", "2.5 epochs"."""
    text = f"{value:,.2f}".rstrip("0").rstrip(".")
    return f"{text} {unit}{'' if value == 1 else 's'}"


def stage_table(metrics: Mapping[str, Mapping[str, float]], phases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table of the evaluations around the draw, and of what each phase took.

    Args:
        metrics (`Mapping[str, Mapping[str, float]]`): By `before_draw`, `drawn` and `retrained`.
        phases (`Mapping[str, Mapping[str, Any]]`): `epochs` and `seconds` by `search`, `draw` and `retrain`.
    """
    names = metric_names(metrics)
    rows = [["", *names, "epochs", "seconds"]]
    for stage, phase in PHASES.items():
        if phase in phases:
            cost = [number(phases[phase].get("epochs"), 2), number(phases[phase].get("seconds"), 1)]
            rows.append([STAGES[stage], *(number(metrics.get(stage, {}).get(name)) for name in names), *cost])
    return aligned(rows)


def cost_lines(costs: dict[str, Any]) -> list[str]:
    """Lines of a table of sizes and median times, and what was gained."""
    head, rows = cost_rows(costs, spread=False)
    return [*aligned([head, *rows]), *wrap(gains(costs), 92)]


def plain_table(
    title: str, metrics: Mapping[str, float], epochs: float | None = None, seconds: float | None = None
) -> str:
    """The table of a run without pruning, or without training.

    Args:
        title (`str`): What was done.
        metrics (`Mapping[str, float]`): The metrics by their plain names.
        epochs (`float`, *optional*): Epochs of training, if there was training.
        seconds (`float`, *optional*): Its wall-clock seconds.
    """
    names = metric_names({title: metrics})
    rows = [["", *names], [title, *(number(metrics[name]) for name in names)]]
    for head, value, digits in (("epochs", epochs, 2), ("seconds", seconds, 1)):
        if value is not None:
            rows[0].append(head)
            rows[1].append(number(value, digits))
    return "\n".join(["Nothing trained" if epochs is None else "Nothing pruned", *aligned(rows)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def metric_names(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Names of the metrics of all stages, the loss last."""
    names = list(dict.fromkeys(name for stage in metrics.values() for name in stage))
    return sorted(names, key=lambda name: name.endswith("loss"))  # the rest as they come
