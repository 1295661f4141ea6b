"""Loads the tokenizer and the model for a task."""

from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_worm.glue.arguments import ModelArguments
from hf_worm.job.model import hub_options, load_weights, set_classes
from hf_worm.job.task import Task


def load_tokenizer(arguments: ModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer that the arguments name.

    Raises:
        ValueError: It has no token to pad with, or needs a library that is not installed.
        OSError: It isn't there.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **hub_options(arguments))
    except ImportError as error:
        raise ValueError(f"Can't load the tokenizer of {name}: {error}") from error
    if tokenizer.pad_token is None:
        raise ValueError(f"The tokenizer of {name} has no padding token: sentences of unequal length need one.")
    return tokenizer


def load_config(arguments: ModelArguments, task: Task) -> tuple[PreTrainedConfig, tuple[int, ...]]:
    """The model's configuration made for the task, and the model's id of each class ([`set_classes`])."""
    name = arguments.config_name or arguments.model_name_or_path
    config: PreTrainedConfig = AutoConfig.from_pretrained(name, **hub_options(arguments))
    return config, set_classes(config, task)


def load_model(arguments: ModelArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """The model, with the head that the configuration asks for ([`load_weights`])."""
    return load_weights(AutoModelForSequenceClassification, arguments.model_name_or_path, config, arguments)
