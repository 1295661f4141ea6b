"""Checks, labels and tokenizes a split: from what was loaded to what the Trainer takes."""

import logging
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, Value
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_worm.commands.glue.arguments import DataArguments
from hf_worm.commands.job.labels import LABEL, label_ids
from hf_worm.commands.job.loading import TRAIN, check_columns, listed
from hf_worm.commands.job.task import Task

logger = logging.getLogger(__name__)

# The columns that a data set of one's own is looked through for, in this order.
KNOWN_COLUMNS = (("sentence1", "sentence2"), ("sentence",), ("text",))


def text_columns(dataset: Dataset) -> tuple[str, ...]:
    """Find the columns of the sentence or the pair, in a data set that belongs to no task of GLUE.

    `sentence1` and `sentence2`, else `sentence`, else `text`, else the first one or two columns of strings.

    Raises:
        ValueError: There is no column of strings, or no `label`.
    """
    check_columns(dataset, (), "train")
    for known in KNOWN_COLUMNS:
        if set(known) <= set(dataset.column_names):
            return known
    strings = [name for name in dataset.column_names if name != LABEL and _is_text(dataset, name)]
    if not strings:
        raise ValueError(f"The data has no column of text, only {listed(dataset.column_names)}.")
    logger.warning("Taking the text from %s: name the columns sentence1, sentence2 to choose.", listed(strings[:2]))
    return tuple(strings[:2])


def labelled(dataset: Dataset, split: str, task: Task, limit: int | None) -> Dataset:
    """Check a split, and keep its text and `labels`: class ids in the order of `task.labels`, or numbers.

    Args:
        dataset (`Dataset`): The split as it was loaded.
        split (`str`): Its name, for messages.
        task (`Task`): The task.
        limit (`int`, *optional*): Keep the first so many rows only.

    Raises:
        ValueError: The split is empty, lacks a column or a label, or holds a wrong label or no text.
    """
    check_columns(dataset, task.columns, split)
    if limit is not None:
        dataset = dataset.select(range(min(limit, len(dataset))))
    for name in task.columns:
        if not _is_text(dataset, name):
            raise ValueError(f"The column `{name}` of the {split} split must hold text, got {dataset.features[name]}.")
        for row, text in enumerate(dataset[name][:], start=1):
            if text is None:
                raise ValueError(f"Row {row} of the {split} split has no `{name}`.")
    labels = label_ids(dataset, task, split)
    if limit is not None and split == TRAIN and not task.is_regression and len(set(labels)) == 1:
        logger.warning("The first %d rows of the %s split have the one label %s.", len(labels), split, labels[0])
    return dataset.select_columns(list(task.columns)).add_column("labels", labels)


def tokenized(
    dataset: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, order: Sequence[int], data: DataArguments
) -> Dataset:
    """Replace the text of a split by the tokenizer's output, and class ids by the model's.

    Args:
        dataset (`Dataset`): A split from [`labelled`].
        task (`Task`): The task.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        order (`Sequence[int]`): The model's id of each class of the task; empty for a regression.
        data (`DataArguments`): Length, padding, cache and processes.
    """
    length = min(data.max_seq_length, tokenizer.model_max_length)
    if length < data.max_seq_length:
        logger.warning(
            "The model takes %d tokens at the most, not the %d of `max_seq_length`.", length, data.max_seq_length
        )
    padding = "max_length" if data.pad_to_max_length else False

    def encode(rows: dict[str, list[Any]]) -> BatchEncoding:
        texts = [rows[name] for name in task.columns]
        encoded: BatchEncoding = tokenizer(*texts, padding=padding, max_length=length, truncation=True)
        encoded["labels"] = [order[label] for label in rows["labels"]] if order else rows["labels"]
        return encoded

    return dataset.map(
        encode,
        batched=True,
        num_proc=data.preprocessing_num_workers,
        load_from_cache_file=not data.overwrite_cache,
        remove_columns=list(task.columns),
        desc="Tokenizing",
    )


def _is_text(dataset: Dataset, name: str) -> bool:
    feature = dataset.features[name]
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")
