"""The model card's part on pruning."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hf_worm.config import WormConfig
from hf_worm.report import STAGES
from hf_worm.speed import cost_rows, gains

TAGS = ("worm", "early-bird", "pruning")


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
    method, smaller = WormConfig(**config).method, "compact_weights" in account
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
            f"{account['pruned_weights']:,} weights are {'cut out' if smaller else '0'}, "
            f"{account['share_of_representative']:.1%} of the "
            f"{account['representative_weights']:,} weights watched ({', '.join(config['layers'])}) and "
            f"{account['share_of_model']:.1%} of the model's {account['model_weights']:,}; {how}.",
            account["note"],
            *_costs_section(report.get("costs")),
            "### Metrics",
            _metrics_table(report["metrics"]),
            "### The search",
            _observations_table(search["observations"]),
            "Settings: " + ", ".join(f"`{name}={value!r}`" for name, value in config.items()) + ".",
            "### Sparsity by layer",
            _table(["layer", "pruned"], [[f"`{name}`", f"{share:.2%}"] for name, share in report["layers"].items()]),
            "### Loading",
            _loading_code(repository, report["loading"]),
            *([] if smaller else [_holding_code(repository)]),
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
