"""FFN neurons, found by the names that the projections of a feed-forward block have side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from hf_worm.config import is_count

from . import families
from .families import FeedForward
from .kind import LargerKind, Views
from .layer import RepresentativeLayer, Slices, View
from .names import Named, block_path, computed_parameters, first_groups, in_attention
from .shrink import Kept, holders, require_equally_shared


class Neurons(LargerKind):
    """The hidden neurons of every feed-forward block: rows and biases leading in, columns leading out."""

    words = ("neurons",)
    granularity = "neuron"
    definition = "a neuron is rows, biases and a column of its block's projections"

    def find(self, word: str, model: nn.Module, named: Named) -> list[Views]:
        """Find the views of every block whose projections have known names and fitting shapes."""
        parameters = dict(named)
        transposed = {module.weight for module in model.modules() if type(module).__name__ == families.TRANSPOSED}
        found: dict[nn.Parameter, Views] = {}  # by the projection that leads out
        ends = [(family, f"{family.inputs[0]}.weight") for family in families.FEED_FORWARDS]
        for name in parameters:
            for family, end in ends:
                block = block_path(name, end)
                output = None if block is None else parameters.get(f"{block}{family.output}.weight")
                if block is not None and output is not None:
                    views = _views(parameters, block, family, output in transposed)
                    if len(views) > len(found.get(output, ())):  # a gate belongs to the block
                        found[output] = views
        return list(found.values())

    def would_find(self, word: str, name: str, model: nn.Module) -> bool:
        """Say whether the weight is one of a block all of whose projections are there."""
        present = {path for path, _ in model.named_modules()}
        return any(block <= present for block in _blocks_around(name.rpartition(".")[0]))

    def describe(self, words: Sequence[str]) -> str:
        """Describe a feed-forward block."""
        return "feed-forward block of `nn.Linear` that go by known names (`fc1`/`fc2`, ...)"

    def reasons(self, words: Sequence[str], named: Named) -> Iterator[str]:
        """Explain that experts kept together don't count."""
        if experts(named):
            yield "experts that are kept together in one weight don't count"

    def explain_unwatched(
        self, layers: Sequence[str], unwatched: Named, model: nn.Module, named: Named
    ) -> Iterator[str]:
        """Name experts that are kept together, and blocks of unknown names."""
        together = experts(unwatched)
        if together:
            weights = sum(weight.numel() for _, weight in together)
            yield (
                f"Not all feed-forward blocks of `{type(model).__name__}` are watched: experts that are kept together "
                f"in one weight are not ({first_groups(together, named)}: {weights:,} weights)."
            )
        unknown = _outside_computed_blocks(leading_out(unwatched), model)
        if unknown:
            yield (
                f"Not all feed-forward blocks of `{type(model).__name__}` are watched: no projection with a known name "
                f"and as many neurons leads into the block of {first_groups(unknown, named)}."
            )

    def require_cuttable(self, model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
        """Raise if a block depends on its number of neurons elsewhere, or shares some of its weights."""
        for layer in layers:
            _require_no_other_weights(model, layer)
            require_equally_shared(model, layer)

    def fields(
        self, config: Any, layers: Sequence[RepresentativeLayer], changes: Mapping[int, int]
    ) -> Iterator[dict[str, int]]:
        """Propose the fields that hold an old number; or, of layers as wide as each other, those that are `None`.

        `None` stands for a multiple of the model's width (GPT-2).
        """
        values = {name: getattr(config, name) for name in families.NEURON_FIELDS if hasattr(config, name)}
        yield {name: changes[value] for name, value in values.items() if isinstance(value, int) and value in changes}
        widths = set(changes.values())
        if len(widths) == 1:
            yield {name: min(widths) for name, value in values.items() if value is None}

    def to_record(self, kept: Kept, earlier: Mapping[str, Any]) -> dict[str, int]:
        """Return the number of neurons of each layer."""
        return {name: len(units) for name, units in kept.items()}

    def from_record(self, value: int) -> list[int]:
        """Return as many neurons."""
        return list(range(value))

    def require_recordable(self, value: Any) -> None:
        """Raise unless it is a number of neurons."""
        if not is_count(value, 1):
            raise TypeError("neurons are counted by layer, from 1")


def leading_out(named: Named) -> Named:
    """Find the weights that have the name of a projection out of a feed-forward block, outside attentions."""
    inner = ("", f".{families.WRAPPED}")
    ends = tuple(f".{family.output}{end}.weight" for family in families.FEED_FORWARDS for end in inner)
    return [
        (name, weight)
        for name, weight in named
        if weight.dim() == 2 and f".{name}".endswith(ends) and not in_attention(name)
    ]


def experts(named: Named) -> Named:
    """Find the weights of experts that are kept together in one parameter, whose neurons are no rows of a matrix."""
    return [(name, weight) for name, weight in named if weight.dim() == 3 and "experts" in name.split(".")]


def _views(parameters: Mapping[str, nn.Parameter], block: str, family: FeedForward, transposed: bool) -> Views:
    """Return the views of a block's neurons; none where its projections are missing or have other shapes.

    Args:
        parameters (`dict[str, nn.Parameter]`): All of the model, by name.
        block (`str`): Beginning of the names of the block's parameters.
        family (`FeedForward`): The names of its projections.
        transposed (`bool`): Whether the columns of their weights lead out, and the rows in.
    """
    found = [parameters.get(f"{block}{name}.weight") for name in family.projections]
    weights = [weight for weight in found if weight is not None and weight.dim() == 2]
    if len(weights) != len(found):
        return ()
    *inputs, output = weights
    rows, columns = (1, 0) if transposed else (0, 1)
    units = output.shape[columns]
    parts = 2 if family.may_hold_gate and len(inputs[0]) == 2 * units else 1
    biases = [parameters[f"{block}{name}.bias"] for name in family.inputs if f"{block}{name}.bias" in parameters]
    leading_in = [(weight, rows) for weight in inputs] + [(bias, 0) for bias in biases]
    if any(parameter.shape[axis] != parts * units for parameter, axis in leading_in):
        return ()
    views = [View(parameter, Slices(axis, units, parts)) for parameter, axis in leading_in]
    return (*views, View(output, Slices(columns, units)))


def _blocks_around(path: str) -> Iterator[set[str]]:
    """Yield the paths of the projections of each feed-forward block that a projection may belong to."""
    for family in families.FEED_FORWARDS:
        for projection in family.projections:
            block = block_path(path, projection)
            if block is not None:
                yield {f"{block}{name}" for name in family.projections}


def _outside_computed_blocks(weights: Named, model: nn.Module) -> Named:
    """Leave out the weights of blocks that have a weight computed from others: a warning of its own names that."""
    if not weights:
        return []
    paths = {name.rpartition(".")[0] for name in computed_parameters(model)}
    blocks = {path for computed in paths for block in _blocks_around(computed) for path in block}
    return [(name, weight) for name, weight in weights if name.removesuffix(".weight") not in blocks]


def _require_no_other_weights(model: nn.Module, layer: RepresentativeLayer) -> None:
    """Raise if something between a block's projections depends on how many neurons there are."""
    advice = "its neurons can be pruned, but not cut out."
    units = layer.shape.numel()
    width = layer.views[-1].parameter.numel() // units
    owned = {id(view.parameter) for view in layer.views}
    for block in holders(model, layer.parameter):
        kind = type(block).__name__
        if getattr(block, "activation_sparsity", 0):
            raise ValueError(f"`{kind}` keeps the largest activations by statistics of all neurons: {advice}")
        for name, parameter in block.named_parameters():
            if parameter.dim() != 2 and len(parameter) == units != width and id(parameter) not in owned:
                shape = tuple(parameter.shape)
                raise ValueError(f"`{kind}` has another weight for each neuron, `{name}` of shape {shape}: {advice}")
