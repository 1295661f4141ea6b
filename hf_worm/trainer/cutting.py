"""Going on with a smaller model: what a trainer cuts, tries and measures between the draw and the retraining."""

import inspect
import warnings
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import TrainOutput

from hf_worm.compact import try_cut
from hf_worm.report.speed import LARGE_BATCH, Batch, costs, forward
from hf_worm.trainer.stages import same_random_numbers

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin


def try_cutting(trainer: "WormTrainerMixin", layers: list[str]) -> None:
    """Cut units out of a copy of the model, and raise before the search where the rest of it does not follow."""
    batch = rows(trainer)
    with trainer.accelerator.autocast():
        try_cut(trainer.trained_model, layers, lambda model: forward(model, batch))


def measure(trainer: "WormTrainerMixin", dense: nn.Module, drawn: nn.Module) -> dict[str, Any]:
    """Measure sizes and times of the dense, the drawn and the smaller model on rows of the training set.

    The first process measures, while others have nothing to do: they would share its cores.

    Returns:
        `dict[str, Any]`: As [`~hf_worm.report.speed.costs`]; empty where nothing was measured.
    """
    batch = rows(trainer)  # of which all processes take theirs
    if not trainer.is_world_process_zero():
        return {}
    count = min(LARGE_BATCH, trainer.args.per_device_train_batch_size)
    models = {"dense": dense, "drawn": drawn, "compact": trainer.trained_model}
    try:
        with trainer.accelerator.autocast():
            return costs(models, batch, count)
    except Exception as error:  # out of memory, or rows that can't be repeated: the run goes on without its times
        warnings.warn(f"What the smaller model gains was not measured: {type(error).__name__}: {error}", stacklevel=2)
        return {}


def rows(trainer: "WormTrainerMixin") -> Batch:
    """Take rows of the training set, and leave all random states as they are.

    With what the model's `forward` names alone, and without labels that it need not have (but for models of an
    encoder and a decoder, which make the decoder's input of them).
    """
    with same_random_numbers(trainer):
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    model = cast(PreTrainedModel, trainer.trained_model)  # another is refused
    taken = inspect.signature(model.forward).parameters
    left_out = [
        name
        for name in trainer.label_names
        if name in taken and taken[name].default is None and not model.config.is_encoder_decoder
    ]
    return {name: value for name, value in batch.items() if name in taken and name not in left_out}


def sum_outputs(search: TrainOutput, retraining: TrainOutput) -> TrainOutput:
    """Join what two trainings of a run took: the sum of their times, and means over all steps.

    Args:
        search, retraining (`TrainOutput`): Of the trainings; steps are counted from the start of the run.
    """
    steps = search.global_step, retraining.global_step - search.global_step
    both = search.metrics, retraining.metrics
    metrics = dict(retraining.metrics)
    metrics["train_runtime"] = runtime = sum(phase["train_runtime"] for phase in both)
    for name in ("train_samples_per_second", "train_steps_per_second"):
        if all(name in phase for phase in both):
            metrics[name] = round(sum(phase[name] * phase["train_runtime"] for phase in both) / runtime, 3)
    losses = search.training_loss, retraining.training_loss
    loss = sum(loss * count for loss, count in zip(losses, steps, strict=True)) / max(sum(steps), 1)
    return TrainOutput(retraining.global_step, loss, {**metrics, "train_loss": loss})
