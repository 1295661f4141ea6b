"""Checks of representative layers before they are searched: refusals, and warnings of likely mistakes."""

from collections.abc import Iterator, Sequence

import torch

from hf_worm.config import WormConfig

from .errors import ADAPTER, MERGE
from .kinds import by_kind, kind_of
from .layer import RepresentativeLayer
from .names import first_names

UNEQUAL = 2  # times as many weights in a unit of one layer as in that of another


def require_trainable(layers: Sequence[RepresentativeLayer]) -> None:
    """Raise a `ValueError` if weights of a layer are frozen: its mask never moves, so there is nothing to search."""
    frozen = [layer for layer in layers if not layer.parameter.requires_grad]
    if frozen:
        raise _frozen(frozen, len(layers))
    partly = [layer for layer in layers if not all(view.parameter.requires_grad for view in layer.views)]
    if partly:
        definitions = ", ".join(kind.definition for kind in by_kind(partly))
        raise ValueError(
            f"Units of {first_names([layer.name for layer in partly])} own frozen weights (`requires_grad=False`) "
            "beside others that train: the frozen ones could not fade, and would be pruned all the same. Train all "
            f"that a unit owns: {definitions}."
        )


def require_optimized(
    layers: Sequence[RepresentativeLayer], optimizer: torch.optim.Optimizer, every: bool = False
) -> None:
    """Raise a `ValueError` if an optimizer trains none of the layers: its steps are another model's.

    Args:
        layers (`Sequence[RepresentativeLayer]`): The layers; what is frozen of them needs no optimizer.
        optimizer (`torch.optim.Optimizer`): The optimizer.
        every (`bool`, *optional*, defaults to `False`): Raise if it lacks a single one.
    """
    optimized = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    names = [
        layer.name
        for layer in layers
        if any(view.parameter.requires_grad and view.parameter not in optimized for view in layer.views)
    ]
    if len(names) == len(layers) or (every and names):
        raise ValueError(
            f"{len(names)} of {len(layers)} representative layers are not among the parameters of this "
            f"`{type(optimizer).__name__}`: {first_names(names)}. Its steps don't train them. Make one optimizer for "
            "all that is watched, of the model's parameters as they are now: `fully_shard` and `ticket.compact`, for "
            "two, put new ones in their place."
        )


def layers_without_pruning(
    layers: Sequence[RepresentativeLayer], prune_ratio: float, scope: str
) -> list[RepresentativeLayer]:
    """Find the layers of which nothing is ever pruned, though their ratio is not 0: they have too few units for it.

    Args:
        layers (`Sequence[RepresentativeLayer]`): The layers.
        prune_ratio (`float`): p, for layers without a ratio of their own.
        scope (`str`): `"layer"` or `"global"`.
    """
    if scope == "global":
        units = sum(layer.shape.numel() for layer in layers)
        return list(layers) if prune_ratio and not round(prune_ratio * units) else []
    ratios = [(layer, layer.ratio(prune_ratio)) for layer in layers]
    return [layer for layer, ratio in ratios if ratio and not round(ratio * layer.shape.numel())]


def doubts(layers: Sequence[RepresentativeLayer], config: WormConfig, by_magnitude: bool = True) -> Iterator[str]:
    """Yield warnings about likely mistakes.

    Args:
        layers (`Sequence[RepresentativeLayer]`): The layers.
        config (`WormConfig`): The settings.
        by_magnitude (`bool`, *optional*, defaults to `True`): Whether magnitude is the score.
    """
    yield from _doubt_precision(layers)
    if config.speedup is None:
        yield from _doubt_ratio(layers, layers_without_pruning(layers, config.prune_ratio, config.scope))
        if config.scope == "global" and by_magnitude:
            yield from _doubt_sizes(layers)
    elif by_magnitude:
        yield (
            f"`speedup={config.speedup:g}` by magnitude: the L1 norm of a neuron or a head says little of what the "
            "task needs, and units drawn at random end about as well. Use `score='fisher'` with `scope='global'`, as "
            "`WormConfig.faster(...)` has them."
        )


def _doubt_precision(layers: Sequence[RepresentativeLayer]) -> Iterator[str]:
    narrow = {layer.parameter.dtype for layer in layers if layer.parameter.element_size() < 4}
    if narrow:
        yield (
            f"Watched weights are of {' and '.join(sorted(map(str, narrow)))}: a step smaller than their rounding "
            "changes nothing, and masks that stand still for that look converged. Train weights of 32 bits "
            "(`from_pretrained(..., dtype=torch.float32)`); autocast (`bf16=True`) computes as fast on them."
        )


def _doubt_ratio(layers: Sequence[RepresentativeLayer], unpruned: Sequence[RepresentativeLayer]) -> Iterator[str]:
    if unpruned:
        counts = sorted({(layer.shape.numel(), layer.granularity) for layer in unpruned})
        units = [f"{count} {granularity}{'' if count == 1 else 's'}" for count, granularity in counts]
        notes = "".join(f" {kind.note}" for kind in by_kind(unpruned) if kind.note)
        yield (
            f"Nothing is pruned of {len(unpruned)} of {len(layers)} layers, "
            f"{first_names([layer.name for layer in unpruned])}: with {' or '.join(units)}, this ratio rounds to 0 "
            f"pruned.{notes} Take a larger ratio, or leave these layers out."
        )


def _doubt_sizes(layers: Sequence[RepresentativeLayer]) -> Iterator[str]:
    sizes: dict[str, int] = {}  # weights of a unit
    for layer in layers:
        if kind_of(layer).of_many_weights:
            sizes[layer.granularity] = sum(view.weight.numel() for view in layer.views) // layer.shape.numel()
        else:
            sizes["weight"] = 1
    least, most = min(sizes, key=lambda unit: sizes[unit]), max(sizes, key=lambda unit: sizes[unit])
    if sizes[most] > UNEQUAL * sizes[least]:
        yield (
            f"`scope='global'` ranks all units together by the L1 norm of their weights, and a {most} has "
            f"{sizes[most] // sizes[least]:,} times as many as a {least}: each {least} goes before the first {most}, "
            "whatever it is worth. Use `scope='layer'`, with a ratio for each kind if need be: "
            "`layers=['neurons=0.5', 'heads=0.25']`."
        )


def _frozen(frozen: Sequence[RepresentativeLayer], total: int) -> ValueError:
    """Return the error for layers that do not train.

    Args:
        frozen (`Sequence[RepresentativeLayer]`): The frozen layers.
        total (`int`): How many layers are watched in all.
    """
    names = [layer.name for layer in frozen]
    message = f"{len(names)} of {total} representative layers are frozen (`requires_grad=False`): {first_names(names)}."
    if any(ADAPTER in name for name in names):
        return ValueError(
            f"{message} The adapter around them trains and the base weight does not, so its mask never moves and there "
            f"is nothing to search. {MERGE}"
        )
    larger = any(kind_of(layer).of_many_weights for layer in frozen)
    unit, word = ("unit", "neurons") if larger else ("weight", "query")
    return ValueError(
        f"{message} The mask of a frozen {unit} never moves, so there is nothing to search. Unfreeze them "
        "(`parameter.requires_grad_(True)`), or name the places that train: "
        f'`WormConfig(layers=["{word}@*.layer.[6-9].*"])`.'
    )
