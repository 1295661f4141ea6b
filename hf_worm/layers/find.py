"""From the words, names and patterns of `layers` to representative layers."""

import warnings
from collections.abc import Sequence

from torch import nn

from .attention import ROLES, fused_projections, projections
from .batchnorm import batchnorm_scales
from .errors import WORDS, frozen, left_out, no_entries, not_floating_point, not_found, unknown_entry
from .layer import RepresentativeLayer, View
from .names import Named, matches, named_parameters


def representative_layers(model: nn.Module, layers: Sequence[str] = ("query", "key")) -> list[RepresentativeLayer]:
    """Find the layers of a model whose masks are watched and pruned.

    Args:
        model (`nn.Module`): Any model; wrappers (DDP, `torch.compile`, activation checkpointing) are looked through.
        layers (`Sequence[str]`, *optional*, defaults to `("query", "key")`): Each entry is

            - `"query"`, `"key"` or `"value"`: the attention projections of that role, cross-attention included. With
              LoRA, the base weight is the representative one;
            - `"batchnorm"`: the scale γ of every BatchNorm with affine parameters, its β masked with it;
            - a parameter's name, or a shell-style pattern over such names: the whole of each parameter that matches.

    Warns where a word finds some of the attentions, and others that train have a fused projection.

    Returns:
        `list[RepresentativeLayer]`: In the order of `model.named_parameters()`, each parameter once however often it is
        shared or asked for. Names are those of `model.named_parameters()` without the wrappers' prefixes.

    Raises:
        `ValueError`: If an entry finds nothing, or finds a parameter that is not floating point.

    Example:

    ```python
    >>> [layer.name for layer in representative_layers(bert, ["query"])]
    ['encoder.layer.0.attention.self.query.weight', 'encoder.layer.1.attention.self.query.weight']
    ```
    """
    if isinstance(layers, str) or not layers:
        raise no_entries(layers)
    named = named_parameters(model)
    found = {entry: _find(entry, model, named) for entry in layers}
    missing = [entry for entry in found if not found[entry]]
    for entry in missing:
        if entry not in WORDS:
            raise unknown_entry(entry, model, named)
    if missing:
        present = [word for word in WORDS if word not in missing and _find(word, model, named)]
        raise not_found(missing, present, model, named)

    # Words before names and patterns, so that a β that goes with its γ is not a layer of its own as well.
    chosen: dict[nn.Parameter, tuple[View, ...]] = {}
    owned: set[nn.Parameter] = set()
    for entry in sorted(found, key=lambda entry: entry not in WORDS):
        for views in found[entry]:
            if views[0].parameter not in owned:
                chosen[views[0].parameter] = views
                owned.update(view.parameter for view in views)

    fused = [(name, weight) for name, weight in fused_projections(named) if weight not in owned]
    fused = [(name, weight) for name, weight in fused if weight.requires_grad]
    if fused and any(entry in ROLES for entry in layers):
        warnings.warn(left_out(layers, fused, model, named), stacklevel=2)

    result = []
    for name, parameter in named:
        if parameter in chosen:
            if not parameter.is_floating_point():
                raise not_floating_point(name, parameter)
            result.append(RepresentativeLayer(name, chosen.pop(parameter)))  # a shared one: under its first name
    return result


def require_trainable(layers: Sequence[RepresentativeLayer]) -> None:
    """Raise a `ValueError` if the weight of a layer is frozen: its mask never moves, so there is nothing to search."""
    names = [layer.name for layer in layers if not layer.parameter.requires_grad]
    if names:
        raise frozen(names, len(layers))


def _find(entry: str, model: nn.Module, named: Named) -> list[tuple[View, ...]]:
    """The views of each layer that one entry of `layers` means."""
    if entry == "batchnorm":
        return batchnorm_scales(model)
    for role in ROLES:
        if entry == role:
            return [(View(parameter),) for parameter in projections(named, role)]
    return [(View(parameter),) for name, parameter in named if matches(name, entry)]
