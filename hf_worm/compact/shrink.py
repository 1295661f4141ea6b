"""Replaces weights by smaller ones, and tells the modules around them."""

import inspect
from typing import Any

import torch
from torch import nn

from hf_worm.units import RepresentativeLayer, representative_layers
from hf_worm.units.heads import head_size
from hf_worm.units.layer import Slices
from hf_worm.units.neurons import TURNED

Kept = dict[str, list[int]]  # by the layer's name: the units that stay, ascending

# What attentions keep of the number of their heads, and of the width of all of them together.
COUNTS = ("num_attention_heads", "num_heads", "n_heads", "num_key_value_heads")
WIDTHS = ("all_head_size", "inner_dim", "embed_dim")
REPLACED = "BlockSparseAttention"  # of BigBird and its kin, by one as the configuration says, where inputs are short
STANDING_IN = ("BigBirdSelfAttention", "BigBirdPegasusSelfAttention")  # what it is replaced by
# Attentions that count heads by the width of their input or of the configuration, or average over them.
COUNTING = (
    "AutoformerAttention",
    "modeling_fsmt.Attention",
    "GroupViTAttention",
    "LEDDecoderAttention",
    "MoonshineAttention",
    "PegasusXAttention",
    "SpeechT5Attention",  # which is given a position bias for each
    "TrOCRAttention",
)


def shrink_(model: nn.Module, word: str, kept: Kept) -> None:
    """Replace weights by smaller ones, in place; weights without data (on the device `meta`) too.

    Args:
        model (`nn.Module`): The model.
        word (`str`): `"neurons"` or `"heads"`.
        kept (`dict[str, list[int]]`): The units that stay, by layer; other layers keep them all.
    """
    for layer in representative_layers(model, [word]):
        if layer.name not in kept:
            continue
        units = kept[layer.name]
        if word == "heads":
            for attention in holders(model, layer.parameter):
                _lose_heads(attention, len(units) / layer.shape.numel(), units)
        for view in layer.views:
            assert isinstance(view.part, Slices)
            smaller = nn.Parameter(view.part.kept(view.parameter.data, units), view.parameter.requires_grad)
            replace_(model, view.parameter, smaller)


def replace_(model: nn.Module, parameter: nn.Parameter, smaller: nn.Parameter) -> None:
    for module in model.modules():
        for name, own in list(module.named_parameters(recurse=False)):
            if own is parameter:
                setattr(module, name, smaller)
                if isinstance(module, nn.Linear) and name == "weight":
                    module.out_features, module.in_features = smaller.shape
                elif isinstance(module, nn.Conv2d) and name == "weight":
                    module.out_channels, module.in_channels = smaller.shape[:2]
                elif type(module).__name__ == TURNED and name == "weight":
                    vars(module).update(nx=smaller.shape[0], nf=smaller.shape[1])


def holders(model: nn.Module, weight: nn.Parameter) -> list[nn.Module]:
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


def require_block_alone(model: nn.Module, layer: RepresentativeLayer) -> None:
    """Raise where what is between a feed-forward block's projections depends on how many neurons there are.

    Args:
        model (`nn.Module`): The model.
        layer (`RepresentativeLayer`): The block's neurons.
    """
    advice = "its neurons can be pruned, but not cut out."
    units = layer.shape.numel()
    width = layer.views[-1].parameter.numel() // units
    owned = {id(view.parameter) for view in layer.views}
    for block in holders(model, layer.parameter):
        kind = type(block).__name__
        if getattr(block, "activation_sparsity", 0):
            raise ValueError(f"`{kind}` keeps the largest activations by statistics of all neurons: {advice}")
        for name, parameter in block.named_parameters():
            if parameter.dim() != 2 and len(parameter) == units != width and id(parameter) not in owned:
                shape = tuple(parameter.shape)
                raise ValueError(f"`{kind}` has a weight `{name}` of shape {shape} for its neurons besides: {advice}")


def require_owned_alike(model: nn.Module, layer: RepresentativeLayer) -> None:
    """Raise where some of a layer's weights are those of other layers as well, and others are not.

    Args:
        model (`nn.Module`): The model.
        layer (`RepresentativeLayer`): The layer, of neurons or heads.
    """
    if len({len(holders(model, view.parameter)) for view in layer.views}) > 1:
        raise ValueError(
            f"`{layer.name}` and what its {layer.granularity}s own besides are shared with other layers in part: such "
            f"{layer.granularity}s can be pruned, but not cut out."
        )


def require_projections_alone(model: nn.Module, attention: nn.Module, layer: RepresentativeLayer) -> None:
    """Raise where an attention has weights beside its four projections, other than those of a norm of each head.

    Args:
        model (`nn.Module`): The model.
        attention (`nn.Module`): One of its attentions.
        layer (`RepresentativeLayer`): The attention's heads.
    """
    kind, advice = type(attention).__name__, "its heads can be pruned, but not cut out. Compact the neurons alone."
    if hasattr(attention, "has_relative_attention_bias"):  # or it is given that of another one, which has all heads
        raise ValueError(f"`{kind}` has a position bias for each head: {advice}")
    sparse = any(
        getattr(getattr(part, "config", None), "attention_type", None) == "block_sparse" for part in model.modules()
    )
    if kind.endswith(REPLACED) or (sparse and kind in STANDING_IN):
        raise ValueError(
            f"`{kind}` is replaced as it runs, by one with all heads: they can be pruned, but not cut out. Load the "
            "model with `attention_type='original_full'`, or compact the neurons alone."
        )
    if f"{type(attention).__module__}.{kind}".endswith(COUNTING):
        raise ValueError(f"What `{kind}` computes depends on the number of its heads besides: {advice}")
    owned = {id(view.parameter) for view in layer.views}
    for path, module in attention.named_modules():
        own = list(module.named_parameters(path, recurse=False))
        if path == "LayerNorm" or any(id(parameter) in owned for _, parameter in own):
            continue  # of what leaves the attention (ALBERT); of a projection, whose bias may be no head's
        for name, parameter in own:
            of_a_head = any(part.isdigit() for part in path.split("."))  # one of several, each of which has its own
            if parameter.shape != (head_size(attention),) or "norm" not in path or of_a_head:
                shape = tuple(parameter.shape)
                raise ValueError(f"`{kind}` has a weight `{name}` of shape {shape} besides: {advice}")
