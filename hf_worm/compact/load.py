"""Loads checkpoints of models that were made smaller."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_worm import models
from hf_worm.compact import RECORD, shrink_as_recorded_
from hf_worm.files import require_id
from hf_worm.units.kinds import LARGER_KINDS

OF_BOTH = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "force_download", "proxies")
DTYPES = ("dtype", "torch_dtype")
NAME_IT = "`load_compact(..., architecture=...)`"


def load_compact(
    path_or_repo: str | os.PathLike[str], architecture: type[PreTrainedModel] | None = None, **options: Any
) -> PreTrainedModel:
    """Load a model that [`~Ticket.compact`] made smaller, whether or not its configuration can say the new shapes.

    Where it can, plain `from_pretrained` does the same. Where it can't (heads of BERT, layers with different numbers of
    neurons), plain `from_pretrained` raises an error about mismatched sizes.

    Args:
        path_or_repo (`str` or `os.PathLike`): A folder that `save_pretrained` wrote, or the id of a Hub repository.
        architecture (`type`, *optional*):
            The model's class, where it is not one of Transformers or of `hf_worm.models`, or another of the same base
            model than was saved, such as `BertModel` for a `BertForSequenceClassification`.
        options: As for the class's `from_pretrained` (`dtype`, `device_map`, `revision`, `num_labels`, ...).

    Returns:
        `PreTrainedModel`: Of that class, or of the one that the checkpoint names.

    Raises:
        ValueError:
            `architecture` is no model's class, the checkpoint names none of Transformers, or its record of shapes is
            damaged.
        OSError: There is no such folder or repository, or it holds no model.
    """
    if architecture is not None and not (isinstance(architecture, type) and issubclass(architecture, PreTrainedModel)):
        raise ValueError(
            f"`architecture` must be a model's own class, such as `BertForSequenceClassification`, got "
            f"`{getattr(architecture, '__name__', repr(architecture))}`. For a class of Transformers, leave it out."
        )
    if not os.path.isdir(path_or_repo):
        require_id(path_or_repo)
    hub_options = {name: options.pop(name) for name in OF_BOTH if name in options}
    dtypes = {name: options.pop(name) for name in DTYPES if name in options}  # a configuration takes no "auto"
    config = options.pop("config", None)
    if not isinstance(config, PreTrainedConfig):
        kind: Any = AutoConfig if architecture is None else architecture.config_class
        source = path_or_repo if config is None else config
        try:
            config, options = kind.from_pretrained(source, return_unused_kwargs=True, **hub_options, **options)
        except ValueError as error:
            if architecture is not None:
                raise
            raise ValueError(f"{error}\nA class of your own has to be named: {NAME_IT}.") from error
    options |= {**hub_options, **dtypes}
    if architecture is None:
        architecture = _architecture(config, path_or_repo)
    if getattr(config, RECORD, None) is None:
        return architecture.from_pretrained(path_or_repo, config=config, **options)
    with _fitting(config, architecture, path_or_repo):
        found: Any = _smaller(architecture).from_pretrained(path_or_repo, config=config, **options)
    model = found[0] if isinstance(found, tuple) else found  # a tuple with `output_loading_info=True`
    model.__class__ = architecture
    return found  # type: ignore[no-any-return]


def outline(config: PreTrainedConfig, path_or_repo: str | os.PathLike[str]) -> PreTrainedModel:
    """Make the model of a checkpoint that records its shapes, on the device `meta`.

    Args:
        config (`PreTrainedConfig`): The checkpoint's.
        path_or_repo (`str` or `os.PathLike`): Where it came from, for errors.

    Raises:
        ValueError: As for [`load_compact`].
    """
    architecture = _architecture(config, path_or_repo)
    with _fitting(config, architecture, path_or_repo), torch.device("meta"):
        return _smaller(architecture)(config)


def _smaller(architecture: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return a subclass whose models have the shapes that their configuration records before weights are loaded."""

    class Smaller(architecture):  # type: ignore[misc, valid-type]
        def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            whole = architecture.__name__ in (config.architectures or [])  # a part is enough for another class
            shrink_as_recorded_(self, getattr(config, RECORD), whole)

    # Transformers looks up by these which weights to convert, and which loss a model has.
    Smaller.__name__, Smaller.__module__ = architecture.__name__, architecture.__module__
    return Smaller


@contextmanager
def _fitting(
    config: PreTrainedConfig, architecture: type[PreTrainedModel], path_or_repo: str | os.PathLike[str]
) -> Iterator[None]:
    """Raise a `ValueError` that names the checkpoint if its record of shapes is damaged, or of another model."""
    _check(getattr(config, RECORD), path_or_repo)
    try:
        yield
    except (KeyError, IndexError) as error:
        name = architecture.__name__
        raise ValueError(f"{path_or_repo}: its `{RECORD}` does not fit a `{name}`: {error!r}.") from error


def _architecture(config: PreTrainedConfig, path_or_repo: str | os.PathLike[str]) -> type[PreTrainedModel]:
    named = (config.architectures or ["none"])[0]
    found = getattr(transformers, named, None) or getattr(models, named, None)
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        return found
    raise ValueError(
        f"{path_or_repo} is a checkpoint of class `{named}`, which Transformers does not have: name the class, "
        f"{NAME_IT}."
    )


def _check(record: Any, path_or_repo: str | os.PathLike[str]) -> None:
    """Raise a `ValueError` if a record of shapes is damaged."""
    kinds = {kind.word: kind for kind in LARGER_KINDS}
    try:
        if not record or set(record) - set(kinds):
            raise TypeError(f"it has entries for {' and '.join(f'`{word}`' for word in kinds)} alone, and one at least")
        for word, layers in record.items():
            for value in layers.values():
                kinds[word].require_recordable(value)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path_or_repo}: its `{RECORD}` is damaged: {error}.") from error
