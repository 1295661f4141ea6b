"""Translates the Trainer's events into phases and observations."""

from typing import TYPE_CHECKING, Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_worm.config import WormConfig

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin


class PhaseCallback(TrainerCallback):
    """Tells a [`WormTrainerMixin`] when a phase begins, when to take the masks, and the Trainer when to stop."""

    def __init__(self, trainer: "WormTrainerMixin", config: WormConfig) -> None:
        self.trainer = trainer
        self.config = config

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer._begin_phase()
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                callback.training_bar.set_description(self.trainer.progress.phase)
        if self.trainer._observation_due():
            self.trainer.observe()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer._begin_epoch()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer._require_truncation()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        steps = self.config.sample_steps
        if self.trainer.searching and steps is not None and state.global_step % steps == 0:
            self._observe(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer.searching and self.config.sample_strategy == "epoch":
            self._observe(control)

    def _observe(self, control: TrainerControl) -> None:
        if self.trainer.observe().converged:
            control.should_training_stop = True
