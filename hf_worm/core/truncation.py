"""Truncation: scale the gradients, or the optimizer's step, of the weights about to be pruned."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

FADED = 0.01


class Scaled(NamedTuple):
    """Weights, and what becomes of each at a step: w ← scale · w_new + (1 - scale) · carried · w_old.

    Args:
        weights (`Sequence[torch.Tensor]`): Views of parameters.
        scales (`Sequence[torch.Tensor]`): One for each, of a shape that broadcasts to it.
        carried (`float`, *optional*, defaults to 1.0): Of all weights; where the scale is 1 it changes nothing.
    """

    weights: Sequence[torch.Tensor] = ()
    scales: Sequence[torch.Tensor] = ()
    carried: float = 1.0


def scale_tensor(mask: torch.Tensor, truncation: float, like: torch.Tensor) -> torch.Tensor:
    """Factors for a tensor whose leading dimensions are the mask's units: 1 where the mask keeps, r where it prunes.

    Args:
        mask (`torch.Tensor`): `bool`, `True` = keep.
        truncation (`float`): r.
        like (`torch.Tensor`): The tensor to be scaled, of shape `(*mask.shape, ...)`.

    Returns:
        `torch.Tensor`: Of the dtype and on the device of `like`, of a shape that broadcasts to it.
    """
    scale = mask.to(like.device).to(like.dtype).clamp_min_(truncation)
    return scale.view(*mask.shape, *[1] * (like.dim() - mask.dim()))


def scale_gradients(gradients: Sequence[torch.Tensor], scales: Sequence[torch.Tensor]) -> None:
    """Multiply each gradient by its scale, in place, all in one fused operation without synchronisation."""
    torch._foreach_mul_(list(gradients), list(scales))


def fade_factor(steps: float) -> float:
    """What a weight is multiplied by after each step to be at [`FADED`] of its size after so many steps."""
    return float(FADED ** (1 / steps))


def fading(truncation: float, factor: float) -> tuple[float, float]:
    """Scale and `carried` of a weight whose truncated step is followed by a multiplication: one pass does both.

    f · (w_old + r · (w_new - w_old)) is scale · w_new + (1 - scale) · carried · w_old.

    Args:
        truncation (`float`): r, in [0, 1].
        factor (`float`): f, in [0, 1).
    """
    scale = truncation * factor
    return scale, factor * (1 - truncation) / (1 - scale)


def unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself, whose step can be hooked, out of a wrapper such as Accelerate's, whose step can't."""
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


class StepTruncation:
    """Makes the optimizer's step smaller on some weights: w ← w_old + scale · (w_new - w_old).

    Unlike a scaled gradient, which Adam divides by its own running size, this means the same for every optimizer, and
    it scales weight decay too. With [`fading`], the weights become smaller as well.

    Args:
        optimizer (`torch.optim.Optimizer`): Its `step` is hooked, or that of the one which it wraps.
        scaled (`Callable[[], Scaled]`): Asked around each step; no weights while nothing is truncated.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scaled: Callable[[], Scaled]) -> None:
        self._scaled = scaled
        self._before: list[torch.Tensor] = []  # kept from step to step: no allocation in the loop
        self.active = True
        optimizer = unwrapped(optimizer)
        self._hooks = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._shrink),
        ]

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no optimizer: copies of an optimizer are without its hooks."""
        return {**self.__dict__, "_hooks": [], "_before": [], "active": False}

    def _remember(self, *of_the_hook: Any) -> None:
        weights, _, carried = self._scaled()
        if len(self._before) != len(weights):
            self._before = [torch.empty_like(weight) for weight in weights]
        for before, weight in zip(self._before, weights, strict=True):
            torch.mul(weight, carried, out=before)

    def _shrink(self, *of_the_hook: Any) -> None:
        weights, scales, _ = self._scaled()
        for before, weight, scale in zip(self._before, weights, scales, strict=True):
            torch.lerp(before, weight, scale, out=weight)  # the foreach lerp can't write into its second argument

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        for hook in self._hooks:
            hook.remove()
        self.active = False
        self._before = []
