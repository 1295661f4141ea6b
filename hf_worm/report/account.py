"""What a run leaves for people and programs to read: `worm_report.json`."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel

from hf_worm.compact import RECORD
from hf_worm.config import CONFIG_NAME, split_ratios
from hf_worm.report.progress import Progress
from hf_worm.ticket import HISTORY_NAME, TICKET_NAME, Ticket, shares_pruned
from hf_worm.units import representative_layers

REPORT_NAME = "worm_report.json"
RESULTS = (TICKET_NAME, CONFIG_NAME, HISTORY_NAME, REPORT_NAME)
EARLIER = "_earlier_run"  # the Trainer pushes nothing whose name begins so
NOTE = (
    "The checkpoint is an ordinary dense one with zeros in it: it loads like the unpruned model's, has its size and "
    "runs at its speed. Scattered zeros save storage once compressed, and time on hardware or kernels made for sparse "
    "matrices; they do not make a dense matrix product faster. Neurons, heads and silent channels save both once they "
    "are cut out of the network, which this run did not do: `compact=True` does, for models where it is possible."
)
NOTE_COMPACT = (
    "What the ticket prunes is cut out: the checkpoint is a dense one of smaller matrices, and needs no sparse kernels."
)
NOTE_RECORDED = "Its configuration can't say their shapes: `hf_worm.load_compact` loads it."
# Ends of what the Trainer adds to an evaluation.
NOT_METRICS = ("_runtime", "_per_second", "_preparation_time", "_alloc_delta", "_peaked_delta")
STAGES = {"before_draw": "before the draw", "drawn": "drawn", "retrained": "retrained"}


def build_report(
    ticket: Ticket, progress: Progress, model: nn.Module, before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The report of a run, as `worm_report.json` has it.

    Args:
        ticket (`Ticket`): The ticket that was drawn.
        progress (`Progress`): Steps, epochs, seconds and metrics of the phases so far.
        model (`nn.Module`): The pruned model.
        before (`dict`, *optional*): Where the model was made smaller, the [`account`] of the model before.

    Returns:
        `dict`: JSON-ready. `metrics` by stage; `search`, `draw`, `retrain`: epochs, steps and wall-clock seconds;
        `account`: counts and shares in [0, 1] of what is pruned; `layers`: share pruned by layer; `config`;
        `loading`: what loads the checkpoint, see [`loading`].
    """

    def phase(name: str) -> dict[str, Any]:
        return {
            "epochs": progress.epochs.get(name, 0.0),
            "steps": progress.steps.get(name, 0),
            "seconds": progress.seconds.get(name, 0.0),
        }

    report: dict[str, Any] = {
        "model": model_name(model),
        "architecture": type(model).__name__,
        "metrics": progress.metrics,
        "search": {
            **phase("search"),
            "converged": ticket.converged,
            "observations": [asdict(seen) for seen in ticket.history],
        },
        "draw": {"seconds": progress.seconds.get("draw", 0.0)},
    }
    if "retrain" in progress.steps:
        report["retrain"] = phase("retrain")
    report["account"] = account(ticket, model) if before is None else account_of_compact(before, model)
    if progress.costs:
        report["costs"] = progress.costs
    report["layers"] = shares_pruned(ticket.masks)
    report["config"] = asdict(ticket.config)
    report["loading"] = loading(model)
    return report


def report_json(report: dict[str, Any]) -> str:
    """The text of `worm_report.json`, with `null` for what is not finite: other languages' readers know no `NaN`."""
    finite = json.loads(json.dumps(report), parse_constant=lambda name: None)
    return json.dumps(finite, indent=2) + "\n"


