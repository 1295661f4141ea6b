"""Single weights of attention projections, found by the names that these have side by side."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from torch import nn

from . import families
from .kind import Kind, Views
from .layer import RepresentativeLayer, View
from .names import LISTED, Named, first_names, group, in_attention
from .shrink import Kept

Role = Literal["query", "key", "value"]
ROLES: tuple[Role, ...] = get_args(Role)
PLACES: dict[str, int] = {role: place for place, role in enumerate(ROLES)}  # in a family's `projections`


class Weights(Kind):
    """Single weights: the entries of query, key and value projections."""

    words = ROLES
    granularity = "weight"
    definition = "a weight is one entry of a projection"
    in_attention = True

    def find(self, word: str, model: nn.Module, named: Named) -> Iterator[Views]:
        """Find the projections in one role, cross-attention included."""
        return ((View(parameter),) for parameter in projections(named, word))

    def would_find(self, word: str, name: str, model: nn.Module) -> bool:
        """Say whether a weight has the name of a projection in that role, or of what such an attention is known by."""
        path, _, parameter = name.rpartition(".")
        child = path.rpartition(".")[2]
        places = {0, 1, PLACES[word]}  # an attention is known by its query and key
        return parameter == "weight" and any(
            child == family.projections[place] for family in families.ATTENTIONS for place in places
        )

    def describe(self, words: Sequence[str]) -> str:
        """Name the roles."""
        return f"{_either(words)} projection"

    def reasons(self, words: Sequence[str], named: Named) -> Iterator[str]:
        """Explain what an attention is known by, unless a fused projection explains it all."""
        if fused_projections(named):
            yield "query, key and value are fused in one weight"
        elif "query" in words or "key" in words:
            pairs = ", ".join(f"`{family.query}`/`{family.key}`" for family in families.ATTENTIONS[:LISTED])
            yield f"no module has separate query and key projections that go by a known name ({pairs}, ...)"

    def whole_weights(self, named: Named) -> Named:
        """Find the fused projections."""
        return fused_projections(named)

    def explain_unwatched(
        self, layers: Sequence[str], unwatched: Named, model: nn.Module, named: Named
    ) -> Iterator[str]:
        """Name fused projections of other attentions."""
        return explain_fused(layers, unwatched, model, named)

    def require_cuttable(self, model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
        """Raise in any case: there is no smaller matrix."""
        raise ValueError(
            f"Units of {first_names([layer.name for layer in layers])} are single weights: a matrix with scattered "
            "zeros does not get smaller. Search for units that can be cut out: "
            "`WormConfig(layers=['neurons', 'heads'])`."
        )

    def cut_(self, model: nn.Module, layers: Sequence[RepresentativeLayer], kept: Kept) -> None:
        """Raise in any case."""
        self.require_cuttable(model, layers)


def projections(named: Named, role: str) -> list[nn.Parameter]:
    """Find the weights of the attention projections in one role, cross-attention included.

    A projection is a weight of two dimensions or more with a family's name for the role, in a module that has both a
    query and a key of that family.

    Args:
        named (`list[tuple[str, nn.Parameter]]`): All parameters of the model.
        role (`str`): `"query"`, `"key"` or `"value"`.
    """
    places = [(split_name(name), parameter) for name, parameter in named if parameter.dim() >= 2]
    taken = {place for place, _ in places}
    sought: dict[str, list[families.Attention]] = {}
    for family in families.ATTENTIONS:
        sought.setdefault(family.projections[PLACES[role]], []).append(family)
    return [
        parameter
        for (parent, child), parameter in places
        for family in sought.get(child, ())
        if (parent, family.query) in taken and (parent, family.key) in taken
    ]


def fused_projections(named: Named) -> Named:
    """Find the weights that hold query, key and value in one."""
    anywhere = {fused.name: not fused.only_in_attention for fused in families.FUSED_PROJECTIONS}
    found = []
    for name, parameter in named:
        parent, child = split_name(name)
        if parameter.dim() >= 2 and child in anywhere and (anywhere[child] or in_attention(parent)):
            found.append((name, parameter))
    return found


def explain_fused(layers: Sequence[str], unwatched: Named, model: nn.Module, named: Named) -> Iterator[str]:
    """Explain that attentions with a fused projection are left out, in a model where others are watched.

    Args:
        layers, unwatched, model, named: As for [`Kind.explain_unwatched`].
    """
    entries = list(group(fused_projections(unwatched), named))
    if entries:
        setting = ", ".join(f'"{entry}"' for entry in [*layers, *entries[:LISTED]])
        yield (
            f"Not all attentions of `{type(model).__name__}` are watched: some have query, key and value fused in one "
            f"weight: {first_names(entries, LISTED)}. Watch those weights as a whole too, "
            f"`WormConfig(layers=[{setting}])`, or, if they are to be left out, name the others by patterns instead of "
            "words."
        )


def split_name(name: str) -> tuple[str, str]:
    """Return the path of the module that a projection would belong to, and the projection's own name there."""
    name = name.removesuffix(".weight")
    parent, _, child = name.rpartition(".")
    while parent and child in families.INNER:
        parent, _, child = parent.rpartition(".")
    return parent, child


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
