"""The trainer of a run, checked before training starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    BaseImageProcessor,
    DataCollator,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)
from transformers.training_args import OptimizerNames

from hf_worm.checkpoint.resume import load_retraining
from hf_worm.checkpoint.state import STATE_NAME, load_state
from hf_worm.checkpoint.whole import require_whole
from hf_worm.commands.job.arguments import Arguments
from hf_worm.trainer import WormTrainer


def make_trainer(
    arguments: Arguments[Any, Any],
    checkpoint: str | None,
    *,
    model: PreTrainedModel,
    train_dataset: Dataset[Any],
    eval_dataset: Dataset[Any] | dict[str, Dataset[Any]] | None,
    processing_class: PreTrainedTokenizerBase | BaseImageProcessor | None,
    data_collator: DataCollator,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]],
    callbacks: list[TrainerCallback] | None = None,
) -> WormTrainer:
    """Make a trainer with the run's settings.

    Args:
        arguments (`Arguments`): Of the run.
        checkpoint (`str`, *optional*): What it will resume from.
        model (`PreTrainedModel`): The model, whose loss is a mean over rows.
        train_dataset (`Dataset`): The training split, a `Dataset` of torch or of `datasets`.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*):
            The validation split, or the splits by the name that their metrics get, as [`validation_splits`] has them.
        processing_class: The tokenizer or the image processor, which is saved with the model.
        data_collator, compute_metrics, callbacks: As for `Trainer`.

    Raises:
        ValueError: The settings don't fit the model or the checkpoint, or the checkpoint is damaged.
    """
    if isinstance(eval_dataset, dict):
        eval_dataset = eval_dataset.get("", eval_dataset) or None
    optimizer = _optimizer(arguments.training)
    try:
        trainer = WormTrainer(
            model=model,
            args=arguments.training,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizer_cls_and_kwargs=optimizer,
            worm_config=arguments.worm if arguments.training.do_train else None,
        )
    except RuntimeError as error:  # `report_to` names a library that is not installed, or the device is full
        raise ValueError(str(error)) from error
    if arguments.training.do_train:
        _refuse_optimizer(arguments.training, model, optimizer)
    # The loss of these heads is a mean over rows. transformers (5.23 at least) takes it for one that is divided by the
    # size of the whole batch already, and would make it larger by the number of accumulated batches and of processes.
    trainer.model_accepts_loss_kwargs = False
    if checkpoint is not None and arguments.worm is None and (Path(checkpoint) / STATE_NAME).is_file():
        raise ValueError(
            f"{checkpoint} is of a run that prunes, whose ticket and report would stay beside weights that are not "
            "pruned: begin the dense run in a folder of its own."
        )
    if checkpoint is not None and trainer.search is not None and trainer.worm_config is not None:
        # Training would say so too, but later; what is loaded here is loaded anew there.
        require_whole(checkpoint)
        progress, search = load_state(checkpoint)
        trainer.search.load_state_dict(search)
        if progress.phase == "retrain":
            load_retraining(checkpoint, trainer.worm_config)
    return trainer


def _refuse_optimizer(
    training: TrainingArguments,
    model: PreTrainedModel,
    given: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None,
) -> None:
    """Make the optimizer of one weight, where it is PyTorch's: it checks its settings."""
    kind, settings = given or WormTrainer.get_optimizer_cls_and_kwargs(training, model)
    if kind.__module__.startswith("torch."):
        try:
            kind([torch.zeros(1, requires_grad=True)], **settings)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The optimizer `{OptimizerNames(training.optim).value}` can't be made: {error}."
            ) from error


def _optimizer(training: TrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """Make SGD with its `optim_args`, which transformers before 5.3 passes over; `None`: as the parent makes it."""
    if training.optim != "sgd" or not training.optim_args:
        return None
    try:
        kind, settings = WormTrainer.get_optimizer_cls_and_kwargs(training)
        given = dict(pair.split("=", 1) for pair in training.optim_args.replace(" ", "").split(","))
        settings |= {name: float(given[name]) for name in ("momentum", "dampening") if name in given}
    except ValueError as error:
        raise ValueError(
            f"`optim_args` must be settings of SGD such as momentum=0.9,nesterov=true, got {training.optim_args!r}."
        ) from error
    if "nesterov" in given:
        settings["nesterov"] = given["nesterov"].lower() in ("true", "1", "yes")
    return kind, settings
