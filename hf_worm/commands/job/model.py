"""Makes a pretrained model fit a task."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_worm.commands.job.arguments import PretrainedArguments
from hf_worm.commands.job.labels import UNNAMED
from hf_worm.commands.job.loading import refuse_missing_folder
from hf_worm.commands.job.task import Task
from hf_worm.compact import RECORD
from hf_worm.compact.load import load_compact

logger = logging.getLogger(__name__)

AutoClass = type[AutoModelForSequenceClassification] | type[AutoModelForImageClassification]


def hub_options(arguments: PretrainedArguments) -> dict[str, Any]:
    """Pick the arguments that every `from_pretrained` takes."""
    return {
        "cache_dir": arguments.cache_dir,
        "revision": arguments.model_revision,
        "token": arguments.token,
        "trust_remote_code": arguments.trust_remote_code,
    }


@contextmanager
def model_errors_named(name: str, part: str = "") -> Iterator[None]:
    """Make an error that names the model of any that is raised because it isn't there, is damaged or contradictory.

    Args:
        name (`str`): A Hub id or a local folder.
        part (`str`, *optional*): What is loaded of it, such as "the tokenizer of ".

    Raises:
        FileNotFoundError: The name is that of a folder, and there is none.
    """
    refuse_missing_folder(name)
    try:
        yield
    except OSError as error:  # it isn't there, or the Hub can't be reached
        if name in str(error):
            raise
        raise OSError(f"Can't load {part}{name}: {error}") from error
    except Exception as error:  # a wrong value in a file surfaces as anything, and tokenizers raises no other class
        kind = "" if isinstance(error, (ValueError, ImportError)) else f"{type(error).__name__}: "
        raise ValueError(f"Can't load {part}{name}: {kind}{error}") from error


def set_classes(config: PreTrainedConfig, task: Task) -> tuple[int, ...]:
    """Make a configuration ask for the task's head, and name its classes.

    Args:
        config (`PreTrainedConfig`): As it was loaded; it is changed.
        task (`Task`): The task.

    Returns:
        `tuple[int, ...]`: The model's id of each class of the task: a model fine-tuned elsewhere may have the same
        classes in another order, and its head knows them by that. Empty for a regression.
    """
    if task.is_regression:
        config.num_labels = 1
        config.problem_type = "regression"
        return ()
    names = [name for _, name in sorted((config.id2label or {}).items())]
    config.num_labels = task.num_labels
    config.problem_type = "single_label_classification"
    for spelled in (str, str.casefold):  # in upper or lower case, where that is not all that tells two classes apart
        known = {spelled(name): index for index, name in enumerate(names)}
        wanted = [spelled(label) for label in task.labels]
        if sorted(known) == sorted(wanted) and len(known) == len(names):
            return tuple(known[label] for label in wanted)
    if len(names) != task.num_labels or not task.labels[0].startswith(UNNAMED):
        if names and not names[0].startswith(UNNAMED):
            logger.warning("The model's classes were %s: they are %s now.", ", ".join(names), ", ".join(task.labels))
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: index for index, label in enumerate(task.labels)}
    return tuple(range(task.num_labels))


def dtype_of(arguments: PretrainedArguments) -> torch.dtype | Literal["auto"]:
    """Find the data type of the weights that the arguments ask for."""
    return "auto" if arguments.dtype == "auto" else cast(torch.dtype, getattr(torch, arguments.dtype))


def _head_alone(load: Any, name: str, config: PreTrainedConfig, arguments: PretrainedArguments) -> bool:
    """Tell whether the weights that don't fit are all outside the base model."""
    options = {**hub_options(arguments), "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, loading = load(name, config=config, **options)
    return not any(key[0].startswith(f"{model.base_model_prefix}.") for key in loading["mismatched_keys"])


def load_weights(
    auto_class: AutoClass, name: str, config: PreTrainedConfig, arguments: PretrainedArguments
) -> PreTrainedModel:
    """Load a pretrained model, with the head that the configuration asks for.

    Args:
        auto_class (`type`): The auto class of the head.
        name (`str`): A Hub id or a local folder.
        config (`PreTrainedConfig`): The configuration, after [`set_classes`].
        arguments (`PretrainedArguments`): How to get the weights, and whether a head of another size may go.

    Raises:
        ValueError: The weights don't fit the configuration, are damaged, or hold NaN.
        OSError: They aren't there.
    """
    with model_errors_named(name):
        # What a run with `compact=True` left may have other shapes than its configuration says.
        load: Any = load_compact if hasattr(config, RECORD) else auto_class.from_pretrained
        try:
            model: PreTrainedModel = load(
                name,
                config=config,
                dtype=dtype_of(arguments),
                ignore_mismatched_sizes=arguments.ignore_mismatched_sizes,
                **hub_options(arguments),
            )
        except RuntimeError as error:
            if _head_alone(load, name, config, arguments):
                message = f"The weights don't fit a head for {config.num_labels} labels ({error}) Pass "
                raise ValueError(message + "`--ignore_mismatched_sizes` to begin with a new head.") from error
            raise ValueError(
                f"The weights are not of the sizes that the configuration says: do they belong together? {error}"
            ) from error
    for part, weight in model.state_dict().items():  # the running statistics of a BatchNorm too
        if not weight.isfinite().all():
            raise ValueError(f"The weights of {name} are broken: `{part}` holds NaN or infinite values.")
    return model
