"""Translates the Trainer's events into observations, and an observation into a line that a person can read."""

from typing import TYPE_CHECKING, Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.search import FADE_BOUND

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin


def observation_line(seen: Observation, config: WormConfig, epoch: float) -> str:
    """One line on an observation: "epoch 2: mask distance max 0.0023, mean 0.0023; below 0.015: truncating"."""
    if seen.max_distance is None or seen.mean_distance is None:
        return f"epoch {epoch:g}: first masks taken, nothing to compare them with yet"
    line = f"epoch {round(epoch, 4):g}: mask distance max {seen.max_distance:.4f}, mean {seen.mean_distance:.4f}"
    if seen.doomed_share is not None:
        line += f", doomed weights {seen.doomed_share:.1%} of the L1 norm"
    if seen.converged:
        faded = "" if seen.doomed_share is None else f", doomed below {FADE_BOUND:.0%}"
        return f"{line}; max below {config.stopping_point:g}{faded}: converged"
    if not seen.truncating or not config.truncates:
        return line
    doing = "truncating" if seen.doomed_share is None else "fading"
    trigger = config.stopping_point + config.margin
    return f"{line}; below {trigger:g}: {doing}" if seen.mean_distance < trigger else f"{line}; {doing}"


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
