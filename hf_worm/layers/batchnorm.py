"""BatchNorm scales: one unit per channel, γ scored and β with it."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layer import View


def batchnorm_scales(model: nn.Module) -> list[tuple[View, ...]]:
    """Views of γ and β of every BatchNorm that has them (β may be off); one without affine parameters has no units."""
    return [
        tuple(View(parameter) for parameter in (module.weight, module.bias) if parameter is not None)
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.affine
    ]
