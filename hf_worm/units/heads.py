"""Attention heads: one unit for each head, or for each group of heads that share keys and values."""

from torch import nn

from .layer import Slices, View
from .weights import FAMILIES

# The output projection beside the query; or beside the module that holds the query.
OUTPUTS = ("o_proj", "out_proj", "o", "out_lin", "dense")
OUTPUTS_BESIDE = ("output.dense",)  # BERT and its kin
# What attentions call the width of a head.
HEAD_SIZES = ("attention_head_size", "head_dim", "key_value_proj_dim")
DIFFERENTIAL = "lambda_q1"  # a parameter of differential attentions


def heads(model: nn.Module) -> list[tuple[View, ...]]:
    """Views of the heads of every attention: rows and biases of query, key and value, columns of the output projection.

    Heads that share a key and a value (grouped-query attention) are one unit. Those of differential attention, where
    half of the values go to all heads (DiffLlama), can't be told apart.
    """
    modules = dict(model.named_modules())
    found = []
    for path, module in modules.items():
        if hasattr(module, DIFFERENTIAL):
            continue
        for family in FAMILIES:
            projections = [modules.get(f"{path}.{name}" if path else name) for name in family]
            output = _output(modules, path)
            if output is not None and all(isinstance(projection, nn.Linear) for projection in projections):
                views = _of_attention([p for p in projections if isinstance(p, nn.Linear)], output, head_size(module))
                found.append(views)
    return [views for views in found if views]


def head_size(attention: nn.Module) -> int | None:
    """The width of a head; `None` where the module does not say."""
    sizes = [getattr(attention, name) for name in HEAD_SIZES if hasattr(attention, name)]
    return sizes[0] if sizes and isinstance(sizes[0], int) else None


def _output(modules: dict[str, nn.Module], path: str) -> nn.Linear | None:
    parent = path.rpartition(".")[0]
    inside = [f"{path}.{name}" if path else name for name in OUTPUTS]
    beside = [f"{parent}.{name}" if parent else name for name in OUTPUTS_BESIDE]
    for name in (*inside, *beside):
        module = modules.get(name)
        if isinstance(module, nn.Linear):
            return module
    return None


def _of_attention(projections: list[nn.Linear], output: nn.Linear, size: int | None) -> tuple[View, ...]:
    """Views of an attention's heads; none where the widths are not those of query, key, value and output."""
    query, key, value = projections
    width = key.out_features
    if not size or width % size or value.out_features != width or query.out_features % width:
        return ()
    if output.in_features != query.out_features:
        return ()
    units = width // size
    # Parametrized ones (weight norm, an adapter's) have no weight of their own.
    owned = [dict(module.named_parameters(recurse=False)) for module in (*projections, output)]
    if not all("weight" in parameters for parameters in owned):
        return ()
    rows = [View(parameter, Slices(0, units)) for parameters in owned[:-1] for parameter in parameters.values()]
    return (*rows, View(owned[-1]["weight"], Slices(1, units)))
