"""Which weights of a model are watched: the only place that knows architectures."""

from .find import representative_layers, require_trainable
from .layer import RepresentativeLayer, View

__all__ = ["RepresentativeLayer", "View", "representative_layers", "require_trainable"]
