"""Loads the model and the tokenizer for a task."""

import logging
from typing import Any

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_worm.glue.arguments import ModelArguments
from hf_worm.glue.labels import UNNAMED
from hf_worm.glue.tasks import Task

logger = logging.getLogger(__name__)


def load_tokenizer(arguments: ModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer that the arguments name.

    Raises:
        ValueError: It has no token to pad with, or needs a library that is not installed.
        OSError: It isn't there.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **_hub_options(arguments))
    except ImportError as error:
        raise ValueError(f"Can't load the tokenizer of {name}: {error}") from error
    if tokenizer.pad_token is None:
        raise ValueError(f"The tokenizer of {name} has no padding token: sentences of unequal length need one.")
    return tokenizer


def load_config(arguments: ModelArguments, task: Task) -> tuple[PreTrainedConfig, tuple[int, ...]]:
    """The model's configuration, made for the task.

    Returns:
        `tuple`: The configuration, and the model's id of each class of the task: a model fine-tuned elsewhere may have
        the same classes in another order, and its head knows them by that. Empty for a regression.
    """
    name = arguments.config_name or arguments.model_name_or_path
    config: PreTrainedConfig = AutoConfig.from_pretrained(name, **_hub_options(arguments))
    if task.is_regression:
        config.num_labels = 1
        config.problem_type = "regression"
        return config, ()
    names = [name for _, name in sorted((config.id2label or {}).items())]
    known = {label.casefold(): index for index, label in enumerate(names)}
    wanted = [label.casefold() for label in task.labels]
    config.num_labels = task.num_labels
    config.problem_type = "single_label_classification"
    if set(known) == set(wanted):
        return config, tuple(known[label] for label in wanted)
    if len(names) != task.num_labels or not task.labels[0].startswith(UNNAMED):
        if not names[0].startswith(UNNAMED):
            logger.warning("The model's classes were %s: they are %s now.", ", ".join(names), ", ".join(task.labels))
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: index for index, label in enumerate(task.labels)}
    return config, tuple(range(task.num_labels))


def load_model(arguments: ModelArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """The model, with the head that the configuration asks for.

    Raises:
        ValueError: Its weights don't fit the configuration, are damaged, or hold NaN.
        OSError: It isn't there.
    """
    name = arguments.model_name_or_path
    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            name,
            config=config,
            ignore_mismatched_sizes=arguments.ignore_mismatched_sizes,
            **_hub_options(arguments),
        )
    except RuntimeError as error:
        raise ValueError(
            f"The weights of {name} don't fit a head for {config.num_labels} labels ({error}) Pass "
            "`--ignore_mismatched_sizes` to begin with a new head."
        ) from error
    except (ImportError, SafetensorError) as error:
        raise ValueError(f"Can't load {name}: {error}") from error
    for parameter, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"The weights of {name} are broken: `{parameter}` holds NaN or infinite values.")
    return model


def _hub_options(arguments: ModelArguments) -> dict[str, Any]:
    return {
        "cache_dir": arguments.cache_dir,
        "revision": arguments.model_revision,
        "token": arguments.token,
        "trust_remote_code": arguments.trust_remote_code,
    }
