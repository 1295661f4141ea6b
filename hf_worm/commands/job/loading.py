"""Gets a data set, from the Hub or a local folder, and its splits."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import datasets
import yaml  # type: ignore[import-untyped]
from datasets import Dataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError
from datasets.fingerprint import Hasher

from hf_worm.commands.job.labels import LABEL
from hf_worm.commands.job.task import VALIDATION_SPLITS, Task

TRAIN = "train"


def load_folder_or_hub(
    source: str, name: str | None = None, cache_dir: str | None = None, token: str | None = None
) -> dict[str, Dataset]:
    """Load every split of a data set, as it is.

    Args:
        source (`str`): A local folder, or an id on the Hub.
        name (`str`, *optional*): The configuration of the data set.
        cache_dir, token (`str`, *optional*): Passed on to `load_dataset`.

    Raises:
        ValueError: The data can't be read.
        OSError: The folder or the data set isn't there.
    """
    source = os.path.expanduser(source)
    refuse_missing_folder(source)
    with data_errors_named(source):
        if os.path.isdir(source):
            cache_dir = _cache_of_folder(source, name, cache_dir)
        return dict(load_dataset(source, name, cache_dir=cache_dir, token=token))


@contextmanager
def data_errors_named(source: str) -> Iterator[None]:
    """Make an error that names the source of whatever `datasets` raises at data that it can't read."""
    try:
        yield
    # A damaged json file can end in a `StopIteration`, a folder with a script in a `RuntimeError`.
    except (ValueError, RuntimeError, StopIteration, DatasetsError, yaml.YAMLError) as error:
        reason = error.__cause__ or error  # the outer one may say no more than "an error occurred"
        raise ValueError(f"Can't load the data from {source}: {reason}") from error
    except OSError as error:
        if source in str(error):
            raise
        raise OSError(f"Can't load the data from {source}: {error}") from error


def train_split(splits: dict[str, Dataset]) -> Dataset:
    """Find the training split.

    Raises:
        ValueError: There is none.
    """
    if TRAIN not in splits:
        raise ValueError(f"The data has no split `{TRAIN}`, only {listed(splits)}.")
    return splits[TRAIN]


def validation_splits(splits: dict[str, Dataset], task: Task | None) -> dict[str, Dataset]:
    """Find the validation splits, by the name that their metrics get; `""`: the only one.

    Raises:
        ValueError: There is none.
    """
    wanted = VALIDATION_SPLITS if task is None else task.validation
    for names in (wanted, VALIDATION_SPLITS):
        if all(split in splits for _, split in names):
            return {name: splits[split] for name, split in names}
    needed = " and ".join(f"`{split}`" for _, split in wanted)
    raise ValueError(
        f"The data has no split {needed} to evaluate on, only {listed(splits)}. Or pass `--do_eval false`."
    )


def check_columns(dataset: Dataset, columns: Sequence[str], split: str) -> None:
    """Refuse a split that is empty, or lacks the input's columns or the label's.

    Raises:
        ValueError: It is, or does.
    """
    if len(dataset) == 0:
        raise ValueError(f"The {split} split is empty.")
    needed = (*columns, LABEL)
    missing = [name for name in needed if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"The {split} split has no column {listed(missing)}: it needs {listed(needed)}, and has "
            f"{listed(dataset.column_names)}."
        )


def listed(names: Iterable[str]) -> str:
    """List names for a message, each in backticks."""
    return ", ".join(f"`{name}`" for name in names)


def _cache_of_folder(folder: str, name: str | None, cache_dir: str | None) -> str:
    """Name a cache for the files of a folder as they are now.

    datasets (5.2 at least) finds what it cached by the folder's name and its README: another folder of that name, or a
    file that was changed, would be given the old rows.
    """
    files = load_dataset_builder(folder, name, cache_dir=cache_dir).config.data_files
    return os.path.join(cache_dir or datasets.config.HF_DATASETS_CACHE, "folders", Hasher.hash(files))


def refuse_missing_folder(name: str) -> None:
    """Refuse what can only be a local folder, and is none: the Hub would say that it is no id."""
    looks_local = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_local and not os.path.isdir(os.path.expanduser(name)):
        raise FileNotFoundError(f"{name} is a folder that does not exist.")
