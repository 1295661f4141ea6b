"""Whether what was found can be searched: what is refused, and what is likely a mistake."""

from collections.abc import Iterator, Sequence

import torch

from .errors import frozen, not_optimized, partly_frozen
from .layer import RepresentativeLayer
from .names import firsts

UNEQUAL = 2  # times as many weights in a unit of one layer as in that of another


def require_trainable(layers: Sequence[RepresentativeLayer]) -> None:
    """Raise a `ValueError` if weights of a layer are frozen: its mask never moves, so there is nothing to search."""
    still = [layer for layer in layers if not layer.parameter.requires_grad]
    if still:
        raise frozen([layer.name for layer in still], len(layers), any(layer.summed for layer in still))
    partly = [layer.name for layer in layers if not all(view.parameter.requires_grad for view in layer.views)]
    if partly:
        raise partly_frozen(partly)


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
        raise not_optimized(names, len(layers), type(optimizer).__name__)


def idle(layers: Sequence[RepresentativeLayer], prune_ratio: float, scope: str) -> list[RepresentativeLayer]:
    """The layers of which nothing is ever pruned, though their ratio is not 0: they have too few units for it.

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


def doubts(layers: Sequence[RepresentativeLayer], prune_ratio: float, scope: str) -> Iterator[str]:
    """What is likely a mistake, in sentences.

    Args:
        layers, prune_ratio, scope: As for [`idle`].
    """
    narrow = {layer.parameter.dtype for layer in layers if layer.parameter.element_size() < 4}
    if narrow:
        yield (
            f"Watched weights are of {' and '.join(sorted(map(str, narrow)))}: a step smaller than their rounding "
            "changes nothing, and masks that stand still for that look converged. Train weights of 32 bits "
            "(`from_pretrained(..., dtype=torch.float32)`); autocast (`bf16=True`) computes as fast on them."
        )
    still = idle(layers, prune_ratio, scope)
    if still:
        counts = sorted({(layer.shape.numel(), layer.granularity) for layer in still})
        units = [f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in counts]
        shared = " Heads that share a key and a value are one unit." if still[0].granularity == "head" else ""
        yield (
            f"Nothing is pruned of {len(still)} of {len(layers)} layers, {firsts([layer.name for layer in still])}: of "
            f"their {' or '.join(units)} the ratio takes less than a half.{shared} Take a larger one, or leave them "
            "out."
        )
    sizes = {
        layer.granularity: sum(view.weight.numel() for view in layer.views) // layer.shape.numel()
        for layer in layers
        if layer.summed
    }
    if any(not layer.summed for layer in layers):
        sizes["weight"] = 1
    if scope == "global" and max(sizes.values()) > UNEQUAL * min(sizes.values()):
        least, most = min(sizes, key=lambda kind: sizes[kind]), max(sizes, key=lambda kind: sizes[kind])
        yield (
            f"`scope='global'` ranks all units together by the L1 norm of their weights, and a {most} has "
            f"{sizes[most] // sizes[least]:,} times as many as a {least}: each {least} goes before the first {most}, "
            "whatever it is worth. Use `scope='layer'`, with a ratio for each kind if need be: "
            "`layers=['neurons=0.5', 'heads=0.25']`."
        )
