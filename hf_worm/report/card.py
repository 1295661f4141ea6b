"""The model card's part on pruning."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from torch import nn

from hf_worm.report import tables
from hf_worm.report.loading import model_name, origin
from hf_worm.report.papers import Paper, paper_of
from hf_worm.report.reading import record_of
from hf_worm.report.record import Record
from hf_worm.report.sentences import effect, gains, pruned, speed_line

FROM_SCRATCH = "This model was trained from scratch on "
OF_NOTHING = "This model is a fine-tuned version of [](https://huggingface.co/) on "


def extend_model_card(folder: str, repository: str | None, report: dict[str, Any]) -> None:
    """Add to the `README.md` in `folder` what the ticket prunes, how it was found, how to load the model, and tags."""
    path = Path(folder) / "README.md"
    card = ModelCard.load(path)
    tags = card.data.tags or []
    tags = [tags] if isinstance(tags, str) else list(tags)
    card.data.tags = tags + [tag for tag in tags_of(record_of(report)) if tag not in tags]
    card.text = f"{card.text.rstrip()}\n\n{card_section(repository or Path(folder).resolve().name, report)}"
    card.save(path)


def tags_of(record: Record) -> list[str]:
    """List the tags by which the Hub finds a model that was pruned so."""
    return ["worm", *(["early-bird"] if record.method.early_bird else []), "pruning"]


def correct_origin(folder: str, model: nn.Module) -> None:
    """Say what the model was fine-tuned from, if anything, where the parent's card does not know.

    The parent takes a model from a local folder for one that was trained from scratch, and one with new weights for one
    of the Hub, without a name.

    Args:
        folder (`str`): The folder of the card.
        model (`nn.Module`): The model.
    """
    path = Path(folder) / "README.md"
    card, source = path.read_text(encoding="utf-8"), origin(model)
    if not source:
        corrected = card.replace(OF_NOTHING, FROM_SCRATCH)
    elif os.path.isdir(source):
        corrected = card.replace(FROM_SCRATCH, f"This model is a fine-tuned version of `{model_name(model)}` on ")
    else:
        return
    if corrected != card:
        path.write_text(corrected, encoding="utf-8")


def card_section(repository: str, report: dict[str, Any]) -> str:
    """Write the part of a model card that a run's report makes."""
    record = record_of(report)
    paper = paper_of(record.method)
    return (
        "\n\n".join(
            [
                "## Pruning",
                f"Base model: `{report['model']}`. {_found(record, paper)} "
                + " ".join([pruned(record), *record.method.additions()]),
                effect(record),
                *_costs(record),
                "### Metrics",
                _metrics(record),
                *_search(record),
                "### Sparsity by layer",
                tables.layers(record, [f"`{name}`" for name in record.layers]).markdown(),
                "### Loading",
                _loading(repository, report["loading"]),
                *([] if "compact_weights" in report["account"] else [_holding(repository)]),
                *([] if paper is None else ["### Citation", f"```bibtex\n{paper.bibtex}\n```"]),
            ]
        )
        + "\n"
    )


def _found(record: Record, paper: Paper | None) -> str:
    """Say by which method the masks were found, and how the search ended."""
    method = record.method
    link = f" ({paper.link})" if paper is not None else ""
    if not method.searched:
        return "Pruned with `hf_worm` by masks that were given: no search has found them."
    epochs = record.phases["search"]["epochs"]
    when = f"after {epochs:.4g} epochs" if epochs else "in another run"
    if method.search_share and not record.converged:
        return f"Pruned while fine-tuning by {method.name}{link} with `hf_worm`: {when}, as planned."
    newest = "" if record.converged else ": the newest masks were drawn"
    outcome = f"{method.outcome(record.converged is True)} {when}{newest}"
    return f"Pruned while fine-tuning by {method.name}{link} with `hf_worm`; {outcome}."


def _costs(record: Record) -> list[str]:
    asked = [] if record.speed is None else [speed_line(record.speed)]
    if record.costs is None:
        return asked
    return [*asked, "### Size and time", tables.costs(record.costs, spread=True).markdown(), gains(record.costs)]


def _metrics(record: Record) -> str:
    if not record.metrics:
        return "The run had no evaluation set."
    return tables.stages(record, record.metric_names).markdown()


def _search(record: Record) -> list[str]:
    if not record.method.searched:
        return []
    settings = ", ".join(f"`{setting}`" for setting in tables.settings(record))
    table = tables.observations(record).markdown()
    title = f"At each observation: {tables.observation_title(record)}."
    return ["### The search", title, table, *tables.observation_notes(record), f"Settings: {settings}."]


def _loading(repository: str, loading: dict[str, Any]) -> str:
    if loading["call"] is None:
        return f"`model.safetensors` holds the weights alone, for a `{loading['class']}` that is made as for training."
    options = "".join(f", {name}={value!r}" for name, value in loading["options"].items())
    imports = _import(loading["module"], loading["class"])
    if architecture := loading.get("architecture"):
        imports += _import(*architecture)
        options += f", architecture={architecture[1]}"
    return f'```python\n{imports}\nmodel = {loading["call"]}("{repository}"{options})\n```'


def _import(module: str, name: str) -> str:
    if module == "__main__":
        return f"# {name}: as in the script that trained it\n"
    return f"from {module} import {name}\n"


def _holding(repository: str) -> str:
    return (
        "The masks, to train on with the zeros held:\n\n"
        "```python\n"
        "from hf_worm import Ticket\n\n"
        f'ticket = Ticket.from_pretrained("{repository}")\n'
        "handle = ticket.hold(model, optimizer)\n"
        "```"
    )
