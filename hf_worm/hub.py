"""What a run leaves for people to read: its report, and its part of the model card."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from torch import nn
from transformers import PreTrainedModel

from hf_worm.compact import RECORD
from hf_worm.config import CONFIG_NAME, WormConfig
from hf_worm.layers import representative_layers
from hf_worm.run import Progress
from hf_worm.ticket import HISTORY_NAME, TICKET_NAME, Ticket

REPORT_NAME = "worm_report.json"
RESULTS = (TICKET_NAME, CONFIG_NAME, HISTORY_NAME, REPORT_NAME)
EARLIER = "_earlier_run"  # the Trainer pushes nothing whose name begins so
TAGS = ("worm", "early-bird", "pruning")
NOTE = (
    "The checkpoint is an ordinary dense one with zeros in it: it loads like the unpruned model's, has its size and "
    "runs at its speed. Scattered zeros save storage once compressed, and time on hardware or kernels made for sparse "
    "matrices; they do not make a dense matrix product faster. Neurons, heads and silent channels save both once they "
    "are cut out of the network, which `compact=True` does, and this run did not."
)
NOTE_COMPACT = (
    "What the ticket prunes is cut out: the checkpoint is a dense one of smaller matrices, and needs no sparse "
    "kernels. What that gained was measured."
)
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
    report["account"] = account(ticket, model) if before is None else cut_out(before, model)
    if progress.costs:
        report["costs"] = progress.costs
    report["layers"] = {name: 1 - int(mask.count_nonzero()) / mask.numel() for name, mask in ticket.masks.items()}
    report["config"] = asdict(ticket.config)
    report["loading"] = loading(model)
    return report


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


def cut_out(before: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The account of a model that was made smaller, from that of the model before."""
    return {**before, "note": NOTE_COMPACT, "compact_weights": sum(p.numel() for p in model.parameters())}


def model_name(model: nn.Module) -> str:
    """What the model was loaded from, or its class where it was made from a configuration."""
    name: str = getattr(getattr(model, "config", None), "_name_or_path", "")
    if os.path.isdir(name):
        name = Path(name).resolve().name  # a card is for others to read: the path is of no use to them
    return name or type(model).__name__


def loading(model: nn.Module) -> dict[str, Any]:
    """What loads a checkpoint of this model, as the model's class tells it.

    Args:
        model (`nn.Module`): The model that was saved.

    Returns:
        `dict`: `module` and `class`, to be imported; `call`, which takes the checkpoint's name: the class, or its
        `from_pretrained`, or `None` where the checkpoint is the weights of a plain `nn.Module`; `options`, what it
        takes beside the name. Where the checkpoint carries the model's code, or needs its base model (PEFT), the class
        is an Auto class.
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
    if getattr(getattr(model, "config", None), RECORD, None) is not None:
        module, name, call, options = "hf_worm", "load_compact", "load_compact", {}
    elif hasattr(kind, "from_pretrained"):
        call = f"{name}.from_pretrained"
    elif hasattr(kind, "save_pretrained"):
        call = name
    return {"module": module, "class": name, "call": call, "options": options}


def set_aside(folder: str) -> None:
    """Move what an earlier run left of a ticket to `_earlier_run` in `folder`, where its weights are written over.

    It would be taken for the ticket of the weights that a search saves there, and pushed with them.
    """
    for name in RESULTS:
        path = Path(folder) / name
        if path.is_file():
            (path.parent / EARLIER).mkdir(exist_ok=True)
            os.replace(path, path.parent / EARLIER / name)


def extend_model_card(folder: str, repository: str | None, report: dict[str, Any]) -> None:
    """Add to the `README.md` in `folder` what the ticket prunes, how it was found, how to load the model, and tags."""
    path = Path(folder) / "README.md"
    card = ModelCard.load(path)
    tags = card.data.tags or []
    tags = [tags] if isinstance(tags, str) else list(tags)
    card.data.tags = tags + [tag for tag in TAGS if tag not in tags]
    card.text = f"{card.text.rstrip()}\n\n{card_section(repository or Path(folder).resolve().name, report)}"
    card.save(path)


def card_section(repository: str, report: dict[str, Any]) -> str:
    """The part of a model card that a run's report makes."""
    search, account, config = report["search"], report["account"], report["config"]
    method = WormConfig(**config).method
    how = (
        f"the masks had converged after {search['epochs']:.4g} epochs"
        if search["converged"]
        else f"the masks had not converged after {search['epochs']:.4g} epochs: the newest ones were drawn"
    )
    return "\n\n".join(
        [
            "## Pruning",
            f"Base model: `{report['model']}`. Pruned while fine-tuning by {method} "
            "([arXiv:2406.11872](https://arxiv.org/abs/2406.11872)) with `hf_worm`: "
            f"{account['pruned_weights']:,} weights are 0, {account['share_of_representative']:.1%} of the "
            f"{account['representative_weights']:,} weights watched ({', '.join(config['layers'])}) and "
            f"{account['share_of_model']:.1%} of the model's {account['model_weights']:,}; {how}.",
            account["note"],
            *(
                ["### Size and time", _table(*cost_rows(report["costs"])), gains(report["costs"])]
                if "costs" in report
                else []
            ),
            "### Metrics",
            _metrics_table(report["metrics"]),
            "### The search",
            _observations_table(search["observations"]),
            "Settings: " + ", ".join(f"`{name}={value!r}`" for name, value in config.items()) + ".",
            "### Sparsity by layer",
            _table(["layer", "pruned"], [[f"`{name}`", f"{share:.2%}"] for name, share in report["layers"].items()]),
            "### Loading",
            _loading_code(repository, report["loading"]),
            "The masks, to train on with the zeros held:\n\n"
            "```python\n"
            "from hf_worm import Ticket\n\n"
            f'ticket = Ticket.from_pretrained("{repository}")\n'
            "handle = ticket.hold(model, optimizer)\n"
            "```",
            "### Citation",
            "```bibtex\n"
            "@inproceedings{vasudev2024worm,\n"
            "  title     = {The EarlyBird Gets the WORM: Heuristically Accelerating EarlyBird Convergence},\n"
            "  author    = {Vasudev, Adithya},\n"
            "  booktitle = {Proceedings of the 4th NeurIPS Efficient Natural Language and Speech Processing "
            "Workshop},\n"
            "  series    = {Proceedings of Machine Learning Research},\n"
            "  volume    = {262},\n"
            "  pages     = {232--240},\n"
            "  year      = {2024}\n"
            "}\n"
            "```\n",
        ]
    )


