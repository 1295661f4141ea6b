"""From the words, names and patterns of `layers` to representative layers."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from hf_worm.config import split_ratios

from . import errors
from .kind import Kind, Views
from .kinds import KINDS, WEIGHTS, WORDS
from .layer import RepresentativeLayer, View
from .names import Named, computed_parameters, matches, named_parameters

PLACE = "@"  # between a word and where it is meant; no parameter's name has one
Ratios = Mapping[str, float | None]  # of entries; `None`: that of the configuration


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
    computed from other parameters (parametrizations, `torch.nn.utils.prune`).

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
        raise errors.no_entries(layers)
    named = named_parameters(model)
    ratios = split_ratios(layers)
    found = {entry: _find(entry, model, named) for entry in ratios}
    _require_found(found, model, named)
    choice = _choose(found, ratios, named)
    for message in _explain_unwatched(layers, ratios, choice, model, named):
        warnings.warn(message, stacklevel=2)
    return list(_layers(choice, named))


class Units(NamedTuple):
    """The units of one layer: the parts of parameters that they own, and their kind."""

    views: Views
    kind: Kind


@dataclass
class Choice:
    """The units that are watched, each parameter among those of one layer only."""

    units: dict[nn.Parameter, tuple[Units, float | None]] = field(default_factory=dict)  # by their first parameter
    owners: dict[nn.Parameter, tuple[str, Units]] = field(default_factory=dict)  # each with its entry of `layers`
    overlapping: set[nn.Parameter] = field(default_factory=set)  # of units that are not watched, as others own a part


def _find(entry: str, model: nn.Module, named: Named) -> list[Units]:
    """Find the units of each layer that one entry of `layers` means."""
    word, at, place = entry.partition(PLACE)
    if word not in WORDS:
        return [Units((View(parameter),), WEIGHTS) for name, parameter in named if matches(name, entry)]
    kind = WORDS[word]
    # A weight that units have twice, as query and as key, counts once.
    found = [Units(tuple(dict.fromkeys(views)), kind) for views in kind.find(word, model, named)]
    if not at:
        return found
    return [units for units, name in zip(found, _names(found, named), strict=True) if matches(name, place)]


def _names(found: Iterable[Units], named: Named) -> list[str]:
    """Return the name of each layer: the first of its first parameter."""
    names = {parameter: name for name, parameter in reversed(named)}
    return [names[units.views[0].parameter] for units in found]


def _require_found(found: Mapping[str, list[Units]], model: nn.Module, named: Named) -> None:
    """Raise a `ValueError` if an entry finds nothing."""
    missing = [entry for entry, units in found.items() if not units]
    for entry in missing:
        word, at, _ = entry.partition(PLACE)
        if word not in WORDS:
            raise errors.unknown_entry(entry, model, named)
        if at and (everywhere := _find(word, model, named)):
            raise errors.no_layer_there(entry, _names(everywhere, named))
    if missing:
        words = [entry.partition(PLACE)[0] for entry in missing]
        present = [word for word in WORDS if word not in words and _find(word, model, named)]
        raise errors.not_found(words, present, model, named)


def _choose(found: Mapping[str, list[Units]], ratios: Ratios, named: Named) -> Choice:
    """Choose the first units that own a parameter, and raise a `ValueError` where two entries disagree about it.

    Words come before names and patterns, so that a β that goes with its γ is not a layer of its own as well.
    """
    choice = Choice()
    for entry in sorted(found, key=lambda entry: entry.partition(PLACE)[0] not in WORDS):
        for units in found[entry]:
            parameters = [view.parameter for view in units.views]
            taken = [parameter for parameter in parameters if parameter in choice.owners]
            for parameter in taken:
                _require_agreement(parameter, entry, units, choice, ratios, named)
            if taken:
                choice.overlapping.update(parameters)
            else:
                choice.units[parameters[0]] = units, ratios[entry]
                choice.owners.update(dict.fromkeys(parameters, (entry, units)))
    return choice


def _require_agreement(
    parameter: nn.Parameter, entry: str, units: Units, choice: Choice, ratios: Ratios, named: Named
) -> None:
    """Raise a `ValueError` if the owners of a parameter are of another kind than units of an entry, or another ratio.

    Args:
        parameter (`nn.Parameter`): The parameter that both own.
        entry (`str`): The entry of `layers`.
        units (`Units`): Units that it finds.
        choice, ratios, named: What has been chosen, the ratio of each entry, all parameters of the model.
    """
    other, owners = choice.owners[parameter]
    name = next(name for name, one in named if one is parameter)
    if units.kind is not owners.kind and not (units.kind.may_be_named or owners.kind.may_be_named):
        raise errors.owned_twice(name, other, entry)
    if ratios[entry] != ratios[other]:
        raise errors.two_ratios(name, {other: ratios[other], entry: ratios[entry]})


def _explain_unwatched(
    layers: Sequence[str], entries: Iterable[str], choice: Choice, model: nn.Module, named: Named
) -> Iterator[str]:
    """Explain which parts of the model are left out though they train, for warnings.

    Args:
        layers (`Sequence[str]`): The entries, with their ratios.
        entries (`Iterable[str]`): The entries.
        choice (`Choice`): The units that are watched.
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    left = [(name, weight) for name, weight in named if weight not in choice.owners and weight.requires_grad]
    overlapping = [(name, weight) for name, weight in left if weight in choice.overlapping]
    if overlapping:
        yield errors.shared_in_part(overlapping, model, named)
    unwatched = [(name, weight) for name, weight in left if weight not in choice.overlapping]
    for kind in KINDS:
        if any(word in entries for word in kind.words):
            yield from kind.explain_unwatched(layers, unwatched, model, named)
    computed = [name for name in computed_parameters(model) if any(_would_find(e, name, model) for e in entries)]
    if computed:
        yield errors.computed_from_others(computed, model)


def _would_find(entry: str, name: str, model: nn.Module) -> bool:
    """Say whether an entry with a word would mean a weight, were it a parameter."""
    word, at, place = entry.partition(PLACE)
    return word in WORDS and (not at or matches(name, place)) and WORDS[word].would_find(word, name, model)


def _layers(choice: Choice, named: Named) -> Iterator[RepresentativeLayer]:
    """Yield the layers in the order of the parameters, a shared one under its first name."""
    left = dict(choice.units)
    for name, parameter in named:
        if parameter in left:
            if not parameter.numel():
                raise errors.empty(name, parameter)
            if not parameter.is_floating_point() or parameter.element_size() == 1:  # float8 is quantized too
                raise errors.not_floating_point(name, parameter)
            units, ratio = left.pop(parameter)
            yield RepresentativeLayer(name, units.views, units.kind.granularity, ratio)
