"""Truncation: scale the gradients, or the optimizer's step, of the weights about to be pruned."""

from collections.abc import Callable, Sequence

import torch

Scaled = tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]


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


class StepTruncation:
    """Makes the optimizer's step smaller on some weights: w ← w_old + scale · (w_new - w_old).

    Unlike a scaled gradient, which Adam divides by its own running size, this means the same for every optimizer, and
    it scales weight decay too.

    Args:
        optimizer (`torch.optim.Optimizer`): Its `step` is hooked.
        scaled (`Callable[[], tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]]`):
            Asked before each step: the weights (views of parameters) and a scale for each; none while nothing is
            truncated.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scaled: Callable[[], Scaled]) -> None:
        self._scaled = scaled
        self._before: list[torch.Tensor] = []  # kept from step to step: no allocation in the loop
        self.active = True
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._remember()),
            optimizer.register_step_post_hook(lambda *_: self._shrink()),
        ]

    def _remember(self) -> None:
        weights, _ = self._scaled()
        if len(self._before) != len(weights):
            self._before = [torch.empty_like(weight) for weight in weights]
        if weights:
            torch._foreach_copy_(self._before, list(weights))

    def _shrink(self) -> None:
        weights, scales = self._scaled()
        for before, weight, scale in zip(self._before, weights, scales, strict=True):
            torch.lerp(before, weight, scale, out=weight)  # the foreach lerp can't write into its second argument

    def remove(self) -> None:
        """Take the hooks off the optimizer."""
        for hook in self._hooks:
            hook.remove()
        self.active = False
        self._before = []
