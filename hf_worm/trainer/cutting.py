"""Going on with a smaller model: what is cut, tried and measured between the draw and the retraining."""

import copy
import inspect
import warnings
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import TrainOutput

from hf_worm.compact import try_cut
from hf_worm.report.account import account
from hf_worm.report.speed import LARGE_BATCH, Batch, costs, forward
from hf_worm.ticket import Ticket
from hf_worm.trainer import compat
from hf_worm.trainer.stages import same_random_numbers

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin


class Cut:
    """Cuts what the ticket prunes out of a trainer's model.

    Args:
        trainer (`WormTrainerMixin`): The trainer.

    Attributes:
        rest (`Ticket`, *optional*): The ticket of the smaller model: it prunes what could not be cut out.
        account (`dict`, *optional*): The account of the model before.
    """

    def __init__(self, trainer: "WormTrainerMixin") -> None:
        self.trainer = trainer
        self.rest: Ticket | None = None
        self.account: dict[str, Any] | None = None
        self._dense: nn.Module | None = None  # a copy of the model before the draw, to be measured

    def keep_dense(self) -> None:
        """Keep a copy of the model, and not its optimizer, which has no use any more."""
        compat.forget_optimizer(self.trainer)
        self._dense = copy.deepcopy(self.trainer.trained_model)

    def cut_drawn(self, ticket: Ticket) -> dict[str, Any]:
        """Cut out what was just drawn, and measure what that gained; see [`measure`]."""
        dense, drawn, self._dense = self._dense, self.trainer.trained_model, None
        self.cut_out(ticket)
        return {} if dense is None else measure(self.trainer, dense, drawn)

    def cut_out(self, ticket: Ticket) -> None:
        """Go on with a smaller copy of the model, and let go of the dense one."""
        dense = self.trainer.trained_model
        smaller = ticket.compact(dense)
        self.account, self.rest = account(ticket, dense), ticket.rest(smaller)
        compat.swap_model(self.trainer, smaller)
        if self.trainer.search is not None:
            self.trainer.search.close()


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
        batch = compat.first_batch(trainer)
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
