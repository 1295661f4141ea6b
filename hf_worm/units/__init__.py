"""Which weights of a model are watched, and which parts of parameters a unit owns: what is known of architectures."""

from .checks import doubts, idle, require_optimized, require_trainable
from .find import representative_layers
from .layer import RepresentativeLayer, View

__all__ = [
    "RepresentativeLayer",
    "View",
    "doubts",
    "idle",
    "representative_layers",
    "require_optimized",
    "require_trainable",
]
