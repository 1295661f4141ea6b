"""From the words, names and patterns of `layers` to representative layers."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_worm.config import split_ratios

from .channels import batchnorm_scales
from .errors import (
    blocks_left_out,
    derived,
    empty,
    experts_left_out,
    heads_left_out,
    left_out,
    no_entries,
    not_floating_point,
    not_found,
    nowhere,
    owned_twice,
    partly_shared,
    two_ratios,
    unknown_entry,
)
from .heads import heads
from .layer import WORDS, Granularity, RepresentativeLayer, View
from .names import Named, derived_parameters, matches, named_parameters
from .neurons import FAMILIES as BLOCKS
from .neurons import experts, leading_out, neurons
from .weights import FAMILIES, ROLES, fused_projections, projections


def representative_layers(model: nn.Module, layers: Sequence[str] = ("query", "key")) -> list[RepresentativeLayer]:
    """Find the layers of a model whose masks are watched and pruned.

    Args:
        model (`nn.Module`): Any model; wrappers (DDP, `torch.compile`, activation checkpointing) are looked through.
        layers (`Sequence[str]`, *optional*, defaults to `("query", "key")`): Each entry is

            - `"query"`, `"key"` or `"value"`: the attention projections of that role, cross-attention included. With
              LoRA, the base weight is the representative one;
            - `"batchnorm"`: the scale γ of every BatchNorm with affine parameters, its β masked with it;
            - `"neurons"`: the hidden neurons of every feed-forward block: a neuron is its rows and biases in the
              projections that lead in (gated ones included) and its column in the one that leads out;
            - `"heads"`: the heads of every attention: a head is its rows and biases in query, key and value and its
              columns in the output projection; heads that share a key and a value are one unit;
            - one of these words in some places: `"neurons@*.layer.[6-9].*"`, where the layer's name matches a pattern;
            - a parameter's name, or a shell-style pattern over such names: the whole of each parameter that matches;

            and may end in a ratio of its own: `"neurons=0.75"`.

    Warns where a word finds some of the attentions, and others that train have a fused projection, or no heads that can
    be told apart; where `"neurons"` leaves out blocks or experts that train; and where a word means weights that are
    made of other parameters (parametrizations, `torch.nn.utils.prune`).

    Returns:
        `list[RepresentativeLayer]`: In the order of `model.named_parameters()`, each parameter once however often it is
        shared or asked for. Names are those of `model.named_parameters()` without the wrappers' prefixes.

    Raises:
        `ValueError`:
            If an entry finds nothing, finds a parameter that is empty or not floating point, finds units that own a
            part of what another entry's own (`"heads"` beside `"query"`), or finds what another does, with another
            ratio; or if a ratio is not in [0, 1).

    Example:

    ```python
    >>> [layer.name for layer in representative_layers(bert, ["query"])]
    ['encoder.layer.0.attention.self.query.weight', 'encoder.layer.1.attention.self.query.weight']
    ```
    """
    if isinstance(layers, str) or not layers:
        raise no_entries(layers)
    named = named_parameters(model)
    ratios = split_ratios(layers)
    found = {entry: _find(entry, model, named) for entry in ratios}
    missing = [entry for entry in found if not found[entry]]
    for entry in missing:
        word, at, _ = entry.partition(PLACE)
        if at and word in WORDS and (everywhere := _find(word, model, named)):
            raise nowhere(entry, [_name(units, named) for units in everywhere])
        if word not in WORDS:
            raise unknown_entry(entry, model, named)
    if missing:
        missing = [entry.partition(PLACE)[0] for entry in missing]
        present = [word for word in WORDS if word not in missing and _find(word, model, named)]
        raise not_found(missing, present, model, named)

    # Words before names and patterns, so that a β that goes with its γ is not a layer of its own as well.
    chosen: dict[nn.Parameter, tuple[Units, float | None]] = {}
    owned: dict[nn.Parameter, tuple[str, Units]] = {}  # by whom, as what
    partly: set[nn.Parameter] = set()  # of units that are left out, since some of their weights are taken
    for entry in sorted(found, key=lambda entry: entry.partition(PLACE)[0] not in WORDS):
        for units in found[entry]:
            parameters = [view.parameter for view in units.views]
            taken = [(parameter, *owned[parameter]) for parameter in parameters if parameter in owned]
            for parameter, other, theirs in taken:
                name = next(name for name, one in named if one is parameter)
                if units.granularity != theirs.granularity and "channel" not in (units.granularity, theirs.granularity):
                    raise owned_twice(name, other, entry)
                if ratios[entry] != ratios[other]:
                    raise two_ratios(name, {other: ratios[other], entry: ratios[entry]})
            if taken:
                partly.update(parameters)
            else:
                chosen[parameters[0]] = units, ratios[entry]
                owned.update(dict.fromkeys(parameters, (entry, units)))

    accounted = set(owned)

    def others(weights: Named) -> Named:
        return [(name, weight) for name, weight in weights if weight not in accounted and weight.requires_grad]

    if rest := others([(name, weight) for name, weight in named if weight in partly]):
        warnings.warn(partly_shared(rest, model, named), stacklevel=2)
    accounted |= partly
    fused = others(fused_projections(named))
    if fused and any(entry in (*ROLES, "heads") for entry in ratios):
        warnings.warn(left_out(layers, fused, model, named), stacklevel=2)
    queries = set(projections(named, "query")) if "heads" in ratios else set()
    separate = others([(name, weight) for name, weight in named if weight in queries])
    if separate:
        warnings.warn(heads_left_out(separate, model, named), stacklevel=2)
    if "neurons" in ratios and (trained := others(experts(named))):
        warnings.warn(experts_left_out(trained, model, named), stacklevel=2)
    unwatched = [name for name in derived_parameters(model) if any(_means(entry, name, model) for entry in ratios)]
    if unwatched:
        warnings.warn(derived(unwatched, model), stacklevel=2)
    elif "neurons" in ratios and (unknown := others(leading_out(named))):
        warnings.warn(blocks_left_out(unknown, model, named), stacklevel=2)

    result = []
    for name, parameter in named:
        if parameter in chosen:
            if not parameter.numel():
                raise empty(name, parameter)
            if not parameter.is_floating_point() or parameter.element_size() == 1:  # float8 is quantized too
                raise not_floating_point(name, parameter)
            units, ratio = chosen.pop(parameter)  # a shared one: under its first name
            result.append(RepresentativeLayer(name, units.views, units.granularity, ratio))
    return result


PLACE = "@"  # between a word and where it is meant; no parameter's name has one


class Units(NamedTuple):
    """What the units of one layer own, and what they are."""

    views: tuple[View, ...]
    granularity: Granularity


def _find(entry: str, model: nn.Module, named: Named) -> list[Units]:
    """The units of each layer that one entry of `layers` means."""
    word, at, place = entry.partition(PLACE)
    views: Iterable[tuple[View, ...]]
    if word == "batchnorm":
        views = batchnorm_scales(model)
    elif word == "neurons":
        views = neurons(model, named)
    elif word == "heads":
        views = heads(model)
    elif word in ROLES:
        views = ((View(parameter),) for parameter in projections(named, word))
    else:
        return [Units((View(parameter),), "weight") for name, parameter in named if matches(name, entry)]
    found = [Units(tuple(dict.fromkeys(owned)), WORDS[word]) for owned in views]  # tied ones (query and key) once
    return [units for units in found if matches(_name(units, named), place)] if at else found


def _blocks_around(path: str) -> Iterator[set[str]]:
    """The paths of the projections of the feed-forward blocks that a projection may belong to."""
    for inputs, output in BLOCKS:
        for projection in (*inputs, output):
            block = path.removesuffix(projection)
            if block != path and (not block or block.endswith(".")):
                yield {f"{block}{name}" for name in (*inputs, output)}


def _name(units: Units, named: Named) -> str:
    """The name of a layer: that of its first parameter."""
    return next(name for name, parameter in named if parameter is units.views[0].parameter)


def _means(entry: str, name: str, model: nn.Module) -> bool:
    """Whether an entry of `layers` with a word would have found something by a weight, were it a parameter."""
    word, at, place = entry.partition(PLACE)
    if at and not matches(name, place):
        return False
    path, _, kind = name.rpartition(".")
    if word == "batchnorm":
        return isinstance(model.get_submodule(path), _BatchNorm)
    if word == "neurons":
        present = {module for module, _ in model.named_modules()}
        return any(block <= present for block in _blocks_around(path))
    child = path.rpartition(".")[2]
    if word == "heads":
        return any(child in family for family in FAMILIES)
    if kind != "weight" or word not in ROLES:
        return False
    sought = {0, 1, ROLES.index(word)}  # an attention is known by its query and key
    return any(child == family[place] for family in FAMILIES for place in sought)
