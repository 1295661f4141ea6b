"""Loads the tokenizer and the model for a task."""

from collections.abc import Iterable
from typing import cast

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_worm.commands.glue.arguments import ModelArguments
from hf_worm.commands.job.model import hub_options, load_weights, model_errors_named, set_classes
from hf_worm.commands.job.task import Task


def load_tokenizer(arguments: ModelArguments) -> PreTrainedTokenizerBase:
    """Load the tokenizer that the arguments name.

    Raises:
        ValueError: It has no token to pad with, or needs a library that is not installed.
        OSError: It isn't there.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path
    with model_errors_named(name, "the tokenizer of "):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **hub_options(arguments))
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # what transformers makes of no files at all
        raise ValueError(f"The tokenizer of {name} knows no word: its files are missing or empty.")
    if tokenizer.pad_token is None:
        raise ValueError(f"The tokenizer of {name} has no padding token: sentences of unequal length need one.")
    return tokenizer


def load_config(arguments: ModelArguments, task: Task) -> tuple[PreTrainedConfig, tuple[int, ...]]:
    """Load the configuration, made for the task, with the model's id of each class ([`set_classes`])."""
    name = arguments.config_name or arguments.model_name_or_path
    with model_errors_named(name):
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, **hub_options(arguments))
    return config, set_classes(config, task)


def refuse_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, splits: Iterable[Dataset]) -> None:
    """Refuse a tokenizer whose tokens the model does not know: training would end in an `IndexError`.

    Args:
        model (`PreTrainedModel`): The model.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        splits (`Iterable[Dataset]`): What it made: tokens that do not occur do no harm.

    Raises:
        ValueError: One of them occurs.
    """
    known = cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]
    if max(tokenizer.get_vocab().values()) < known:
        return
    largest = max(max(ids) for split in splits for ids in split["input_ids"])
    if largest >= known:
        raise ValueError(
            f"The tokenizer makes the token {largest}, the model knows {known} tokens, from 0: they do not belong "
            "together. Pass the model's own tokenizer as `--tokenizer_name`."
        )


def refuse_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, splits: Iterable[Dataset]) -> None:
    """Try the longest row before training begins, if it may be longer than the model takes.

    Args:
        model (`PreTrainedModel`): The model; it is not changed.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer, which may know no limit.
        splits (`Iterable[Dataset]`): What it made.

    Raises:
        ValueError: The model can't take it.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max((row for split in splits for row in split["input_ids"]), key=len)
    # RoBERTa and its kin count positions from that of the padding token.
    if positions is None or len(longest) + (tokenizer.pad_token_id or 0) + 1 <= positions:
        return
    try:
        with torch.no_grad():
            model.eval()(input_ids=torch.tensor([longest]))  # type: ignore[no-untyped-call]
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"The model has {positions} positions, too few for {len(longest)} tokens ({error}). Pass a smaller "
            "`--max_seq_length`."
        ) from error


def load_model(arguments: ModelArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """Load the model, with the head that the configuration asks for ([`load_weights`])."""
    return load_weights(AutoModelForSequenceClassification, arguments.model_name_or_path, config, arguments)
