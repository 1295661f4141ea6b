"""The kinds of units, and the words for them."""

from collections.abc import Sequence

from .channels import Channels
from .heads import Heads
from .kind import Kind, LargerKind
from .layer import RepresentativeLayer
from .neurons import Neurons
from .weights import Weights

WEIGHTS = Weights()  # the kind of names and patterns too
LARGER_KINDS: tuple[LargerKind, ...] = (Neurons(), Heads())
KINDS: tuple[Kind, ...] = (WEIGHTS, Channels(), *LARGER_KINDS)
WORDS: dict[str, Kind] = {word: kind for kind in KINDS for word in kind.words}


def kind_of(layer: RepresentativeLayer) -> Kind:
    """Return the kind of a layer's units."""
    return next(kind for kind in KINDS if kind.granularity == layer.granularity)


def by_kind(layers: Sequence[RepresentativeLayer]) -> dict[Kind, list[RepresentativeLayer]]:
    """Group layers by the kind of their units, in the order of [`KINDS`]; kinds without layers are left out."""
    groups = {kind: [layer for layer in layers if layer.granularity == kind.granularity] for kind in KINDS}
    return {kind: own for kind, own in groups.items() if own}
