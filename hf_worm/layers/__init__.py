"""Which weights of a model are watched, and which parts of parameters a unit owns: what is known of architectures."""

from .find import representative_layers, require_optimized, require_trainable
from .layer import RepresentativeLayer, View

__all__ = ["RepresentativeLayer", "View", "representative_layers", "require_optimized", "require_trainable"]
