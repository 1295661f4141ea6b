"""Gets the data: a task of GLUE or another set of the Hub, a local folder, or files."""

import os
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from hf_worm.commands.glue.arguments import FILE_TYPES, GLUE_ON_THE_HUB, DataArguments
from hf_worm.commands.job.loading import TRAIN, data_errors_named, load_folder_or_hub
from hf_worm.commands.job.task import Task


def load_splits(
    data: DataArguments, task: Task | None, cache_dir: str | None = None, token: str | None = None
) -> dict[str, Dataset]:
    """Load every split of the data that the arguments name, as it is.

    Args:
        data (`DataArguments`): Names a task, a data set or files.
        task (`Task`, *optional*): The task of GLUE, where there is one.
        cache_dir, token (`str`, *optional*): Passed on to `load_dataset`.

    Raises:
        ValueError: The files are of an unknown or of two types, or the data can't be read.
        OSError: A file, a folder or a data set isn't there.
    """
    if data.train_file is None:
        name = data.dataset_config_name or (None if task is None else task.name)
        return load_folder_or_hub(data.dataset_name or GLUE_ON_THE_HUB, name, cache_dir, token)
    kind, files, options = _files(data.train_file, data.validation_file)
    with data_errors_named(", ".join(files.values())):
        return dict(load_dataset(kind, data_files=files, cache_dir=cache_dir, **options))


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
    # A sentence can be the word "None" or "NA"; an empty cell is an empty string.
    return kind, files, {"sep": "\t" if suffix == ".tsv" else ",", "keep_default_na": False}
