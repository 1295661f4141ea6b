"""The state of a run beside a checkpoint: its progress, its search and, once it is drawn, its ticket."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hf_worm.files import parse_json, replace_file
from hf_worm.report.progress import Progress
from hf_worm.ticket import Ticket

STATE_NAME = "worm_state.safetensors"
FORMAT = "hf_worm.state.v2"
OLDER = "hf_worm.state.v1"  # of version 0.1, whose runs were several trainings
TENSOR = "__tensor__"  # key of what stands for a tensor in the state's JSON


class Saved(NamedTuple):
    """A run's progress, search and ticket, as a checkpoint holds them.

    Args:
        progress (`Progress`): How far it has come.
        search (`dict[str, Any]`): As [`TicketSearch.state_dict`] has it.
        ticket (`Ticket`, *optional*): The ticket that is held, once it is drawn.
    """

    progress: Progress
    search: dict[str, Any]
    ticket: Ticket | None


def save_state(folder: str | os.PathLike[str], progress: Progress, search_state: Mapping[str, Any]) -> None:
    """Write progress and the state of the search into a checkpoint's folder, as one file.

    Args:
        folder (`str` or `os.PathLike`): The folder, made where it is missing.
        progress (`Progress`): How far the run has come.
        search_state (`Mapping[str, Any]`):
            Tensors, numbers, strings and `None` in dictionaries (with strings as keys) and lists.

    Raises:
        ValueError: The state holds something else.
    """
    progress.tick()
    tensors: dict[str, torch.Tensor] = {}
    try:
        search = json.dumps(_without_tensors(search_state, "", tensors))
    except TypeError as error:
        raise ValueError(f"The state of the search, or of a part of it, can't be saved: {error}.") from error
    metadata = {"format": FORMAT, "progress": json.dumps(asdict(progress)), "search": search}
    replace_file(Path(folder) / STATE_NAME, save(tensors, metadata=metadata))


def load_state(folder: str | os.PathLike[str]) -> tuple[Progress, dict[str, Any]]:
    """Read what [`save_state`] wrote.

    Raises:
        ValueError: The folder holds no such file, a damaged one, or one of version 0.1.
    """
    path = Path(folder) / STATE_NAME
    if not path.is_file():
        raise ValueError(
            f"Can't resume from {folder}: it holds no `{STATE_NAME}`, so it is no checkpoint of a run that prunes."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if metadata.get("format") == OLDER:
            raise OlderRunError(folder)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, this version of hf_worm reads {FORMAT!r}")
        progress = Progress(**parse_json(metadata["progress"]))
        search = _with_tensors(parse_json(metadata["search"]), tensors)
        if not isinstance(search, dict):
            raise TypeError(f"the search must be an object, got a {type(search).__name__}")
    except OlderRunError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Can't resume from {folder}: `{STATE_NAME}` is damaged ({error}).") from error
    return progress, search


def load_run(folder: str | os.PathLike[str]) -> Saved:
    """Read all that a checkpoint holds of a run.

    Raises:
        ValueError: As for [`load_state`], or the ticket of a retraining is missing or damaged.
    """
    progress, search = load_state(folder)
    if progress.phase != "retrain":
        return Saved(progress, search, None)
    try:
        return Saved(progress, search, Ticket.from_pretrained(folder))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"Can't resume from {folder}, a checkpoint of the retraining: {error}") from error


class OlderRunError(ValueError):
    """A checkpoint is of an unfinished run of version 0.1."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(
            f"Can't resume from {folder}: it is of an unfinished run of hf_worm 0.1, whose steps and rows were counted "
            "otherwise. Finish that run with `pip install 'hf_worm<0.2'`, or begin anew. Tickets, reports and finished "
            "models of 0.1 are read as they are."
        )


def _without_tensors(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A copy of nested values in which a reference stands for each tensor, which is put into `tensors`."""
    if isinstance(value, torch.Tensor):
        name = path if path not in tensors else f"{path}#{len(tensors)}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: name}
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str) or key == TENSOR]:
            raise TypeError(f"`{path}` has the key {wrong[0]!r}, and keys must be strings, other than {TENSOR!r}")
        return {key: _without_tensors(inner, f"{path}/{key}".lstrip("/"), tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(inner, f"{path}/{place}", tensors) for place, inner in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The nested values with their tensors back in place."""
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            if value[TENSOR] not in tensors:
                raise ValueError(f"it lacks the tensor `{value[TENSOR]}`")
            return tensors[value[TENSOR]]
        return {key: _with_tensors(inner, tensors) for key, inner in value.items()}
    return [_with_tensors(inner, tensors) for inner in value] if isinstance(value, list) else value
