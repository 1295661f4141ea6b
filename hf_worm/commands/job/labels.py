"""Checks the labels of a split and turns them into class ids, or into numbers."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Value

from hf_worm.commands.job.task import Task

logger = logging.getLogger(__name__)

LABEL = "label"
MANY_CLASSES = 1000  # class ids up to here may be missing from the data
UNNAMED = "LABEL_"  # what transformers calls the classes of a model that has no names for them


def task_of(train: Dataset, name: str, columns: tuple[str, ...]) -> Task:
    """Describe a task of one's own by its training data.

    The labels are the names that the data set gives, or the sorted strings, or whole numbers from 0 as they are.
    Floating-point labels make a regression.

    Raises:
        ValueError: The labels make no task: unlabelled rows, a single class, a column of another type.
    """
    feature = train.features[LABEL]
    values = _present(train, "train")
    if isinstance(feature, ClassLabel):
        labels = tuple(feature.names)
    elif _is(feature, "float"):
        return Task(name, columns, (), ("pearson", "spearmanr"))
    elif _is(feature, "string") or _is(feature, "large_string"):
        labels = tuple(sorted(set(values)))
        _warn_of_numbers(labels)
    elif _is(feature, "int") or _is(feature, "uint") or _is(feature, "bool"):
        largest = max(int(value) for value in values)
        if largest >= max(len(values), MANY_CLASSES):  # or a stray number would make a head of a billion classes
            raise ValueError(
                f"The largest label of the train split is {largest}, in {len(values)} rows: class ids count from 0. "
                "Write numbers that are no classes with a decimal point, and names of classes as text."
            )
        labels = tuple(f"{UNNAMED}{label}" for label in range(largest + 1))
    else:
        raise ValueError(f"The column `{LABEL}` must hold class names, class ids or numbers, got {feature}.")
    if len(set(values)) < 2:
        raise ValueError(f"The train split has the one label {values[0]!r}: there is nothing to learn.")
    return Task(name, columns, labels, ("accuracy",))


def _warn_of_numbers(labels: Sequence[str]) -> None:
    """Warn where texts are numbers but for a few: one cell such as `NA` makes text of a whole column."""
    others = [label for label in labels if not _is_number(label)]
    if others and 2 * len(others) < len(labels) and any("." in label for label in labels if label not in others):
        logger.warning(
            "The labels are texts, so each of the %d is a class of its own, though most are numbers. Not numbers: %s. "
            "For a regression, remove those rows.",
            len(labels),
            ", ".join(map(repr, others[:3])),
        )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def label_ids(dataset: Dataset, task: Task, split: str) -> list[int] | list[float]:
    """Read the labels of a split: class ids in the order of `task.labels`, or numbers for a regression.

    Raises:
        ValueError: A row is unlabelled, or its label is none of the task's. The first such row is named.
    """
    feature = dataset.features[LABEL]
    values = _present(dataset, split)
    if task.is_regression:
        return [_number(value, row, split) for row, value in enumerate(values, start=1)]
    if isinstance(feature, ClassLabel) and set(feature.names) == set(task.labels):
        order: Sequence[int] = [task.labels.index(name) for name in feature.names]
        return [order[_id(value, row, split, task)] for row, value in enumerate(values, start=1)]
    return [_id(value, row, split, task) for row, value in enumerate(values, start=1)]


def _present(dataset: Dataset, split: str) -> list[Any]:
    values: list[Any] = dataset[LABEL][:]
    for row, value in enumerate(values, start=1):
        if value is None or value == "":
            raise ValueError(f"Row {row} of the {split} split has no label.")
    return values


def _number(value: Any, row: int, split: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(
            f"The label of row {row} of the {split} split is {value!r}: a regression needs finite numbers."
        )
    return float(value)


def _id(value: Any, row: int, split: str, task: Task) -> int:
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    if isinstance(value, int) and 0 <= value < task.num_labels:
        return int(value)
    unlabelled = ", which marks a row without label" if value == -1 else ""
    raise ValueError(
        f"The label of row {row} of the {split} split is {value!r}{unlabelled}: `{task.name}` has the labels "
        f"{', '.join(task.labels)} (0 to {task.num_labels - 1})."
    )


def _is(feature: Any, kind: str) -> bool:
    return isinstance(feature, Value) and feature.dtype.rstrip("0123456789") == kind
