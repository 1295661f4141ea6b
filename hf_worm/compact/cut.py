"""Cuts pruned neurons, heads and channels out of a model: smaller weights, the same outputs."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from hf_worm.compact.channels import HasChannels, cut_channels_
from hf_worm.compact.record import describe
from hf_worm.compact.shrink import (
    holders,
    require_block_alone,
    require_owned_alike,
    require_projections_alone,
    shrink_,
)
from hf_worm.units import RepresentativeLayer, representative_layers
from hf_worm.units.layer import WORDS
from hf_worm.units.names import firsts


def require_larger_units(model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
    """Raise a `ValueError` where units can't be cut out: single weights, channels or heads of some models."""
    scattered = [layer.name for layer in layers if layer.granularity == "weight"]
    if scattered:
        raise ValueError(
            f"Units of {firsts(scattered)} are single weights: a matrix with scattered zeros is no smaller one. Search "
            "for units that can be cut out: `WormConfig(layers=['neurons', 'heads'])`."
        )
    if any(layer.granularity == "channel" for layer in layers) and not isinstance(model, HasChannels):
        raise ValueError(
            f"Where the channels of a `{type(model).__name__}` come from and go to is not known: they can be pruned, "
            "but not cut out. `CifarResNetForImageClassification` and `VggBnForImageClassification` of "
            "`hf_worm.models` say it."
        )
    for layer in layers:
        if layer.granularity == "neuron":
            require_block_alone(model, layer)
            require_owned_alike(model, layer)
        if layer.granularity == "head":
            for attention in holders(model, layer.parameter):
                require_projections_alone(model, attention, layer)
            require_owned_alike(model, layer)


def cut_(model: nn.Module, layers: Sequence[RepresentativeLayer], masks: Mapping[str, torch.Tensor]) -> None:
    """Cut the neurons, heads and channels that the masks prune out of a model, in place.

    Its configuration says the new shapes in its own fields if it can: one number of neurons, or of heads, for all
    blocks. Else they are recorded in a field `worm_compact`, for [`~hf_worm.load_compact`]. Of a model without a
    configuration, those of Transformers inside it have theirs.

    Args:
        model (`nn.Module`): The model; what the masks prune is 0 in it.
        layers (`Sequence[RepresentativeLayer]`): Its layers.
        masks (`Mapping[str, torch.Tensor]`): For each layer by its name, `bool`, which units stay.

    Raises:
        ValueError: No neuron or no head of a layer stays, which is no mask of a search.
    """
    channels = {layer.name: masks[layer.name] for layer in layers if layer.granularity == "channel"}
    if channels:
        cut_channels_(model, channels)
    for word, granularity in WORDS.items():
        own = [layer for layer in layers if layer.granularity == granularity and layer.summed]
        if not own:
            continue
        before = {layer.name: layer.shape.numel() for layer in own}
        kept = {layer.name: masks[layer.name].nonzero().flatten().tolist() for layer in own}
        none_left = [name for name, units in kept.items() if not units]
        if none_left:
            raise ValueError(f"The ticket keeps no unit of {firsts(none_left)}: a layer needs at least one.")
        shrink_(model, word, kept)
        describe(model, word, kept, before)


def try_cut(model: nn.Module, words: Sequence[str], run: Callable[[nn.Module], torch.Tensor]) -> None:
    """Cut every other unit out of a copy of a model, and see whether it computes what it does with these units at 0.

    Args:
        model (`nn.Module`): The model; it stays as it is.
        words (`Sequence[str]`): What is to be cut out: `"neurons"`, `"heads"`, `"batchnorm"`.
        run (`Callable`): Returns an output of the model that it is given.

    Raises:
        ValueError:
            The cut model does not run, or its output differs: a part of it was not known to need a cut too. Or the
            model itself does not run.
    """
    tried = copy.deepcopy(model)
    layers = representative_layers(tried, words)
    masks = {layer.name: (torch.arange(layer.shape.numel()) % 2 == 0) for layer in layers}
    for layer in layers:
        layer.zero_(masks[layer.name])
    try:
        expected, cause = run(tried), None
    except Exception as error:  # whatever a model may raise at what it does not take
        raise ValueError(
            f"`compact=True` first tries to cut {' and '.join(words)} out of a copy of the model, and "
            f"`{type(model).__name__}` does not take a batch of the training set as it is ({type(error).__name__}: "
            f"{error}). Train with `compact=False`, and cut by hand: `ticket.compact(model)`."
        ) from error
    try:
        cut_(tried, layers, masks)
        found = run(tried)
        size = expected[expected.isfinite()].abs().max()
        # In float32 products in TF32 may differ by some thousandths, and what is wrong by little more.
        narrow = expected.dtype != torch.float32 or torch.is_autocast_enabled(expected.device.type)
        tolerance = float(size) * (0.05 if narrow else 0.01)
        alike = torch.allclose(found.float(), expected.float(), rtol=0, atol=tolerance, equal_nan=True)
    except Exception as error:  # whatever a model may raise whose parts don't fit together
        alike, cause = False, error
    if not alike:
        raise ValueError(
            f"Cutting {' and '.join(words)} out of a `{type(model).__name__}` leaves a model that "
            f"{'computes something else' if cause is None else 'does not run'}: parts of it depend on their number in "
            "a way that is not known here. They can be pruned without that: `compact=False`."
        ) from cause


def left_pruned(model: nn.Module, words: Sequence[str], masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The masks of what is pruned and could not be cut out, for the layers of a compact model.

    Channels that other layers add to stay (those of a ResNet's stem), and the one that a BatchNorm has to have.

    Args:
        model (`nn.Module`): The compact model.
        words (`Sequence[str]`): What is watched.
        masks (`Mapping[str, torch.Tensor]`): Of the model before.
    """
    found = {}
    for layer in representative_layers(model, words):
        mask = masks[layer.name]
        cut_out = layer.shape != mask.shape
        found[layer.name] = torch.full(layer.shape, bool(mask.any())) if cut_out else mask
    return found
