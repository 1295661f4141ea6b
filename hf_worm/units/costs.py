"""Multiply-adds of a model and of its units, counted by the weights of projections."""

from collections.abc import Iterable

from torch import nn

from . import families
from .layer import RepresentativeLayer


def multiply_adds(model: nn.Module) -> int:
    """Count the weights of all projections: each is multiplied once for every token.

    What has no weights is left out, such as the products of queries and keys; and what works once on a row, such as a
    pooler, counts as if it worked on each token. [`~hf_worm.report.speed.counts`] counts a forward pass exactly.
    """
    return sum(weight.numel() for weight in _projections(model))


def multiply_adds_of_unit(layer: RepresentativeLayer) -> int:
    """Count the weights of projections that one unit of a layer owns."""
    weights = (view.weight for view in layer.views if view.parameter.dim() > 1)
    return sum(weight.numel() for weight in weights) // layer.shape.numel()


def _projections(model: nn.Module) -> Iterable[nn.Parameter]:
    weights = (_weight(module) for module in model.modules())
    return dict.fromkeys(weight for weight in weights if isinstance(weight, nn.Parameter))


def _weight(module: nn.Module) -> object:
    if isinstance(module, nn.MultiheadAttention):
        return module.in_proj_weight
    return module.weight if isinstance(module, nn.Linear) or _is_transposed(module) else None


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == families.TRANSPOSED
