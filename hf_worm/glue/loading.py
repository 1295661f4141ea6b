"""Gets the data: a task of GLUE or another set of the Hub, a local folder, or files."""

import os
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError
from datasets.fingerprint import Hasher

from hf_worm.glue.arguments import FILE_TYPES, GLUE_ON_THE_HUB, DataArguments
from hf_worm.glue.tasks import Task

TRAIN = "train"
VALIDATION = (("", "validation"),)


def load_splits(
    data: DataArguments, task: Task | None, cache_dir: str | None = None, token: str | None = None
) -> dict[str, Dataset]:
    """Every split of the data that the arguments name, as it is.

    Args:
        data (`DataArguments`): Names a task, a data set or files.
        task (`Task`, *optional*): The task of GLUE, where there is one.
        cache_dir, token (`str`, *optional*): Passed on to `load_dataset`.

    Raises:
        ValueError: The files are of an unknown or of two types, or the data can't be read.
        OSError: A file, a folder or a data set isn't there.
    """
    if data.train_file is not None:
        kind, files, options = _files(data.train_file, data.validation_file)
        source, name = ", ".join(files.values()), None
        request = {"path": kind, "data_files": files, **options}
    else:
        source = os.path.expanduser(data.dataset_name or GLUE_ON_THE_HUB)
        _refuse_missing_folder(source)
        name = data.dataset_config_name or (None if task is None else task.name)
        request = {"path": source, "name": name, "token": token}
    try:
        if os.path.isdir(source):
            cache_dir = _cache_of_folder(source, name, cache_dir)
        return dict(load_dataset(**request, cache_dir=cache_dir))
    except (ValueError, StopIteration, DatasetsError) as error:  # a damaged json file can end in a `StopIteration`
        reason = error.__cause__ or error  # the outer one may say no more than "an error occurred"
        raise ValueError(f"Can't load the data from {source}: {reason}") from error


def validation_splits(splits: dict[str, Dataset], task: Task | None) -> dict[str, Dataset]:
    """The validation splits, by the name that their metrics get; `""`: the only one.

    Raises:
        ValueError: There is none.
    """
    wanted = VALIDATION if task is None else task.validation
    for names in (wanted, VALIDATION):
        if all(split in splits for _, split in names):
            return {name: splits[split] for name, split in names}
    needed = " and ".join(f"`{split}`" for _, split in wanted)
    raise ValueError(
        f"The data has no split {needed} to evaluate on, only {_listed(splits)}. Or pass `--do_eval false`."
    )


def train_split(splits: dict[str, Dataset]) -> Dataset:
    """The training split.

    Raises:
        ValueError: There is none.
    """
    if TRAIN not in splits:
        raise ValueError(f"The data has no split `{TRAIN}`, only {_listed(splits)}.")
    return splits[TRAIN]


def _files(train: str, validation: str | None) -> tuple[str, dict[str, str], dict[str, Any]]:
    files = {TRAIN: train} if validation is None else {TRAIN: train, "validation": validation}
    suffixes = {Path(file).suffix.lower() for file in files.values()}
    for argument, file in files.items():
        suffix = Path(file).suffix.lower()
        if suffix not in FILE_TYPES:
            raise ValueError(f"`{argument}_file` {file} must be one of {', '.join(FILE_TYPES)}.")
        if not os.path.isfile(file):
            raise FileNotFoundError(f"`{argument}_file` {file} does not exist.")
        with open(file, "rb") as lines:
            header = FILE_TYPES[suffix] == "csv"
            if len(list(islice((line for line in lines if line.strip()), 2))) <= header:
                raise ValueError(f"`{argument}_file` {file} is empty: it holds no row.")
    if len(suffixes) > 1:
        raise ValueError(
            f"`train_file` and `validation_file` must be of one type, got {' and '.join(sorted(suffixes))}."
        )
    suffix = suffixes.pop()
    kind = FILE_TYPES[suffix]
    if kind != "csv":
        return kind, files, {}
    # A sentence can be the word "None" or "NA"; an empty cell stays an empty string, which the checks refuse.
    return kind, files, {"sep": "\t" if suffix == ".tsv" else ",", "keep_default_na": False}


def _cache_of_folder(folder: str, name: str | None, cache_dir: str | None) -> str:
    """A cache for the files of a folder as they are now.

    datasets (5.2 at least) finds what it cached by the folder's name and its README: another folder of that name, or a
    file that was changed, would be given the old rows.
    """
    files = load_dataset_builder(folder, name, cache_dir=cache_dir).config.data_files
    return os.path.join(cache_dir or datasets.config.HF_DATASETS_CACHE, "folders", Hasher.hash(files))


def _refuse_missing_folder(name: str) -> None:
    looks_local = name.startswith((".", os.sep)) or name.count("/") > 1
    if looks_local and not os.path.isdir(name):
        raise FileNotFoundError(f"`dataset_name` {name} is a folder that does not exist.")


def _listed(splits: dict[str, Dataset]) -> str:
    return ", ".join(f"`{name}`" for name in splits)
