"""Cuts pruned neurons, heads and channels out of a model: smaller weights, the same outputs."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from hf_worm.layers import RepresentativeLayer, representative_layers
from hf_worm.layers.heads import head_size
from hf_worm.layers.layer import Slices
from hf_worm.layers.names import listed

RECORD = "worm_compact"  # field of a model's configuration, for what its own fields can't say
Kept = dict[str, list[int]]  # by the layer's name: the units that stay, ascending

# What attentions keep of the number of their heads, and of the width of all of them together.
COUNTS = ("num_attention_heads", "num_heads", "n_heads", "num_key_value_heads")
WIDTHS = ("all_head_size", "inner_dim", "embed_dim")
# What configurations call the number of neurons of a feed-forward block.
NEURONS = ("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim")


def require_larger_units(model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
    """Raise a `ValueError` where units can't be cut out: single weights, channels or heads of some models."""
    scattered = [layer.name for layer in layers if layer.granularity == "weight"]
    if scattered:
        raise ValueError(
            f"Units of {listed(scattered)} are single weights: a matrix with scattered zeros is no smaller one. Search "
            "for units that can be cut out: `WormConfig(layers=['neurons', 'heads'])`."
        )
    if any(layer.granularity == "channel" for layer in layers) and not isinstance(model, HasChannels):
        raise ValueError(
            f"Where the channels of a `{type(model).__name__}` come from and go to is not known: they can be pruned, "
            "but not cut out. `CifarResNetForImageClassification` and `VggBnForImageClassification` of "
            "`hf_worm.models` say it."
        )
    for layer in layers:
        if layer.granularity == "head":
            for attention in _holders(model, layer.parameter):
                _require_no_more_of_heads(attention, layer)


def _require_no_more_of_heads(attention: nn.Module, layer: RepresentativeLayer) -> None:
    """Raise where an attention has weights beside its four projections, other than those of a norm of each head."""
    kind, advice = type(attention).__name__, "its heads can be pruned, but not cut out. Compact the neurons alone."
    if getattr(attention, "has_relative_attention_bias", False):
        raise ValueError(f"`{kind}` has a position bias for each head: {advice}")
    owned = {id(view.parameter) for view in layer.views}
    for path, module in attention.named_modules():
        if path == "LayerNorm":
            continue  # of what leaves the attention (ALBERT)
        own = list(module.named_parameters(recurse=False))
        if any(id(parameter) in owned for _, parameter in own):
            continue  # of a projection; the bias of the output is no head's
        for name, parameter in own:
            if parameter.shape != (head_size(attention),):
                shape = tuple(parameter.shape)
                raise ValueError(f"`{kind}` has a weight `{path}.{name}` of shape {shape} besides: {advice}")


def cut_(model: nn.Module, layers: Sequence[RepresentativeLayer], masks: Mapping[str, torch.Tensor]) -> None:
    """Cut the neurons, heads and channels that the masks prune out of a model, in place.

    Its configuration, where it has one, says the new shapes in its own fields if it can: one number of neurons, or of
    heads, for all blocks. Else they are recorded in a field `worm_compact`, for [`~hf_worm.load_compact`].

    Args:
        model (`nn.Module`): The model; what the masks prune is 0 in it.
        layers (`Sequence[RepresentativeLayer]`): Its layers.
        masks (`Mapping[str, torch.Tensor]`): For each layer by its name, `bool`, which units stay.
    """
    channels = {layer.name: masks[layer.name] for layer in layers if layer.granularity == "channel"}
    if channels:
        _cut_channels(model, channels)
    for word in sorted({f"{layer.granularity}s" for layer in layers if layer.summed}):
        own = [layer for layer in layers if word == f"{layer.granularity}s"]
        before = {layer.shape.numel() for layer in own}
        kept = {layer.name: masks[layer.name].nonzero().flatten().tolist() for layer in own}
        shrink_(model, word, kept)
        config = getattr(model, "config", None)
        if config is not None:
            _describe(model, config, word, kept, before.pop() if len(before) == 1 else None)


