"""The model card's part on pruning."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hf_worm.config import WormConfig
from hf_worm.report.account import STAGES, number, pruned_line
from hf_worm.report.speed import cost_rows, gains

TAGS = ("worm", "early-bird", "pruning")
FROM_SCRATCH = "This model was trained from scratch on "
OF_NOTHING = "This model is a fine-tuned version of [](https://huggingface.co/) on "
FADING = " Fading, by which weights shrink before they are pruned, is an addition of `hf_worm` to the paper's method."
WORM = (
    "2406.11872",
    """\
@inproceedings{vasudev2024worm,
  title     = {The EarlyBird Gets the WORM: Heuristically Accelerating EarlyBird Convergence},
  author    = {Vasudev, Adithya},
  booktitle = {Proceedings of the 4th NeurIPS Efficient Natural Language and Speech Processing Workshop},
  series    = {Proceedings of Machine Learning Research},
  volume    = {262},
  pages     = {232--240},
  year      = {2024}
}""",
)
EB_TRAIN = (
    "1909.11957",
    """\
@inproceedings{you2020earlybird,
  title     = {Drawing Early-Bird Tickets: Toward More Efficient Training of Deep Networks},
  author    = {You, Haoran and Li, Chaojian and Xu, Pengfei and Fu, Yonggan and Wang, Yue and Chen, Xiaohan and
               Baraniuk, Richard G. and Wang, Zhangyang and Lin, Yingyan},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}""",
)


def extend_model_card(folder: str, repository: str | None, report: dict[str, Any]) -> None:
    """Add to the `README.md` in `folder` what the ticket prunes, how it was found, how to load the model, and tags."""
    path = Path(folder) / "README.md"
    card = ModelCard.load(path)
    tags = card.data.tags or []
    tags = [tags] if isinstance(tags, str) else list(tags)
    card.data.tags = tags + [tag for tag in TAGS if tag not in tags]
    card.text = f"{card.text.rstrip()}\n\n{card_section(repository or Path(folder).resolve().name, report)}"
    card.save(path)


def correct_origin(folder: str, origin: str, model: str) -> None:
    """Say what the model was fine-tuned from, if anything, where the parent's card does not know.

    The parent takes a model from a local folder for one that was trained from scratch, and one with new weights for one
    of the Hub, without a name.

    Args:
        folder (`str`): That of the card.
        origin (`str`): The folder or the id on the Hub that the model was loaded from; empty where it was not.
        model (`str`): What to call it.
    """
    path = Path(folder) / "README.md"
    card = path.read_text(encoding="utf-8")
    if not origin:
        corrected = card.replace(OF_NOTHING, FROM_SCRATCH)
    elif os.path.isdir(origin):
        corrected = card.replace(FROM_SCRATCH, f"This model is a fine-tuned version of `{model}` on ")
    else:
        return
    if corrected != card:
        path.write_text(corrected, encoding="utf-8")


def card_section(repository: str, report: dict[str, Any]) -> str:
    """The part of a model card that a run's report makes."""
    search, account, config = report["search"], report["account"], WormConfig(**report["config"])
    smaller = "compact_weights" in account
    paper, citation = WORM if config.truncates else EB_TRAIN
    when = f"after {search['epochs']:.4g} epochs" if search["epochs"] else "in another run"
    how = (
        f"the masks had converged {when}"
        if search["converged"]
        else f"the masks had not converged {when}: the newest ones were drawn"
    )
    return "\n\n".join(
        [
            "## Pruning",
            f"Base model: `{report['model']}`. Pruned while fine-tuning by {config.method} "
            f"([arXiv:{paper}](https://arxiv.org/abs/{paper})) with `hf_worm`; {how}. "
            f"{pruned_line(account, config.layers)}{FADING if config.truncation_target == 'fade' else ''}",
            account["note"],
            *_costs_section(report.get("costs")),
            "### Metrics",
            _metrics_table(report["metrics"]),
            "### The search",
            _observations_table(search["observations"], config),
            "Settings: " + ", ".join(f"`{name}={value!r}`" for name, value in report["config"].items()) + ".",
            "### Sparsity by layer",
            _table(["layer", "pruned"], [[f"`{name}`", f"{share:.2%}"] for name, share in report["layers"].items()]),
            "### Loading",
            _loading_code(repository, report["loading"]),
            *([] if smaller else [_holding_code(repository)]),
            "### Citation",
            f"```bibtex\n{citation}\n```\n",
        ]
    )


def _loading_code(repository: str, loading: dict[str, Any]) -> str:
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


def _holding_code(repository: str) -> str:
    return (
        "The masks, to train on with the zeros held:\n\n"
        "```python\n"
        "from hf_worm import Ticket\n\n"
        f'ticket = Ticket.from_pretrained("{repository}")\n'
        "handle = ticket.hold(model, optimizer)\n"
        "```"
    )


def _costs_section(costs: dict[str, Any] | None) -> list[str]:
    return [] if costs is None else ["### Size and time", _table(*cost_rows(costs)), gains(costs)]


def _observations_table(observations: list[dict[str, Any]], config: WormConfig) -> str:
    decisions = ["truncating", "converged"] if config.truncates else ["converged"]
    head = ["observation", "max distance", "mean distance", *decisions]
    rows = [
        [
            str(seen["index"] + 1),
            number(seen["max_distance"]),
            number(seen["mean_distance"]),
            *("yes" if seen[decision] else "no" for decision in decisions),
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
    names = list(dict.fromkeys(name for stage in stages for name in metrics[stage]))
    rows = [[STAGES[stage], *[number(metrics[stage].get(name)) for name in names]] for stage in stages]
    return _table(["", *names], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
