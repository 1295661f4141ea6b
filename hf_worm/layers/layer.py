"""A representative layer: units that are scored, and the parts of parameters that a unit owns."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a parameter that is all of it."""
    return tensor


@dataclass(frozen=True)
class View:
    """The part of one parameter that belongs to the units of a representative layer.

    Args:
        parameter (`nn.Parameter`): The parameter.
        part (`Callable[[torch.Tensor], torch.Tensor]`, *optional*, defaults to the whole):
            Takes a tensor of the parameter's shape (the parameter, its gradient) and returns a view of it whose leading
            dimensions are the layer's units; whatever dimensions follow belong to the unit.
    """

    parameter: nn.Parameter
    part: Callable[[torch.Tensor], torch.Tensor] = whole

    @property
    def weight(self) -> torch.Tensor:
        """The part of the parameter's data: writing to it writes to the parameter."""
        return self.part(self.parameter.data)

    @property
    def gradient(self) -> torch.Tensor | None:
        """The part of the parameter's gradient; `None` where there is none."""
        return None if self.parameter.grad is None else self.part(self.parameter.grad)


@dataclass(frozen=True)
class RepresentativeLayer:
    """A named tensor whose units are watched and pruned.

    The first view is scored; all of them are truncated, drawn and held together. A weight of an attention projection is
    a unit with one view, itself; a BatchNorm channel is a unit with two, γ (scored) and β.

    Args:
        name (`str`): Name of the scored parameter, as in `model.named_parameters()`.
        views (`tuple[View, ...]`): The parts of parameters that the units own; the first is scored.
    """

    name: str
    views: tuple[View, ...]

    @property
    def parameter(self) -> nn.Parameter:
        """The scored parameter."""
        return self.views[0].parameter

    @property
    def shape(self) -> torch.Size:
        """Shape of the units, and so of the mask."""
        return self.weight.shape

    @property
    def weight(self) -> torch.Tensor:
        """What is scored by its absolute value (L1 magnitude), one weight for each unit, of shape `self.shape`."""
        return self.views[0].weight
