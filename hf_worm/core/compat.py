"""Seams of torch without a promise; those of transformers and accelerate are in `hf_worm.trainer.compat`."""

from collections.abc import Sequence
from typing import Any

import torch


def multiply_(tensors: Sequence[torch.Tensor], factors: Sequence[torch.Tensor] | torch.Tensor | float) -> None:
    """Multiply tensors in place, each by its factor or all by one, in one fused operation without synchronisation."""
    torch._foreach_mul_(list(tensors), list(factors) if isinstance(factors, Sequence) else factors)


def norms(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the L2 norm of each tensor, all in one fused operation."""
    return tuple(torch._foreach_norm(list(tensors)))


def has_step_hooks(optimizer: Any) -> bool:
    """True if functions can be registered that are called before and after each step of an optimizer."""
    return hasattr(optimizer, "_optimizer_step_pre_hooks")


def call_step_hooks(optimizer: torch.optim.Optimizer) -> None:
    """Have an optimizer's step call its hooks: no step would of one that leaves `Optimizer.__init__` out."""
    optimizer._patch_step_function()
