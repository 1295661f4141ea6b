"""What a configuration says of a smaller model: in its own fields, or in one of ours."""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from hf_worm.compact.shrink import Kept, holders, shrink_
from hf_worm.layers import representative_layers
from hf_worm.layers.heads import head_size

RECORD = "worm_compact"  # field of a model's configuration, for what its own fields can't say
# What configurations call the number of neurons of a feed-forward block.
NEURONS = ("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim")


def describe(model: nn.Module, config: Any, word: str, kept: Kept, before: int | None) -> None:
    """Put the new shapes into the configuration of a model that was shrunk.

    Args:
        model (`nn.Module`): The model.
        config (`PreTrainedConfig`): Its configuration.
        word (`str`): `"neurons"` or `"heads"`.
        kept (`dict[str, list[int]]`): The units that stayed, by layer.
        before (`int`, *optional*): How many a layer had; `None` where they had different numbers.
    """
    record = dict(getattr(config, RECORD, None) or {})
    counts = {len(left) for left in kept.values()}
    if len(counts) == 1 and before is not None and word not in record:
        fields = _fields(model, config, word, before, counts.pop())
        if fields and _says_the_shapes(model, config, fields):
            for name, value in fields.items():
                setattr(config, name, value)
            return
    if word == "heads":  # as they were numbered at first
        first = record.get(word, {})
        record[word] = {name: [first[name][i] for i in left] if name in first else left for name, left in kept.items()}
    else:
        record[word] = {name: len(left) for name, left in kept.items()}
    setattr(config, RECORD, record)


def recorded(record: Mapping[str, Any]) -> dict[str, Kept]:
    """By word the units that stayed, by layer, as the field `worm_compact` of a configuration has them."""
    neurons = {name: list(range(count)) for name, count in record.get("neurons", {}).items()}
    kept = {"neurons": neurons, "heads": dict(record.get("heads", {}))}
    return {word: layers for word, layers in kept.items() if layers}


def _fields(model: nn.Module, config: Any, word: str, before: int, after: int) -> dict[str, int]:
    """What a configuration would have to say for all layers to have `after` units instead of `before`."""
    if word == "neurons":
        return {name: after for name in NEURONS if getattr(config, name, None) == before}
    if not hasattr(config, "num_attention_heads"):
        return {}
    query = representative_layers(model, ["heads"])[0].parameter
    size = head_size(holders(model, query)[0])
    assert size is not None  # or its heads would not have been found
    fields = {"num_attention_heads": query.shape[0] // size, "head_dim": size}
    return {**fields, "num_key_value_heads": after} if hasattr(config, "num_key_value_heads") else fields


def _says_the_shapes(model: nn.Module, config: Any, fields: dict[str, int]) -> bool:
    """Whether a model made from the configuration with those fields has the shapes that this one has, all of them."""
    try:
        changed = type(config).from_dict({**config.to_dict(), **fields})
        with torch.device("meta"):
            made = type(model)(changed)
            for other, units in recorded(getattr(config, RECORD, None) or {}).items():
                shrink_(made, other, units)
    except (ValueError, StrictDataclassError):  # the number of heads has to divide the width, for one
        return False
    except TypeError:  # the class takes more than a configuration: `load_compact` is not for it either
        return False
    return _shapes(made) == _shapes(model)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in model.state_dict().items()}
