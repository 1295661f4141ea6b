"""Replaces parameters by smaller ones wherever a model holds them."""

from torch import nn

from .families import TRANSPOSED
from .layer import RepresentativeLayer, Slices

Kept = dict[str, list[int]]  # by the layer's name: the units that stay, ascending


def shrink_(model: nn.Module, layer: RepresentativeLayer, units: list[int]) -> None:
    """Replace the weights of a layer by those of some of its units, in place."""
    for view in layer.views:
        assert isinstance(view.part, Slices)
        keep_(model, view.parameter, view.part, units)


def keep_(model: nn.Module, parameter: nn.Parameter, part: Slices, units: list[int]) -> None:
    """Replace a parameter by one with the blocks of some units alone, in place."""
    replace_(model, parameter, nn.Parameter(part.kept(parameter.data, units), parameter.requires_grad))


def replace_(model: nn.Module, parameter: nn.Parameter, smaller: nn.Parameter) -> None:
    """Put a smaller parameter wherever the model has another, and update the sizes that the modules there have."""
    for module in model.modules():
        for name, own in list(module.named_parameters(recurse=False)):
            if own is parameter:
                setattr(module, name, smaller)
                if isinstance(module, nn.Linear) and name == "weight":
                    module.out_features, module.in_features = smaller.shape
                elif isinstance(module, nn.Conv2d) and name == "weight":
                    module.out_channels, module.in_channels = smaller.shape[:2]
                elif type(module).__name__ == TRANSPOSED and name == "weight":
                    vars(module).update(nx=smaller.shape[0], nf=smaller.shape[1])


def holders(model: nn.Module, weight: nn.Parameter) -> list[nn.Module]:
    """Find the modules that have a child with the weight."""
    return [
        module
        for module in model.modules()
        if any(own is weight for child in module.children() for own in child.parameters(recurse=False))
    ]


def require_equally_shared(model: nn.Module, layer: RepresentativeLayer) -> None:
    """Raise a `ValueError` if some of a layer's weights are those of other layers as well, and others are not.

    Args:
        model (`nn.Module`): The model.
        layer (`RepresentativeLayer`): The layer, of neurons or heads.
    """
    if len({len(holders(model, view.parameter)) for view in layer.views}) > 1:
        raise ValueError(
            f"The {layer.granularity}s of `{layer.name}` share some of their weights with other layers, but not all: "
            "they can be pruned, but not cut out."
        )
