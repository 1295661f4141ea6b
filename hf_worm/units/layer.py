"""A representative layer: units that are scored, and the parts of parameters that a unit owns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from hf_worm.core.sharding import is_sharded, local, shard_like

_DISTRIBUTED = torch.distributed.is_available()  # some builds of torch have no `torch.distributed`
if _DISTRIBUTED or TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

Granularity = Literal["weight", "channel", "neuron", "head"]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a parameter, as the part that belongs to units of single weights or channels."""
    return tensor


@dataclass(frozen=True)
class Slices:
    """The part of a parameter along one of its axes, on which each unit owns a block of neighbouring entries.

    Args:
        axis (`int`): The axis: 0 for the rows of a weight or the entries of a bias, 1 for the columns of a weight.
        units (`int`): Number of units on the axis, in blocks of the same length.
        parts (`int`, *optional*, defaults to 1): Number of projections stacked along this axis: 2 if the first half of
            the rows is one projection's, and the second another's. Each unit owns a block of each.
    """

    axis: int
    units: int
    parts: int = 1

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a view of shape `(units, parts, block, ...)`; with one part, of shape `(units, block, ...)`."""
        ahead = tensor.movedim(self.axis, 0)
        block = len(ahead) // self.units // self.parts
        if self.parts == 1:
            return ahead.view(self.units, block, *ahead.shape[1:])
        return ahead.view(self.parts, self.units, block, *ahead.shape[1:]).movedim(1, 0)

    def kept(self, tensor: torch.Tensor, units: list[int]) -> torch.Tensor:
        """Return a smaller copy of the tensor, with the blocks of those units alone."""
        left = self(tensor)[units]
        left = left.flatten(0, 1) if self.parts == 1 else left.movedim(0, 1).flatten(0, 2)
        return left.movedim(0, self.axis).contiguous()


@dataclass(frozen=True, eq=False)  # parameters are compared by identity: tensors have no truth value
class View:
    """The part of one parameter that belongs to the units of a representative layer.

    Two views are equal if they are the same part of the same parameter.

    Args:
        parameter (`nn.Parameter`): The parameter.
        part (`Callable[[torch.Tensor], torch.Tensor]`, *optional*, defaults to the whole):
            Takes a tensor of the parameter's shape (the parameter, its gradient) and returns a view of it whose leading
            dimensions are the layer's units; whatever dimensions follow belong to the unit. Of a sharded parameter only
            the whole can be had.
    """

    parameter: nn.Parameter
    part: Callable[[torch.Tensor], torch.Tensor] = whole
    sharded: bool = field(init=False, repr=False)  # asked once, and not at every step

    def __post_init__(self) -> None:
        object.__setattr__(self, "sharded", is_sharded(self.parameter))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, View):
            return NotImplemented
        return self.parameter is other.parameter and self.part == other.part

    def __hash__(self) -> int:
        return hash((id(self.parameter), self.part))

    @property
    def weight(self) -> torch.Tensor:
        """The part of the parameter's data: writing to it writes to the parameter."""
        return self.part(self.parameter.data)

    @property
    def gradient(self) -> torch.Tensor | None:
        """The part of the parameter's gradient; `None` where there is none."""
        return None if self.parameter.grad is None else self.part(self.parameter.grad)

    @property
    def local_weight(self) -> torch.Tensor:
        """The share of `weight` that this process holds, as a plain tensor: all of it unless it is sharded."""
        return self.local_part(self.parameter.data)

    @property
    def local_gradient(self) -> torch.Tensor | None:
        """The share of `gradient` that this process holds."""
        return None if self.parameter.grad is None else self.local_part(self.parameter.grad)

    def local_part(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this process's share of the part, of a tensor that is shaped and sharded as the parameter is."""
        return local(tensor) if self.sharded else self.part(tensor)

    def local_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Return this process's share of a mask of the layer's units.

        Args:
            mask (`torch.Tensor`): `bool`, one entry for each unit.

        Returns:
            `torch.Tensor`: On the parameter's device, of a shape that broadcasts to that of `local_weight`.
        """
        weight = self.weight
        mask = mask.view((*mask.shape, *[1] * (weight.dim() - mask.dim())))
        return shard_like(mask, weight).to(weight.device)


@dataclass(frozen=True)
class RepresentativeLayer:
    """A named tensor whose units are watched and pruned.

    All views are truncated, drawn and held together. A weight of an attention projection is a unit with one view,
    itself; a BatchNorm channel is a unit with two, γ and β; an FFN neuron has rows, entries of biases and a column.

    Args:
        name (`str`): Name of the first view's parameter, as in `model.named_parameters()`.
        views (`tuple[View, ...]`): The parts of parameters that the units own.
        granularity (`str`, *optional*, defaults to `"weight"`):
            What a unit is: `"weight"` or `"channel"` (of a BatchNorm), an entry of the first view; or `"neuron"` or
            `"head"`, which lie along the views' first dimension, the projection that leads out last.
        prune_ratio (`float`, *optional*): In [0, 1), if not that of the configuration.

    Raises:
        ValueError: A view is a part of a sharded parameter.
    """

    name: str
    views: tuple[View, ...]
    granularity: Granularity = "weight"
    prune_ratio: float | None = None

    def __post_init__(self) -> None:
        for view in self.views:
            if view.sharded and view.part is not whole:
                raise ValueError(
                    f"`{self.name}` has units that own a part of a parameter of shape {tuple(view.parameter.shape)} "
                    "that `fully_shard` has spread over processes: no process holds that part. Watch the whole "
                    "parameter by its name, or keep it in one piece: `fully_shard(..., ignored_params={...})`."
                )

    def __repr__(self) -> str:
        """Without the weights."""
        own = "" if self.prune_ratio is None else f", prune_ratio={self.prune_ratio:g}"
        return f"RepresentativeLayer({self.name!r}, shape={tuple(self.shape)}, granularity={self.granularity!r}{own})"

    def ratio(self, of_all: float) -> float:
        """Return p for this layer: its own or, without one, that of all layers."""
        return of_all if self.prune_ratio is None else self.prune_ratio

    @property
    def parameter(self) -> nn.Parameter:
        """The first view's parameter, whose name is the layer's."""
        return self.views[0].parameter

    @property
    def shape(self) -> torch.Size:
        """Shape of the units, and so of the mask."""
        shape = self.weight.shape
        return shape[:1] if self.summed else shape

    @property
    def summed(self) -> bool:
        """True if a unit has many weights along the views' first dimension: a neuron or a head."""
        return self.granularity in ("neuron", "head")

    @property
    def weight(self) -> torch.Tensor:
        """The first view's data."""
        return self.views[0].weight

    def zero_(self, mask: torch.Tensor) -> None:
        """Set the pruned units to exactly 0, in place.

        Args:
            mask (`torch.Tensor`): `bool` of shape `self.shape`, `True` = keep.
        """
        for view in self.views:
            view.local_weight.masked_fill_(~view.local_mask(mask), 0)


def reshard(model: nn.Module) -> None:
    """Put the shards that train back into `model.parameters()`, if the model is under FSDP2's `fully_shard`.

    A forward pass without a backward, as in evaluation, leaves gathered copies in their place: writing to a copy
    changes no shard, and writing to a shard does not show in the copy. Nothing is communicated.

    Raises:
        ValueError: The model is under FSDP1, whose flattened parameters have no shape to make a mask of.
    """
    if not _DISTRIBUTED:
        return
    for path, module in model.named_modules():
        if isinstance(module, FullyShardedDataParallel):
            raise ValueError(
                f"{f'`{path}`' if path else 'The model'} is under `FullyShardedDataParallel` (FSDP1), which flattens "
                "its parameters: no layer is left to watch. Use FSDP2: `torch.distributed.fsdp.fully_shard(model)`."
            )
        if isinstance(module, FSDPModule):
            module.reshard()
