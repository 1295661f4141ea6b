"""Truncation: scale the gradients, or the optimizer's step, of the weights about to be pruned."""

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch

from .compat import call_step_hooks, has_step_hooks, multiply_

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
    return scale.view((*mask.shape, *[1] * (like.dim() - mask.dim())))


def scale_gradients(gradients: Sequence[torch.Tensor], scales: Sequence[torch.Tensor]) -> None:
    """Multiply each gradient by its scale, in place, all in one fused operation without synchronisation."""
    multiply_(gradients, scales)


def fade_factor(steps: float) -> float:
    """Return the factor on a weight after each step that leaves [`FADED`] of its size after so many steps."""
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
    while not has_step_hooks(optimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def hooked(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer out of its wrappers, with a step that calls its hooks.

    Raises:
        TypeError: It has no hooks, nor an optimizer within it that has.
    """
    optimizer = unwrapped(optimizer)
    if not has_step_hooks(optimizer):
        raise TypeError(
            f"`{type(optimizer).__name__}` is no `torch.optim.Optimizer`, and its step has no hooks. Pass the one "
            "that it wraps, if that takes the steps, or derive it from `torch.optim.Optimizer`."
        )
    call_step_hooks(optimizer)
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
        self._step: FrameType | None = None  # that of the step which is being taken
        self._within = 0  # how many steps it has called that have not returned
        self.active = True
        optimizer = hooked(optimizer)
        self._hooks = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._shrink),
        ]

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no optimizer: copies of an optimizer are without its hooks."""
        return {**self.__dict__, "_hooks": [], "_before": [], "_step": None, "active": False}

    def _remember(self, optimizer: torch.optim.Optimizer, *of_the_hook: Any) -> None:
        step = None if torch.compiler.is_compiling() else sys._getframe(1)  # which calls the hooks around it
        if self._step is not None and _called_from(self._step, step):
            self._within += 1  # a class's `step` that calls its base class's, around which are the same hooks
            return
        self._step, self._within = step, 0  # one that has failed is forgotten
        weights, _, carried = self._scaled()
        if len(self._before) != len(weights):
            self._before = [torch.empty_like(weight) for weight in weights]
        # A fused optimizer is called, and does nothing, where the `GradScaler` found an overflow.
        overflowed = getattr(optimizer, "found_inf", None)
        factor = carried if overflowed is None else carried + (1 - carried) * overflowed
        for before, weight in zip(self._before, weights, strict=True):
            torch.mul(weight, factor, out=before)

    def _shrink(self, *of_the_hook: Any) -> None:
        if self._within:
            self._within -= 1
            return
        self._step = None
        weights, scales, _ = self._scaled()
        for before, weight, scale in zip(self._before, weights, scales, strict=True):
            torch.lerp(before, weight, scale, out=weight)  # the foreach lerp can't write into its second argument

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        for hook in self._hooks:
            hook.remove()
        self.active = False
        self._before, self._step = [], None


def _called_from(caller: FrameType, frame: FrameType | None) -> bool:
    """True if `caller` is still running, and what runs in `frame` was called from there."""
    while frame is not None and frame is not caller:
        frame = frame.f_back
    return frame is not None