def is_number(value: Any) -> bool:
    """Whether a value of an evaluation is a number: metrics may be anything."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(value: float | None, digits: int = 4) -> str:
    """A number of so many decimals, for people; nothing for `None`."""
    return "" if value is None else f"{value:.{digits}f}"


def account(ticket: Ticket, model: nn.Module) -> dict[str, Any]:
    """How many weights the ticket prunes, out of how many, and what that does and does not do."""
    pruned = watched = 0
    for layer in representative_layers(model, ticket.config.layers):
        mask = ticket.masks[layer.name]
        weights = sum(view.weight.numel() for view in layer.views)
        watched += weights
        pruned += (mask.numel() - int(mask.count_nonzero())) * (weights // mask.numel())
    whole = sum(parameter.numel() for parameter in model.parameters())
    return {
        "pruned_weights": pruned,
        "representative_weights": watched,
        "model_weights": whole,
        "share_of_representative": pruned / watched,
        "share_of_model": pruned / whole,
        "note": NOTE,
    }


def account_of_compact(before: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The account of a model that was made smaller, from that of the model before.

    More may be gone than what was watched: with a channel, the weights of the convolutions around it.
    """
    compact, whole = sum(parameter.numel() for parameter in model.parameters()), before["model_weights"]
    gone = {"pruned_weights": whole - compact, "share_of_model": (whole - compact) / whole}
    note = f"{NOTE_COMPACT} {NOTE_RECORDED}" if _recorded(model) else NOTE_COMPACT
    return {**before, **gone, "note": note, "compact_weights": compact}


def pruned_line(account: Mapping[str, Any], layers: Sequence[str]) -> str:
    """How many weights are pruned, or cut out, and what shares of the watched layers and of the model they are."""
    names = ", ".join(name if name.isalpha() else f"`{name}`" for name in split_ratios(layers))  # `*` is no emphasis
    watched, weights = f"{account['share_of_representative']:.1%} of {names}", f"{account['pruned_weights']:,} weights"
    of_model = f"{account['share_of_model']:.1%} of the model's {account['model_weights']:,}"
    if "compact_weights" in account:
        return f"Cut out: {weights}, {of_model}: {watched}, and what goes with it."
    return f"Pruned: {weights}, {watched} and {of_model}."


def origin(model: nn.Module) -> str:
    """The folder or the id on the Hub that the model was loaded from; empty where it was not."""
    name: str = getattr(getattr(model, "config", None), "_name_or_path", "")
    return name


def model_name(model: nn.Module) -> str:
    """What the model was loaded from, or its class where it was made from a configuration."""
    name = origin(model)
    if os.path.isdir(name):
        name = Path(os.path.abspath(name)).name  # a card is for others to read: the path is of no use to them
    return name or type(model).__name__


def loading(model: nn.Module) -> dict[str, Any]:
    """What loads a checkpoint of this model, as the model's class tells it.

    Args:
        model (`nn.Module`): The model that was saved.

    Returns:
        `dict`: `module` and `class`, to be imported; `call`, which takes the checkpoint's name: the class, or its
        `from_pretrained`, or `None` where the checkpoint is the weights of a plain `nn.Module`; `options`, what it
        takes beside the name; `architecture`, for `load_compact`: module and name of a class that Transformers lacks.
        Where the checkpoint carries the model's code, or needs its base model (PEFT), the class is an Auto class.
    """
    kind = type(model)
    module, name = kind.__module__, kind.__name__
    options: dict[str, Any] = {}
    package = module.partition(".")[0]
    exports = sys.modules.get(package)
    if isinstance(model, PreTrainedModel) and model._auto_class is not None:
        module, name, options = "transformers", model._auto_class, {"trust_remote_code": True}
    elif hasattr(exports, f"Auto{name}"):
        module, name = package, f"Auto{name}"
        classes = getattr(getattr(model, "config", None), "num_labels", 2)
        options = {} if classes == 2 else {"num_labels": classes}  # or the base model gets a head for two
    elif getattr(exports, name, None) is kind:
        module = package
    call = None
    if _recorded(model):
        found = {"module": "hf_worm", "class": "load_compact", "call": "load_compact", "options": {}}
        known = hasattr(transformers, kind.__name__)
        return found if known else {**found, "architecture": [kind.__module__, kind.__name__]}
    if hasattr(kind, "from_pretrained"):
        call = f"{name}.from_pretrained"
    elif hasattr(kind, "save_pretrained"):
        call = name
    return {"module": module, "class": name, "call": call, "options": options}


def _recorded(model: nn.Module) -> bool:
    """Whether a compact model's shapes are more than its configuration can say."""
    return getattr(getattr(model, "config", None), RECORD, None) is not None


def set_aside(folder: str) -> None:
    """Move what an earlier run left of a ticket to `_earlier_run` in `folder`, where its weights are written over.

    It would be taken for the ticket of the weights that a search saves there, and pushed with them.
    """
    for name in RESULTS:
        path = Path(folder) / name
        if path.is_file():
            (path.parent / EARLIER).mkdir(exist_ok=True)
            os.replace(path, path.parent / EARLIER / name)