def try_cut(model: nn.Module, words: Sequence[str], run: Callable[[nn.Module], torch.Tensor]) -> None:
    """Cut every other unit out of a copy of a model, and see whether it computes what it does with these units at 0.

    Args:
        model (`nn.Module`): The model; it stays as it is.
        words (`Sequence[str]`): What is to be cut out: `"neurons"`, `"heads"`, `"batchnorm"`.
        run (`Callable`): Returns an output of the model that it is given.

    Raises:
        ValueError: The cut model does not run, or its output differs: a part of it was not known to need a cut too.
    """
    tried = copy.deepcopy(model)
    layers = representative_layers(tried, words)
    masks = {layer.name: (torch.arange(layer.shape.numel()) % 2 == 0) for layer in layers}
    for layer in layers:
        for view in layer.views:
            view.weight.masked_fill_(~view.local_mask(masks[layer.name]), 0)
    expected, cause = run(tried), None
    cut_(tried, layers, masks)
    try:
        found = run(tried)
        size = expected[expected.isfinite()].abs().max()
        alike = torch.allclose(found.float(), expected.float(), rtol=0, atol=0.05 * float(size), equal_nan=True)
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


def shrink_(model: nn.Module, word: str, kept: Kept) -> None:
    """Replace weights by smaller ones, in place; weights without data (on the device `meta`) too.

    Args:
        model (`nn.Module`): The model.
        word (`str`): `"neurons"` or `"heads"`.
        kept (`dict[str, list[int]]`): The units that stay, for each of the layers that the word finds.
    """
    for layer in representative_layers(model, [word]):
        units = kept[layer.name]
        if word == "heads":
            for attention in _holders(model, layer.parameter):
                _lose_heads(attention, len(units) / layer.shape.numel(), units)
        for view in layer.views:
            assert isinstance(view.part, Slices)
            smaller = nn.Parameter(view.part.kept(view.parameter.data, units), view.parameter.requires_grad)
            _replace(model, view.parameter, smaller)


def _replace(model: nn.Module, parameter: nn.Parameter, smaller: nn.Parameter) -> None:
    for module in model.modules():
        for name, own in list(module.named_parameters(recurse=False)):
            if own is parameter:
                setattr(module, name, smaller)
                if isinstance(module, nn.Linear) and name == "weight":
                    module.out_features, module.in_features = smaller.shape
                elif isinstance(module, nn.Conv2d) and name == "weight":
                    module.out_channels, module.in_channels = smaller.shape[:2]


def _holders(model: nn.Module, weight: nn.Parameter) -> list[nn.Module]:
    """The modules one of whose children has the weight."""
    return [
        module
        for module in model.modules()
        if any(own is weight for child in module.children() for own in child.parameters(recurse=False))
    ]


def _lose_heads(attention: nn.Module, share: float, units: list[int]) -> None:
    """Tell an attention how many heads it has left, and have biases that it is given for each head follow."""
    for name in (*COUNTS, *WIDTHS):
        if hasattr(attention, name):
            setattr(attention, name, round(share * getattr(attention, name)))
    names = list(inspect.signature(attention.forward).parameters)
    if "position_bias" in names:
        attention.register_forward_pre_hook(BiasOfHeads(names.index("position_bias"), units), with_kwargs=True)


