"""Attention heads: one unit for each head, or for each group of heads that share keys and values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from hf_worm.config import is_count

from . import families
from .attention import lose_heads_, require_no_other_weights
from .kind import LargerKind, Views
from .layer import RepresentativeLayer, Slices, View
from .names import Named, first_groups, join
from .shrink import Kept, holders, require_equally_shared
from .weights import explain_fused, projections


class Heads(LargerKind):
    """Heads of every attention: rows and biases of query, key and value, columns of the output projection.

    Heads that share a key and a value (grouped-query attention) are one unit. Those of differential attention, where
    half of the values go to all heads (DiffLlama), can't be told apart.
    """

    words = ("heads",)
    granularity = "head"
    definition = "a head is rows and biases of query, key and value, and columns of the output projection"
    note = "Heads that share a key and a value are one unit."
    in_attention = True

    def find(self, word: str, model: nn.Module, named: Named) -> list[Views]:
        """Find the views of every attention with four `nn.Linear` of known names that tells the width of its heads."""
        modules = dict(model.named_modules())
        found = []
        for path, module in modules.items():
            for family in _families_of(modules, path):
                linear = [modules.get(join(path, name)) for name in family.projections]
                linear.append(_output(modules, path, family))
                if all(isinstance(projection, nn.Linear) for projection in linear):
                    found.append(_views([p for p in linear if isinstance(p, nn.Linear)], _head_size(module, family)))
        return [views for views in found if views]

    def would_find(self, word: str, name: str, model: nn.Module) -> bool:
        """Say whether the weight or bias has the name of a query, key or value."""
        child = name.rpartition(".")[0].rpartition(".")[2]
        return any(child in family.projections for family in families.ATTENTIONS)

    def describe(self, words: Sequence[str]) -> str:
        """Describe an attention."""
        return "attention with separate query, key, value and output projections that tells the width of its heads"

    def explain_unwatched(
        self, layers: Sequence[str], unwatched: Named, model: nn.Module, named: Named
    ) -> Iterator[str]:
        """Name attentions with a fused projection, and those whose heads can't be told apart."""
        yield from explain_fused(layers, unwatched, model, named)
        queries = set(projections(named, "query"))
        separate = [(name, weight) for name, weight in unwatched if weight in queries]
        if separate:
            yield (
                f"Not all attentions of `{type(model).__name__}` are watched: the heads of some are not known, because "
                "there is no output projection or no width of a head, or heads share more than keys and values: "
                f"{first_groups(separate, named)}."
            )

    def require_cuttable(self, model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
        """Raise if an attention has other weights, depends on its number of heads, or shares some of its weights."""
        for layer in layers:
            for attention in holders(model, layer.parameter):
                require_no_other_weights(model, attention, layer, head_size(layer))
            require_equally_shared(model, layer)

    def update_modules_(self, model: nn.Module, layer: RepresentativeLayer, units: list[int]) -> None:
        """Tell the layer's attentions how many heads they have left."""
        for attention in holders(model, layer.parameter):
            lose_heads_(attention, len(units) / layer.shape.numel(), units)

    def fields(
        self, config: Any, layers: Sequence[RepresentativeLayer], changes: Mapping[int, int]
    ) -> Iterator[dict[str, int]]:
        """Propose the number of heads and their width, if all layers have as many."""
        if not hasattr(config, "num_attention_heads") or len(changes) > 1:
            return
        size = head_size(layers[0])
        fields = {"num_attention_heads": layers[0].parameter.shape[0] // size, "head_dim": size}
        if hasattr(config, "num_key_value_heads"):
            fields["num_key_value_heads"] = next(iter(changes.values()))
        yield fields

    def to_record(self, kept: Kept, earlier: Mapping[str, list[int]]) -> dict[str, list[int]]:
        """Return the heads of each layer, by their numbers in the model that nothing was cut out of."""
        return {
            name: [earlier[name][unit] for unit in units] if name in earlier else units for name, units in kept.items()
        }

    def from_record(self, value: list[int]) -> list[int]:
        """Return the heads as they are listed."""
        return value

    def require_recordable(self, value: Any) -> None:
        """Raise unless the heads are listed in ascending order, each once, and there is one."""
        if not value or not all(is_count(head, 0) for head in value):
            raise TypeError("heads are listed by layer, from 0")
        if sorted(set(value)) != list(value):
            raise TypeError("heads are listed in their order, each of them once")


def head_size(layer: RepresentativeLayer) -> int:
    """Return the width of one head: that of a unit's key and value, which queries may have several of."""
    *rows, _ = layer.views
    return min(len(view.parameter) for view in rows) // layer.shape.numel()


def _families_of(modules: Mapping[str, nn.Module], path: str) -> list[families.Attention]:
    """List the families in which an attention at this path would have such a query; none for differential attention."""
    prefix = join(path, "")
    found = [family for family in families.ATTENTIONS if f"{prefix}{family.query}" in modules]
    return [] if found and hasattr(modules[path], families.DIFFERENTIAL) else found


def _head_size(attention: nn.Module, family: families.Attention) -> int | None:
    """Return the width of a head; `None` where the module does not tell it."""
    sizes = [getattr(attention, name) for name in family.head_sizes if hasattr(attention, name)]
    return sizes[0] if sizes and isinstance(sizes[0], int) else None


def _output(modules: Mapping[str, nn.Module], path: str, family: families.Attention) -> nn.Module | None:
    """Return the output projection of the attention at a path."""
    for output in family.outputs:
        start = path.rpartition(".")[0] if output.startswith("../") else path
        module = modules.get(join(start, output.removeprefix("../")))
        if isinstance(module, nn.Linear):
            return module
    return None


def _views(linear: Sequence[nn.Linear], size: int | None) -> Views:
    """Return the views of an attention's heads; none where the widths don't fit each other.

    Args:
        linear (`Sequence[nn.Linear]`): Query, key, value and output projections.
        size (`int`, *optional*): The width of a head.
    """
    query, key, value, output = linear
    width = key.out_features
    if not size or width % size or value.out_features != width or query.out_features % width:
        return ()
    if output.in_features != query.out_features:
        return ()
    units = width // size
    # Parametrized ones (weight norm, an adapter's) have no weight of their own.
    owned = [dict(module.named_parameters(recurse=False)) for module in linear]
    if not all("weight" in parameters for parameters in owned):
        return ()
    rows = [View(parameter, Slices(0, units)) for parameters in owned[:-1] for parameter in parameters.values()]
    return (*rows, View(owned[-1]["weight"], Slices(1, units)))
