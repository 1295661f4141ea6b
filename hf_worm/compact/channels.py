"""Cuts channels out of CNNs that say where these come from and go to."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from hf_worm.compact.shrink import replace_
from hf_worm.units.layer import Slices


@runtime_checkable
class HasChannels(Protocol):
    """A model that says where the channels of its BatchNorms come from and go to."""

    def channel_paths(self) -> dict[str, tuple[str, list[str], str | None]]:
        """By BatchNorm: the convolution before it, what takes its channels in, the buffer of those that it has."""

    def say_channels(self) -> None:
        """Put the channels that the modules have now into the configuration."""


def cut_channels_(model: Any, masks: Mapping[str, torch.Tensor]) -> None:
    """Cut silent channels out, in place; of a BatchNorm that has no others, the first one stays.

    Args:
        model (`HasChannels`): The model.
        masks (`Mapping[str, torch.Tensor]`): By the name of γ; those that the model says nothing of stay.
    """
    for norm_path, (convolution, takers, buffer) in model.channel_paths().items():
        mask = masks.get(f"{norm_path}.weight")
        if mask is None or mask.all():
            continue
        units = mask.nonzero().flatten().tolist() or [0]
        norm, own = model.get_submodule(norm_path), Slices(0, mask.numel())
        if buffer is not None:
            path, _, name = buffer.rpartition(".")
            block = model.get_submodule(path)
            places = getattr(block, name)
            left = torch.tensor(units, device=mask.device) if places is None else places[units]
            setattr(block, name, left.to(norm.weight.device))
        norm.num_features = len(units)
        for name in ("running_mean", "running_var"):
            setattr(norm, name, own.kept(getattr(norm, name), units))
        for module in (norm, model.get_submodule(convolution)):
            for parameter in list(module.parameters(recurse=False)):
                replace_(model, parameter, nn.Parameter(own.kept(parameter.data, units), parameter.requires_grad))
        for taker in takers:
            weight = model.get_submodule(taker).weight
            replace_(
                model, weight, nn.Parameter(Slices(1, mask.numel()).kept(weight.data, units), weight.requires_grad)
            )
    model.say_channels()
