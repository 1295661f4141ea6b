"""BatchNorm scales: one unit per channel, γ scored and β with it."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layer import View


def batchnorm_scales(model: nn.Module) -> list[tuple[View, ...]]:
    """Views of γ and β of every BatchNorm that has them (β may be off); one without affine parameters has no units."""
    found = []
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            own = dict(module.named_parameters(recurse=False))
            found.append(tuple(View(own[name]) for name in ("weight", "bias") if name in own and "weight" in own))
    return [views for views in found if views]
