"""Counts what a ticket prunes, and says in general what that does and does not do."""

from typing import Any

from torch import nn

from hf_worm.report.loading import recorded
from hf_worm.ticket import Ticket
from hf_worm.units import representative_layers

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


def account(ticket: Ticket, model: nn.Module) -> dict[str, Any]:
    """Count the weights that the ticket prunes, and those that it could have pruned.

    Returns:
        `dict`: JSON-ready: counts of weights, shares in [0, 1], and a note on what that does and does not do.
    """
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
    """Count what is gone from a model that was made smaller, by the account of the model before.

    More may be gone than was watched: with a channel, the weights of the convolutions around it.
    """
    compact, whole = sum(parameter.numel() for parameter in model.parameters()), before["model_weights"]
    gone = {"pruned_weights": whole - compact, "share_of_model": (whole - compact) / whole}
    note = f"{NOTE_COMPACT} {NOTE_RECORDED}" if recorded(model) else NOTE_COMPACT
    return {**before, **gone, "note": note, "compact_weights": compact}