class BiasOfHeads:
    """Takes the position bias of the heads that an attention has left (MPNet), out of that of all heads.

    Args:
        place (`int`): Of the argument `position_bias` of the attention's forward pass.
        heads (`list[int]`): The heads that are left.
    """

    def __init__(self, place: int, heads: list[int]) -> None:
        self.place, self.heads = place, heads

    def __call__(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if len(args) > self.place:
            args = (*args[: self.place], self._of_heads(args[self.place]), *args[self.place + 1 :])
        elif "position_bias" in kwargs:
            kwargs = {**kwargs, "position_bias": self._of_heads(kwargs["position_bias"])}
        return args, kwargs

    def _of_heads(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        return None if bias is None else bias[:, self.heads]


# Channels.


@runtime_checkable
class HasChannels(Protocol):
    """A model that says where the channels of its BatchNorms come from and go to."""

    def channel_paths(self) -> dict[str, tuple[str, list[str], str | None]]:
        """By BatchNorm: the convolution before it, what takes its channels in, the buffer of those that it has."""

    def say_channels(self) -> None:
        """Put the channels that the modules have now into the configuration."""


def _cut_channels(model: Any, masks: Mapping[str, torch.Tensor]) -> None:
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
                _replace(model, parameter, nn.Parameter(own.kept(parameter.data, units), parameter.requires_grad))
        for taker in takers:
            weight = model.get_submodule(taker).weight
            _replace(
                model, weight, nn.Parameter(Slices(1, mask.numel()).kept(weight.data, units), weight.requires_grad)
            )
    model.say_channels()


# The configuration.


def _describe(model: nn.Module, config: Any, word: str, kept: Kept, before: int | None) -> None:
    """Put the new shapes into the configuration of a model that was shrunk.

    Args:
        model (`nn.Module`): The model.
        config (`PreTrainedConfig`): Its configuration.
        word (`str`): `"neurons"` or `"heads"`.
        kept (`dict[str, list[int]]`): The units that stayed, by layer.
        before (`int`, *optional*): How many a layer had; `None` where they had different numbers.
    """
    record = dict(getattr(config, RECORD, None) or {})
    counts = {len(left) for left in kept.values()}
    if len(counts) == 1 and before is not None and word not in record:
        fields = _fields(model, config, word, before, counts.pop())
        if fields and _says_the_shapes(model, config, fields):
            for name, value in fields.items():
                setattr(config, name, value)
            return
    if word == "heads":  # as they were numbered at first
        first = record.get(word, {})
        record[word] = {name: [first[name][i] for i in left] if name in first else left for name, left in kept.items()}
    else:
        record[word] = {name: len(left) for name, left in kept.items()}
    setattr(config, RECORD, record)


def recorded(record: Mapping[str, Any]) -> dict[str, Kept]:
    """By word the units that stayed, by layer, as the field `worm_compact` of a configuration has them."""
    neurons = {name: list(range(count)) for name, count in record.get("neurons", {}).items()}
    kept = {"neurons": neurons, "heads": dict(record.get("heads", {}))}
    return {word: layers for word, layers in kept.items() if layers}


def _fields(model: nn.Module, config: Any, word: str, before: int, after: int) -> dict[str, int]:
    """What a configuration would have to say for all layers to have `after` units instead of `before`."""
    if word == "neurons":
        return {name: after for name in NEURONS if getattr(config, name, None) == before}
    if not hasattr(config, "num_attention_heads"):
        return {}
    query = representative_layers(model, ["heads"])[0].parameter
    size = head_size(_holders(model, query)[0])
    assert size is not None  # or its heads would not have been found
    fields = {"num_attention_heads": query.shape[0] // size, "head_dim": size}
    return {**fields, "num_key_value_heads": after} if hasattr(config, "num_key_value_heads") else fields


def _says_the_shapes(model: nn.Module, config: Any, fields: dict[str, int]) -> bool:
    """Whether a model made from the configuration with those fields has the shapes that this one has, all of them."""
    try:
        changed = type(config).from_dict({**config.to_dict(), **fields})
        with torch.device("meta"):
            made = type(model)(changed)
            for other, units in recorded(getattr(config, RECORD, None) or {}).items():
                shrink_(made, other, units)
    except (ValueError, StrictDataclassError):  # the number of heads has to divide the width, for one
        return False
    except TypeError:  # the class takes more than a configuration: `load_compact` is not for it either
        return False
    return _shapes(made) == _shapes(model)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in model.state_dict().items()}
