"""Says in a configuration how a model was made smaller: in its own fields, or in a record of ours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_worm.units import RepresentativeLayer, representative_layers
from hf_worm.units.kind import LargerKind
from hf_worm.units.kinds import LARGER_KINDS
from hf_worm.units.shrink import Kept

RECORD = "worm_compact"  # field of a model's configuration, for shapes that its own fields can't say


def update_config_(model: nn.Module, kind: LargerKind, kept: Kept, before: Mapping[str, int]) -> None:
    """Put the new shapes into the configuration of a model of Transformers that was shrunk, or of those inside it.

    Args:
        model (`nn.Module`): The model.
        kind (`LargerKind`): The kind of units that were cut out.
        kept (`dict[str, list[int]]`): The units that stayed, by layer; other layers kept them all.
        before (`dict[str, int]`): How many there were.
    """
    layers = representative_layers(model, kind.words)
    before = {layer.name: layer.shape.numel() for layer in layers} | dict(before)
    kept = {layer.name: list(range(layer.shape.numel())) for layer in layers} | kept
    outer = {layer.parameter: layer.name for layer in layers}
    inside = [inner for inner in _pretrained(model) if any(weight in outer for weight in inner.parameters())]

    def update(models: Sequence[Any]) -> None:
        for inner in models:
            own = representative_layers(inner, kind.words)
            names = {layer.name: outer[layer.parameter] for layer in own}
            changes = {(before[name], len(kept[name])) for name in names.values()}
            _update(inner, own, kind, {name: kept[of_outer] for name, of_outer in names.items()}, changes)

    if model not in inside or len(inside) == 1:
        update(inside)
        return
    whole = inside[-1]
    configs = [part.config for part in inside]
    as_they_were = [dict(vars(config)) for config in configs]
    if len({id(config) for config in configs}) == len(configs):  # or one would say the shapes of two parts
        update(inside)
        made = _made(whole, whole.config, {})
        if made is None or _shapes(made) == _shapes(whole):
            return
        for config, fields in zip(configs, as_they_were, strict=True):
            vars(config).clear()
            vars(config).update(fields)
    update([whole])  # other weights go by the same fields as those of a part: they stay as they are


def _pretrained(model: nn.Module, whole: Any = None) -> Iterator[Any]:
    """Yield the models of Transformers in a module, known by their attributes: a search needs no Transformers.

    Each comes once, though it may hold a base model of the same configuration. The parts of a composite model (encoder
    and decoder, text and vision), whose configurations are in that of the whole, come before it.

    Args:
        model (`nn.Module`): The module.
        whole (*optional*): The configuration of the model that it is in.
    """
    config = model.config if hasattr(type(model), "base_model_prefix") else None
    another = config is not None and (whole is None or any(config is part for part in vars(whole).values()))
    for child in model.children():
        yield from _pretrained(child, config if another else whole)
    if another:
        yield model


def _update(
    model: Any, layers: Sequence[RepresentativeLayer], kind: LargerKind, kept: Kept, changes: set[tuple[int, int]]
) -> None:
    """Put the new shapes into the configuration of one model of Transformers.

    Args:
        model: The model.
        layers (`Sequence[RepresentativeLayer]`): Its layers of this kind.
        kind (`LargerKind`): The kind.
        kept (`dict[str, list[int]]`): The units that stayed, for each layer.
        changes (`set[tuple[int, int]]`): How many units layers had, and how many they have.
    """
    config = model.config
    record = dict(getattr(config, RECORD, None) or {})
    if len(dict(changes)) == len(changes) and kind.word not in record:  # layers that had as many have as many
        for fields in kind.fields(config, layers, dict(changes)):
            if fields and _says_the_shapes(model, config, fields):
                for name, value in fields.items():
                    setattr(config, name, value)
                return
    kept = {_in_base(model, name): left for name, left in kept.items()}
    told = _units(_made(model, config, {}), kind)  # as they were, or by the configuration of a part
    kept = {name: left for name, left in kept.items() if told.get(name) != len(left)}
    if kept:
        earlier = record.get(kind.word, {})
        record[kind.word] = {**earlier, **kind.to_record(kept, earlier)}
        setattr(config, RECORD, record)


def shrink_as_recorded_(model: nn.Module, record: Mapping[str, Any], whole: bool = True) -> None:
    """Make a model smaller in place, as the field `worm_compact` of a configuration says.

    Its layers go by their names in the base model, so that one with a head and one without have the same record.

    Args:
        model (`nn.Module`): A model, whose weights may be on the device `meta`.
        record (`dict`): By word and layer, how many neurons there are, or which heads.
        whole (`bool`, *optional*, defaults to `True`): Whether the model must have all layers of the record.

    Raises:
        KeyError: The model lacks a layer of the record.
        IndexError: A layer has fewer units than the record.
    """
    for kind in LARGER_KINDS:
        if record.get(kind.word):
            _shrink_(model, kind, record[kind.word], whole)


def _shrink_(model: nn.Module, kind: LargerKind, recorded: Mapping[str, Any], whole: bool) -> None:
    """Make a model smaller in place, as a record says of one kind of units."""
    layers = {_in_base(model, layer.name): layer for layer in representative_layers(model, kind.words)}
    if whole and (missing := recorded.keys() - layers):
        raise KeyError(min(missing))
    kept: Kept = {}  # by the names in this model
    for name in recorded.keys() & layers:
        layer, units = layers[name], kind.from_record(recorded[name])
        if units[-1] >= layer.shape.numel():
            raise IndexError(f"`{name}` has {layer.shape.numel()} {kind.word}")
        kept[layer.name] = units
    kind.cut_(model, [layer for layer in layers.values() if layer.name in kept], kept)


def _in_base(model: nn.Module, name: str) -> str:
    """Return a parameter's name in the base model: that of a `BertForSequenceClassification` without `bert.`."""
    prefix = getattr(model, "base_model_prefix", "")
    return name.removeprefix(f"{prefix}.") if prefix and hasattr(model, prefix) else name


def _says_the_shapes(model: nn.Module, config: Any, fields: dict[str, int]) -> bool:
    """Say whether a model made from the configuration with those fields has all the shapes that this one has."""
    made = _made(model, config, fields)
    return made is not None and _shapes(made) == _shapes(model)


def _made(model: nn.Module, config: Any, fields: dict[str, int]) -> nn.Module | None:
    """Make a model from the configuration with those fields, on the device `meta`; `None` if none can be made."""
    try:
        changed = type(config).from_dict({**config.to_dict(), **fields})
        with torch.device("meta"):
            made: nn.Module = type(model)(changed)
            shrink_as_recorded_(made, getattr(config, RECORD, None) or {})
    except Exception:  # whatever a class may raise at numbers that it does not take: heads have to divide the width
        return None
    return made


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in model.state_dict().items()}


def _units(model: nn.Module | None, kind: LargerKind) -> dict[str, int]:
    """Count the units of each layer, by its name in the base model."""
    if model is None:
        return {}
    return {_in_base(model, layer.name): layer.shape.numel() for layer in representative_layers(model, kind.words)}
