"""Knowledge of architectures: where units are in a model, which parts of parameters they own, how they are cut out."""

from .checks import doubts, layers_without_pruning, require_optimized, require_trainable
from .find import representative_layers
from .layer import RepresentativeLayer, View

__all__ = [
    "RepresentativeLayer",
    "View",
    "doubts",
    "layers_without_pruning",
    "representative_layers",
    "require_optimized",
    "require_trainable",
]
