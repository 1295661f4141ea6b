"""What a configuration says of a smaller model: in its own fields, or in one of ours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hf_worm.compact.shrink import Kept, holders, shrink_
from hf_worm.units import representative_layers
from hf_worm.units.heads import head_size

RECORD = "worm_compact"  # field of a model's configuration, for what its own fields can't say
# What configurations call the number of neurons of a feed-forward block.
NEURONS = (
    "intermediate_size",
    "hidden_dim",
    "d_ff",
    "d_inner",
    "n_inner",
    "ffn_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "ffn_hidden_size",
    "shared_expert_intermediate_size",
)


def describe(model: nn.Module, word: str, kept: Kept, before: Mapping[str, int]) -> None:
    """Put the new shapes into the configuration of a model of Transformers that was shrunk, or of those inside it.

    Args:
        model (`nn.Module`): The model.
        word (`str`): `"neurons"` or `"heads"`.
        kept (`dict[str, list[int]]`): The units that stayed, by layer; other layers kept them all.
        before (`dict[str, int]`): How many there were.
    """
    layers = representative_layers(model, [word])
    before = {layer.name: layer.shape.numel() for layer in layers} | dict(before)
    kept = {layer.name: list(range(layer.shape.numel())) for layer in layers} | kept
    outer = {layer.parameter: layer.name for layer in layers}
    inside = [inner for inner in _pretrained(model) if any(weight in outer for weight in inner.parameters())]

    def say(models: Sequence[Any]) -> None:
        for inner in models:
            own = {layer.name: outer[layer.parameter] for layer in representative_layers(inner, [word])}
            left = {name: kept[of_outer] for name, of_outer in own.items()}
            changes = {(before[of_outer], len(kept[of_outer])) for of_outer in own.values()}
            _describe(inner, inner.config, word, left, changes)

    if model not in inside or len(inside) == 1:
        say(inside)
        return
    whole = inside[-1]
    configs = [part.config for part in inside]
    as_they_were = [dict(vars(config)) for config in configs]
    if len({id(config) for config in configs}) == len(configs):  # or one would say what is in two places
        say(inside)
        made = _made(whole, whole.config, {})
        if made is None or _shapes(made) == _shapes(whole):
            return
        for config, fields in zip(configs, as_they_were, strict=True):
            vars(config).clear()
            vars(config).update(fields)
    say([whole])  # other weights go by the same fields as those of a part: they stay as they are


def _pretrained(model: nn.Module, whole: Any = None) -> Iterator[Any]:
    """The models of Transformers in a module, known without it: a search needs no Transformers.

    Each once, though it may hold a base model of the same configuration. The parts of a composite model (encoder and
    decoder, text and vision), whose configurations are in that of the whole, come before it.

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


def _describe(model: nn.Module, config: Any, word: str, kept: Kept, changes: set[tuple[int, int]]) -> None:
    record = dict(getattr(config, RECORD, None) or {})
    if len(dict(changes)) == len(changes) and word not in record:  # layers that had as many have as many
        for unset in (False, True):
            fields = _fields(model, config, word, dict(changes), unset)
            if fields and _says_the_shapes(model, config, fields):
                for name, value in fields.items():
                    setattr(config, name, value)
                return
    kept = {_in_base(model, name): left for name, left in kept.items()}
    told = _units(_made(model, config, {}), word)  # as they were, or by the configuration of a part
    kept = {name: left for name, left in kept.items() if told.get(name) != len(left)}
    if not kept:
        return
    first = record.get(word, {})
    if word == "heads":  # as they were numbered at first
        left = {name: [first[name][i] for i in left] if name in first else left for name, left in kept.items()}
        record[word] = {**first, **left}
    else:
        record[word] = {**first, **{name: len(left) for name, left in kept.items()}}
    setattr(config, RECORD, record)


def shrink_as_recorded_(model: nn.Module, record: Mapping[str, Any], whole: bool = True) -> None:
    """Make a model smaller in place, as the field `worm_compact` of a configuration says.

    Its layers go by their names in the base model, so that one with a head and one without have the same record.

    Args:
        model (`nn.Module`): A model, whose weights may be on the device `meta`.
        record (`dict`): By word and layer, how many neurons, or which heads, there are.
        whole (`bool`, *optional*, defaults to `True`): Whether the record may name no layers that the model lacks.

    Raises:
        KeyError: The model lacks a layer of the record.
        IndexError: A layer has fewer units than the record.
    """
    neurons = {name: list(range(count)) for name, count in record.get("neurons", {}).items()}
    for word, units in {"neurons": neurons, "heads": record.get("heads", {})}.items():
        if not units:
            continue
        layers = {_in_base(model, layer.name): layer for layer in representative_layers(model, [word])}
        if whole and (missing := units.keys() - layers):
            raise KeyError(min(missing))
        for name in units.keys() & layers:
            if units[name][-1] >= layers[name].shape.numel():
                raise IndexError(f"`{name}` has {layers[name].shape.numel()} {word}")
        shrink_(model, word, {layer.name: units[name] for name, layer in layers.items() if name in units})


def _in_base(model: nn.Module, name: str) -> str:
    """A parameter's name in the model's base: that of a `BertForSequenceClassification` without `bert.`."""
    prefix = getattr(model, "base_model_prefix", "")
    return name.removeprefix(f"{prefix}.") if prefix and hasattr(model, prefix) else name


def _fields(model: nn.Module, config: Any, word: str, changes: dict[int, int], unset: bool) -> dict[str, int]:
    """What a configuration would have to say for all layers to have other numbers of units than they had.

    Args:
        model, config, word: Whose layers, and which.
        changes (`dict[int, int]`): How many there are, by how many there were.
        unset (`bool`): Whether fields that are `None`, for a multiple of the width (GPT-2), are to say it.
    """
    if word == "neurons":
        values = {name: getattr(config, name) for name in NEURONS if hasattr(config, name)}
        if unset:
            numbers = set(changes.values())
            return {name: min(numbers) for name, value in values.items() if value is None and len(numbers) == 1}
        return {name: changes[value] for name, value in values.items() if isinstance(value, int) and value in changes}
    if not hasattr(config, "num_attention_heads") or len(changes) > 1 or unset:
        return {}
    after = next(iter(changes.values()))
    query = representative_layers(model, ["heads"])[0].parameter
    size = head_size(holders(model, query)[0])
    assert size is not None  # or its heads would not have been found
    fields = {"num_attention_heads": query.shape[0] // size, "head_dim": size}
    return {**fields, "num_key_value_heads": after} if hasattr(config, "num_key_value_heads") else fields


def _says_the_shapes(model: nn.Module, config: Any, fields: dict[str, int]) -> bool:
    """Whether a model made from the configuration with those fields has the shapes that this one has, all of them."""
    made = _made(model, config, fields)
    return made is not None and _shapes(made) == _shapes(model)


def _made(model: nn.Module, config: Any, fields: dict[str, int]) -> nn.Module | None:
    """A model made from the configuration with those fields, on the device `meta`; `None` if none can be."""
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


def _units(model: nn.Module | None, word: str) -> dict[str, int]:
    """How many units each layer has, by its name in the base model."""
    if model is None:
        return {}
    return {_in_base(model, layer.name): layer.shape.numel() for layer in representative_layers(model, [word])}
