"""Cuts pruned neurons, heads and channels out of a model: smaller weights, the same outputs."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from hf_worm.compact.record import update_config_
from hf_worm.units import RepresentativeLayer, layers_without_pruning, representative_layers
from hf_worm.units.kind import LargerKind
from hf_worm.units.kinds import by_kind


def require_larger_units(model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
    """Raise a `ValueError` where units can't be cut out: single weights, channels or heads of some models."""
    for kind, own in by_kind(layers).items():
        kind.require_cuttable(model, own)


def require_units_to_cut(layers: Sequence[RepresentativeLayer], prune_ratio: float, scope: str) -> None:
    """Raise a `ValueError` where the ratio prunes no unit of any layer."""
    if len(layers_without_pruning(layers, prune_ratio, scope)) == len(layers):
        raise ValueError(
            "`compact=True` would cut out nothing: the layers have too few units for their ratio (heads that share a "
            "key and a value are one unit). Take a larger `prune_ratio`, or other `layers`."
        )


def cut_(model: nn.Module, layers: Sequence[RepresentativeLayer], masks: Mapping[str, torch.Tensor]) -> None:
    """Cut the neurons, heads and channels that the masks prune out of a model, in place.

    Its configuration says the new shapes in its own fields if it can: one number of neurons, or of heads, for all
    blocks. Else they are recorded in a field `worm_compact`, for [`~hf_worm.load_compact`]. Of a model without a
    configuration, those of Transformers inside it have theirs.

    Args:
        model (`nn.Module`): The model, in which the pruned units are 0.
        layers (`Sequence[RepresentativeLayer]`): Its layers.
        masks (`Mapping[str, torch.Tensor]`): For each layer by its name, `bool`, `True` for the units that stay.

    Raises:
        ValueError: Units are single weights; or no neuron or no head of a layer stays, which is no mask of a search.
    """
    for kind, own in by_kind(layers).items():
        before = {layer.name: layer.shape.numel() for layer in own}
        kept = {layer.name: masks[layer.name].nonzero().flatten().tolist() for layer in own}
        kind.cut_(model, own, kept)
        if isinstance(kind, LargerKind):
            update_config_(model, kind, kept, before)


def try_cut(model: nn.Module, words: Sequence[str], run: Callable[[nn.Module], torch.Tensor]) -> None:
    """Cut every other unit out of a copy of a model, and compare its output with that of these units at 0.

    Args:
        model (`nn.Module`): The model; it stays as it is.
        words (`Sequence[str]`): Entries of `layers` that mean the units: `"neurons"`, `"heads"`, `"batchnorm"`.
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
    """Return masks for the layers of a compact model, which prune the units that could not be cut out.

    These are channels that other layers add to (those of a ResNet's stem), and the one that a BatchNorm has to have.

    Args:
        model (`nn.Module`): The compact model.
        words (`Sequence[str]`): The entries of `layers`.
        masks (`Mapping[str, torch.Tensor]`): The masks of the model before.
    """
    found = {}
    for layer in representative_layers(model, words):
        mask = masks[layer.name]
        cut_out = layer.shape != mask.shape
        found[layer.name] = torch.full(layer.shape, bool(mask.any())) if cut_out else mask
    return found
