"""Read and write files whole, here or from the Hub."""

import json
import os
from inspect import signature
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported, but not by name

HUB_OPTIONS = frozenset(signature(hf_hub_download).parameters) - {"repo_id", "filename"}


def find_file(dir_or_repo: str | os.PathLike[str], name: str, **hub_options: Any) -> Path:
    """Path of the file `name` in a folder, or in a Hub repository (downloaded into the Hub's cache).

    Args:
        dir_or_repo (`str` or `os.PathLike`): The folder, or the repository's id.
        name (`str`): The file's name.
        hub_options: Of `hf_hub_download`; of a folder here, `subfolder` alone counts.

    Raises:
        FileNotFoundError: `dir_or_repo` is a folder or repository without that file, or neither of them.
        TypeError: `hf_hub_download` has no such option.
    """
    unknown = sorted(hub_options.keys() - HUB_OPTIONS)
    if unknown:
        raise TypeError(
            f"`from_pretrained` takes the options of `hf_hub_download`, of which {unknown} are none. A setting is "
            "changed in what was read: `dataclasses.replace(config, prune_ratio=0.8)`."
        )
    folder = Path(dir_or_repo)
    if not folder.is_dir():
        require_id(dir_or_repo)
        try:
            return Path(hf_hub_download(str(dir_or_repo), name, **hub_options))
        except GatedRepoError:
            raise
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"{folder} is neither a folder here nor a repository on the Hub that your token may read: {error}"
            ) from error
        except LocalEntryNotFoundError as error:
            raise FileNotFoundError(
                f"{folder} is no folder here, and as a repository on the Hub it can't be reached; nor is its `{name}` "
                f"in the cache: {error}"
            ) from error
        except RemoteEntryNotFoundError as error:
            raise FileNotFoundError(
                f"The Hub repository {folder} holds no `{name}` at revision `{hub_options.get('revision') or 'main'}`: "
                "it was not pushed by hf_worm, or pushed before the ticket was drawn."
            ) from error
    folder = folder / (hub_options.get("subfolder") or "")
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} holds no `{name}`: it was not saved by hf_worm, or the file was removed.")
    return folder / name


def require_id(repo: str | os.PathLike[str]) -> None:
    """Raise a `FileNotFoundError` if what is no folder here can't be the id of a Hub repository either."""
    try:
        validate_repo_id(str(repo))
    except HFValidationError as error:
        raise FileNotFoundError(f"{repo} is neither a folder nor the id of a Hub repository.") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; a `ValueError` that names the file where it is none."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or not JSON: {error}.") from error


def parse_json(text: str) -> Any:
    """Parse a JSON text; raise a `ValueError` where it is none, or holds a number of many thousand digits."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep") from error


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: a reader, or a run that is killed, sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    os.replace(beside, path)


def copy_code(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Copy the code that a model was saved with into another folder."""
    for code in Path(source).glob("*.py"):
        Path(folder, code.name).write_bytes(code.read_bytes())
