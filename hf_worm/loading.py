"""Loads checkpoints of models that were made smaller."""

import os
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_worm.compact import RECORD, Kept, shrink_

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "force_download", "proxies")


def load_compact(path_or_repo: str | os.PathLike[str], **options: Any) -> PreTrainedModel:
    """Load a model that [`~Ticket.compact`] made smaller, whether or not its configuration can say the new shapes.

    Where it can, plain `from_pretrained` does the same. Where it can't (heads of BERT, layers with different numbers of
    neurons), plain `from_pretrained` raises an error about mismatched sizes.

    Args:
        path_or_repo (`str` or `os.PathLike`): A folder that `save_pretrained` wrote, or the id of a Hub repository.
        options: Passed on to the class's `from_pretrained` (`dtype`, `device_map`, `revision`, `token`, ...).

    Returns:
        `PreTrainedModel`: Of the class that the checkpoint names.

    Raises:
        ValueError: The checkpoint names no class of Transformers, or its record of shapes is damaged.
    """
    hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
    config = options.pop("config", None) or AutoConfig.from_pretrained(path_or_repo, **hub_options)
    named = (config.architectures or ["none"])[0]
    architecture = getattr(transformers, named, None)
    if not isinstance(architecture, type) or not issubclass(architecture, PreTrainedModel):
        raise ValueError(f"{path_or_repo} is a checkpoint of class `{named}`, which Transformers does not have.")
    record = getattr(config, RECORD, None)
    if record is None:
        return architecture.from_pretrained(path_or_repo, config=config, **options)
    kept = _kept(record, path_or_repo)

    class Smaller(architecture):  # type: ignore[misc, valid-type]
        """Has the shapes of the checkpoint before its weights are loaded."""

        def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            for word, units in kept.items():
                shrink_(self, word, units)

    try:
        model: PreTrainedModel = Smaller.from_pretrained(path_or_repo, config=config, **options)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path_or_repo}: its `{RECORD}` does not fit a `{named}`: {error!r}.") from error
    model.__class__ = architecture
    return model


def _kept(record: Any, path_or_repo: str | os.PathLike[str]) -> dict[str, Kept]:
    """By word the units that stayed, by layer, as a configuration records them."""
    try:
        neurons, heads = record.get("neurons", {}), record.get("heads", {})
        if set(record) - {"neurons", "heads"} or not all(_is_count(count) for count in neurons.values()):
            raise TypeError("neurons are counted by layer, from 1")
        if not all(left and all(_is_count(head + 1) for head in left) for left in heads.values()):
            raise TypeError("heads are listed by layer, from 0")
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path_or_repo}: its `{RECORD}` is damaged: {error}.") from error
    kept = {"neurons": {name: list(range(count)) for name, count in neurons.items()}, "heads": heads}
    return {word: layers for word, layers in kept.items() if layers}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
