"""BatchNorm channels: γ is scored, and β goes with it."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .kind import Kind, Views
from .layer import RepresentativeLayer, Slices, View
from .names import Named
from .shrink import Kept, keep_


@runtime_checkable
class HasChannels(Protocol):
    """A model that says where the channels of its BatchNorms come from and go to."""

    def channel_paths(self) -> dict[str, tuple[str, list[str], str | None]]:
        """By BatchNorm: the convolution before it, the modules that take its channels in, the buffer of their places.

        The buffer, where there is one, holds the channels that are left, by their numbers in the whole model.
        """

    def say_channels(self) -> None:
        """Put the channels that the modules have now into the configuration."""


class Channels(Kind):
    """Channels of every BatchNorm that has a scale."""

    words = ("batchnorm",)
    granularity = "channel"
    definition = "a channel is a γ and its β"
    may_be_named = True  # a β that goes with its γ is no layer of its own

    def find(self, word: str, model: nn.Module, named: Named) -> Iterator[Views]:
        """Find γ and β of every BatchNorm; β may be off, and without affine parameters there are no units."""
        for module in model.modules():
            own = dict(module.named_parameters(recurse=False))
            if isinstance(module, _BatchNorm) and "weight" in own:
                yield tuple(View(own[name]) for name in ("weight", "bias") if name in own)

    def would_find(self, word: str, name: str, model: nn.Module) -> bool:
        """Say whether the weight is that of a BatchNorm."""
        return isinstance(model.get_submodule(name.rpartition(".")[0]), _BatchNorm)

    def describe(self, words: Sequence[str]) -> str:
        """Describe a BatchNorm."""
        return "BatchNorm with affine parameters"

    def require_cuttable(self, model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
        """Raise if the model does not say where its channels come from and go to."""
        if not isinstance(model, HasChannels):
            raise ValueError(
                f"`{type(model).__name__}` does not say where its channels come from and go to: they can be pruned, "
                "but not cut out. `CifarResNetForImageClassification` and `VggBnForImageClassification` of "
                "`hf_worm.models` do."
            )

    def cut_(self, model: Any, layers: Sequence[RepresentativeLayer], kept: Kept) -> None:
        """Cut silent channels out, and put the new widths into the configuration.

        Of a BatchNorm with no other channels, the first one stays; so do those of which the model says nothing.
        """
        widths = {layer.name: layer.shape.numel() for layer in layers}
        for path, (convolution, takers, buffer) in model.channel_paths().items():
            name = f"{path}.weight"
            if name not in kept or len(kept[name]) == widths[name]:
                continue
            units = kept[name] or [0]
            norm = model.get_submodule(path)
            if buffer is not None:
                _keep_places_(model, buffer, units, norm.weight.device)
            _keep_outputs_(model, norm, model.get_submodule(convolution), units)
            for taker in takers:
                keep_(model, model.get_submodule(taker).weight, Slices(1, widths[name]), units)
        model.say_channels()


def _keep_places_(model: nn.Module, buffer: str, units: list[int], device: torch.device) -> None:
    """Keep the places of some channels in a buffer, which is `None` as long as it has them all."""
    path, _, name = buffer.rpartition(".")
    block = model.get_submodule(path)
    places = getattr(block, name)
    setattr(block, name, torch.tensor(units, device=device) if places is None else places[units].to(device))


def _keep_outputs_(model: nn.Module, norm: Any, convolution: nn.Module, units: list[int]) -> None:
    """Keep some channels of a BatchNorm and of the convolution before it."""
    channels = Slices(0, norm.num_features)
    norm.num_features = len(units)
    for name in ("running_mean", "running_var"):
        setattr(norm, name, channels.kept(getattr(norm, name), units))
    for module in (norm, convolution):
        for parameter in list(module.parameters(recurse=False)):
            keep_(model, parameter, channels, units)
