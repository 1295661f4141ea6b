"""One count of steps, epochs, tokens and floating-point operations for a run of several trainings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import Trainer, TrainerControl
from transformers.trainer_utils import TrainOutput

from hf_worm.report.progress import Counts

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object


class CountingTrainerMixin(_Trainer):
    """Counts from the start of the run what leaves the parent, which counts every training from step 0.

    That is what it logs, its checkpoints and their names, and what callbacks see as it logs, evaluates and saves: the
    checkpoints don't overwrite each other, and the last is the newest. At all other events, callbacks see the
    training's own count.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._before = Counts()  # what the finished trainings took, which the parent does not count
        super().__init__(*args, **kwargs)
        for event in ("on_save", "on_evaluate"):
            setattr(self.callback_handler, event, partial(self._tell_callbacks, getattr(self.callback_handler, event)))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The parent's, with steps and epochs counted from the start of the run."""
        with self._counting_the_run():
            super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self._counting_the_run():
            super()._save_checkpoint(model, trial)

    def _tell_callbacks(self, event: Callable[..., TrainerControl], *args: Any, **kwargs: Any) -> TrainerControl:
        """Have callbacks find the checkpoint that was just saved by the step in its name."""
        with self._counting_the_run():
            return event(*args, **kwargs)

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        super()._report_to_hp_search(trial, step + self._before.steps, metrics)

    @contextmanager
    def _counting_the_run(self) -> Iterator[None]:
        state = self.state
        of_the_phase = state.global_step, state.epoch, state.max_steps, state.best_global_step
        self._count(+1)
        first = getattr(self, "_initial_num_input_tokens_seen", None)  # of the training; transformers 5.0 has none
        if first is not None:  # from which on the parent tells tokens per second
            self._initial_num_input_tokens_seen = first + self._before.tokens
        try:
            yield
        finally:
            state.global_step, state.epoch, state.max_steps, state.best_global_step = of_the_phase
            state.num_input_tokens_seen -= self._before.tokens
            state.total_flos -= self._before.flos  # to which a checkpoint adds those since the last
            if first is not None:
                self._initial_num_input_tokens_seen = first

    def _count(self, sign: int) -> None:
        """Make the state count from the start of the run (+1), or from that of the phase again (-1)."""
        self.state.global_step += sign * self._before.steps
        self.state.max_steps += sign * self._before.steps
        if self.state.epoch is not None:
            self.state.epoch += sign * self._before.epochs
        if self.state.best_global_step:
            self.state.best_global_step += sign * self._before.steps
        self.state.num_input_tokens_seen += sign * self._before.tokens
        self.state.total_flos += sign * self._before.flos

    def _taken(self) -> Counts:
        """What the training has taken so far."""
        state = self.state
        return Counts(state.global_step, state.epoch or 0.0, state.num_input_tokens_seen, state.total_flos)


def together(search: TrainOutput, retraining: TrainOutput, goes_on: bool) -> TrainOutput:
    """What the two phases of a run took.

    Args:
        search, retraining (`TrainOutput`): Of the phases; one that was over in its checkpoint has no metrics.
        goes_on (`bool`): The retraining counts the floating-point operations of the search as well.
    """
    if not search.metrics or not retraining.metrics:
        return retraining if retraining.metrics else retraining._replace(metrics=search.metrics)
    both = search.metrics, retraining.metrics
    metrics = dict(retraining.metrics)
    metrics["train_runtime"] = runtime = sum(phase["train_runtime"] for phase in both)
    for name in ("train_samples_per_second", "train_steps_per_second"):
        if all(name in phase for phase in both):
            metrics[name] = round(sum(phase[name] * phase["train_runtime"] for phase in both) / runtime, 3)
    if not goes_on and all("total_flos" in phase for phase in both):  # some callbacks take it out of what is logged
        metrics["total_flos"] = sum(phase["total_flos"] for phase in both)
    steps = search.global_step, retraining.global_step - search.global_step
    losses = search.training_loss, retraining.training_loss
    loss = sum(loss * count for loss, count in zip(losses, steps, strict=True)) / max(sum(steps), 1)
    return TrainOutput(retraining.global_step, loss, {**metrics, "train_loss": loss})
