"""Cuts heads out of an attention: updates its counts and position biases, and refuses attentions that need more."""

import inspect
from typing import Any

import torch
from torch import nn

from . import families
from .layer import RepresentativeLayer


def lose_heads_(attention: nn.Module, share: float, units: list[int]) -> None:
    """Tell an attention how many heads it has left, and have biases that it is given for each head follow.

    Args:
        attention (`nn.Module`): The attention.
        share (`float`): The share of its heads that stays.
        units (`list[int]`): The heads that stay.
    """
    for name in {name for family in families.ATTENTIONS for name in family.head_counts}:
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


def require_no_other_weights(model: nn.Module, attention: nn.Module, layer: RepresentativeLayer, size: int) -> None:
    """Raise if an attention depends on its number of heads, or has weights other than those of a norm of each head.

    Args:
        model (`nn.Module`): The model.
        attention (`nn.Module`): One of its attentions.
        layer (`RepresentativeLayer`): The attention's heads.
        size (`int`): The width of a head.
    """
    _require_independent(model, attention)
    owned = {id(view.parameter) for view in layer.views}
    for path, module in attention.named_modules():
        own = list(module.named_parameters(path, recurse=False))
        if path == "LayerNorm" or any(id(parameter) in owned for _, parameter in own):
            continue  # a norm of what leaves the attention (ALBERT); a projection, whose bias may be no head's
        one_of_several = any(part.isdigit() for part in path.split("."))  # each head has its own
        for name, parameter in own:
            if parameter.shape != (size,) or "norm" not in path or one_of_several:
                kind, shape = type(attention).__name__, tuple(parameter.shape)
                raise ValueError(f"`{kind}` has another weight, `{name}` of shape {shape}: {ADVICE}")


ADVICE = "its heads can be pruned, but not cut out. Compact the neurons alone."


def _require_independent(model: nn.Module, attention: nn.Module) -> None:
    """Raise if what an attention computes depends on its number of heads in a way that can't be updated."""
    kind = type(attention).__name__
    if hasattr(attention, "has_relative_attention_bias"):  # or it is given that of another one, which has all heads
        raise ValueError(f"`{kind}` has a position bias for each head: {ADVICE}")
    sparse = any(
        getattr(getattr(part, "config", None), "attention_type", None) == "block_sparse" for part in model.modules()
    )
    if kind.endswith(families.REPLACED_AT_RUN_TIME) or (sparse and kind in families.REPLACEMENTS):
        raise ValueError(
            f"`{kind}` is replaced at run time by an attention with all heads: its heads can be pruned, but not cut "
            "out. Load the model with `attention_type='original_full'`, or compact the neurons alone."
        )
    if f"{type(attention).__module__}.{kind}".endswith(families.DEPENDING_ON_HEADS):
        raise ValueError(f"`{kind}` depends on the number of its heads in more than their projections: {ADVICE}")