def _loading_code(repository: str, loading: dict[str, Any]) -> str:
    if loading["call"] is None:
        return f"`model.safetensors` holds the weights alone, for a `{loading['class']}` that is made as for training."
    options = "".join(f", {name}={value!r}" for name, value in loading["options"].items())
    return (
        "```python\n"
        f"from {loading['module']} import {loading['class']}\n\n"
        f'model = {loading["call"]}("{repository}"{options})\n'
        "```"
    )


def _costs_section(costs: dict[str, Any] | None) -> list[str]:
    return [] if costs is None else ["### Size and time", _table(*cost_rows(costs)), gains(costs)]


def cost_rows(costs: dict[str, Any], spread: bool = True) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of sizes and times, a row for each model; medians, and quartiles if asked for."""
    size, seconds = costs["size"], costs["seconds"]
    head = ["", "parameters", "MB", "multiply-adds, M", *(f"{action}, ms" for action in seconds)]
    rows = [
        [
            name,
            f"{counts['parameters']:,}",
            f"{counts['bytes'] / 1e6:,.1f}",
            f"{counts['multiply_adds'] / 1e6:,.1f}",
            *(_milliseconds(times[name], spread) for times in seconds.values()),
        ]
        for name, counts in size.items()
    ]
    return head, rows


def gains(costs: dict[str, Any]) -> str:
    """How many times as fast as the dense model the compact one is at each action, and where nothing was gained."""
    told = []
    for action, times in costs["seconds"].items():
        dense, compact = times["dense"], times["compact"]
        apart = compact["high"] < dense["low"]
        told.append(f"{action}: " + (f"{dense['median'] / compact['median']:.2f}×" if apart else "nothing gained"))
    return (
        f"The compact model against the dense one: {', '.join(told)}. Medians, with quartiles, on the machine that "
        "trained; rows of its data. Zeros alone (*drawn*) gain nothing."
    )


def _milliseconds(times: dict[str, float], spread: bool) -> str:
    low, median, high = (1000 * times[name] for name in ("low", "median", "high"))
    return f"{median:.2f} ({low:.2f} to {high:.2f})" if spread else f"{median:.2f}"


def _observations_table(observations: list[dict[str, Any]]) -> str:
    head = ["observation", "max distance", "mean distance", "truncating", "converged"]
    rows = [
        [
            str(seen["index"] + 1),
            _number(seen["max_distance"]),
            _number(seen["mean_distance"]),
            "yes" if seen["truncating"] else "no",
            "yes" if seen["converged"] else "no",
        ]
        for seen in observations
    ]
    shares = [seen.get("doomed_share") for seen in observations]
    if any(share is not None for share in shares):
        head.append("doomed weights' share of the L1 norm")
        for row, share in zip(rows, shares, strict=True):
            row.append("" if share is None else f"{share:.2%}")
    return _table(head, rows)


def _metrics_table(metrics: dict[str, dict[str, float]]) -> str:
    stages = [stage for stage in STAGES if stage in metrics]
    if not stages:
        return "The run had no evaluation set."
    names = list(metrics[stages[0]])
    rows = [[STAGES[stage], *[_number(metrics[stage].get(name)) for name in names]] for stage in stages]
    return _table(["", *names], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
