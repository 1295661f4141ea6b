"""Makes a trainer of the arguments: data, model and metrics, each checked before training starts."""

from datasets import Dataset
from transformers import (
    DataCollator,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    default_data_collator,
    set_seed,
)

from hf_worm.commands.glue.arguments import GlueArguments
from hf_worm.commands.glue.data import labelled, text_columns, tokenized
from hf_worm.commands.glue.loading import load_splits
from hf_worm.commands.glue.model import load_config, load_model, load_tokenizer, refuse_length, refuse_tokens
from hf_worm.commands.glue.tasks import find_task
from hf_worm.commands.job.labels import task_of
from hf_worm.commands.job.loading import TRAIN, train_split, validation_splits
from hf_worm.commands.job.metrics import metrics_function
from hf_worm.commands.job.task import Task
from hf_worm.commands.job.trainer import make_trainer
from hf_worm.trainer import WormTrainer


def build_trainer(arguments: GlueArguments, checkpoint: str | None = None) -> tuple[WormTrainer, Task]:
    """Make the trainer of a run, and the task that it is for.

    Args:
        arguments (`GlueArguments`): Of the run.
        checkpoint (`str`, *optional*): What it will resume from.

    Raises:
        ValueError: The data, the model, the settings or the checkpoint won't do.
        OSError: The data or the model isn't there.
    """
    training = arguments.training
    with training.main_process_first(desc="loading the data"):
        task, splits = load_data(arguments)
    tokenizer = load_tokenizer(arguments.model)
    config, order = load_config(arguments.model, task)
    set_seed(training.seed)  # the model's head is made at random
    model = load_model(arguments.model, config)
    with training.main_process_first(desc="tokenizing"):
        splits = {name: tokenized(split, task, tokenizer, order, arguments.data) for name, split in splits.items()}
    refuse_tokens(model, tokenizer, splits.values())
    refuse_length(model, tokenizer, splits.values())
    train = splits.pop(TRAIN)
    trainer = make_trainer(
        arguments,
        checkpoint,
        model=model,
        train_dataset=train,
        eval_dataset=splits,
        processing_class=tokenizer,
        data_collator=_collator(arguments, tokenizer),
        compute_metrics=metrics_function(task, order),
    )
    return trainer, task


def load_data(arguments: GlueArguments) -> tuple[Task, dict[str, Dataset]]:
    """Load the task and its splits, with class ids: `train`, and each validation split by its metrics' name.

    Raises:
        ValueError: The data won't do.
        OSError: The data isn't there.
    """
    data = arguments.data
    task = None if data.task_name is None else find_task(data.task_name)
    raw = load_splits(data, task, arguments.model.cache_dir, arguments.model.token)
    train = train_split(raw)
    validation = validation_splits(raw, task) if arguments.training.do_eval else {}
    if task is None:
        task = task_of(train, "custom", text_columns(train))
    splits = {TRAIN: labelled(train, TRAIN, task, data.max_train_samples)}
    for name, split in validation.items():
        splits[name] = labelled(split, f"{name} validation".lstrip(), task, data.max_eval_samples)
    return task, splits


def _collator(arguments: GlueArguments, tokenizer: PreTrainedTokenizerBase) -> DataCollator:
    if arguments.data.pad_to_max_length:
        return default_data_collator
    half = arguments.training.fp16 or arguments.training.bf16
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if half else None)
