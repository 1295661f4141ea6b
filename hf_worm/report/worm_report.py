"""`worm_report.json`: the results of a run, for people and programs to read."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from hf_worm.config import CONFIG_NAME
from hf_worm.report.account import account, account_of_compact
from hf_worm.report.loading import loading, model_name
from hf_worm.report.progress import Progress
from hf_worm.ticket import HISTORY_NAME, TICKET_NAME, Ticket, shares_pruned

REPORT_NAME = "worm_report.json"
RESULTS = (TICKET_NAME, CONFIG_NAME, HISTORY_NAME, REPORT_NAME)
EARLIER = "_earlier_run"  # the Trainer pushes nothing whose name begins so


def build_report(
    ticket: Ticket, progress: Progress, model: nn.Module, before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Make the report of a run, as `worm_report.json` has it.

    Args:
        ticket (`Ticket`): The ticket that was drawn.
        progress (`Progress`): Steps, epochs, seconds and metrics of the phases so far.
        model (`nn.Module`): The pruned model.
        before (`dict`, *optional*): Where the model was made smaller, the [`account`] of the model before.

    Returns:
        `dict`: JSON-ready. `metrics` by stage; `search`, `draw`, `retrain`: epochs, steps and wall-clock seconds;
        `account`: counts and shares in [0, 1] of what is pruned; `costs`, where they were measured; `speedup`, where
        one was asked for: `asked`, `multiply_adds`, `measured`; `layers`: share pruned by layer; `config`; `parts`:
        names of the parts of the search, where the ticket has them; `loading`: what loads the checkpoint, see
        [`~hf_worm.report.loading.loading`].
    """
    found = {"converged": ticket.converged, "observations": [asdict(observation) for observation in ticket.history]}
    report: dict[str, Any] = {
        "model": model_name(model),
        "architecture": type(model).__name__,
        "metrics": progress.metrics,
        "search": {**_phase(progress, "search"), **found},
        "draw": {"seconds": progress.seconds.get("draw", 0.0)},
    }
    if "retrain" in progress.steps:
        report["retrain"] = _phase(progress, "retrain")
    report["account"] = account(ticket, model) if before is None else account_of_compact(before, model)
    if progress.costs:
        report["costs"] = progress.costs
    if progress.speed:
        report["speedup"] = progress.speed
    report["layers"] = shares_pruned(ticket.masks)
    report["config"] = asdict(ticket.config)
    if ticket.parts:
        report["parts"] = dict(ticket.parts)
    report["loading"] = loading(model)
    return report


def _phase(progress: Progress, name: str) -> dict[str, Any]:
    return {
        "epochs": progress.epochs.get(name, 0.0),
        "steps": progress.steps.get(name, 0),
        "seconds": progress.seconds.get(name, 0.0),
    }


def report_json(report: Any) -> str:
    """Write a report as JSON, with `null` for what is not finite: other languages' readers know no `NaN`."""
    finite = json.loads(json.dumps(report), parse_constant=lambda name: None)
    return json.dumps(finite, indent=2) + "\n"


def set_aside(folder: str) -> None:
    """Move an earlier run's ticket and report to `_earlier_run` in `folder`, where its weights are written over.

    The ticket would be taken for that of the weights that a search saves there, and pushed with them.
    """
    for name in RESULTS:
        path = Path(folder) / name
        if path.is_file():
            (path.parent / EARLIER).mkdir(exist_ok=True)
            os.replace(path, path.parent / EARLIER / name)
