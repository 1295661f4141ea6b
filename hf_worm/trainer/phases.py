"""The phases of a `WormTrainer`'s run: what its training does at the events of a run, and around the draw."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import set_seed

from hf_worm.checkpoint.resume import load_trainer_state
from hf_worm.checkpoint.state import Saved
from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.report.progress_lines import none_left, observation_line, observation_logs
from hf_worm.trainer import compat, cutting
from hf_worm.trainer.callback import RunEvents, put_weights_in_place
from hf_worm.trainer.refusals import refuse_compact
from hf_worm.trainer.stages import Stages

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin


class Start(NamedTuple):
    """The place at which a training of the parent's begins.

    Args:
        checkpoint (`str`, *optional*): What it resumes from or, without `saved`, what another training has just left.
        saved (`Saved`, *optional*): What that checkpoint holds of a run.
        restores (`bool`): Whether the run begins anew, or as it was saved, once the parent has its model.
        log (`Sequence`): Entries of the training before, for its log.
        seeds (`bool`): Whether its first step depends on the weights, the step and the seed alone.
    """

    checkpoint: str | None = None
    saved: Saved | None = None
    restores: bool = True
    log: Sequence[dict[str, float]] = ()
    seeds: bool = False


class Phases(RunEvents):
    """Searches, draws and retrains in a trainer that knows of it, with the draw evaluated and reported.

    Args:
        trainer (`WormTrainerMixin`): The trainer.
        config (`WormConfig`): The settings.
        parts (`dict[str, Any]`): Score, selection, schedule and treatment of the user's own, each or `None`.

    Attributes:
        start (`Start`, *optional*): Where the training begins that is planned or runs.
        stages (`Stages`): The trainer's first callback, which tells the end of a training.
    """

    def __init__(self, trainer: "WormTrainerMixin", config: WormConfig, parts: dict[str, Any]) -> None:
        super().__init__(config, parts, type(trainer).__name__)
        self.trainer = trainer
        self.start: Start | None = None
        self.stages = Stages(self._end_training)
        self._to_seed = False  # the next step begins a retraining with a schedule of its own
        self._stepped = False  # the trainer's own `training_step` has run, at least once

    def plan(self, start: Start, epochs: int, steps_per_epoch: int, planned: int) -> tuple[int, int | None]:
        """Put the run where it begins, or where it was saved, and plan its optimizer steps.

        Args:
            start (`Start`): Where it begins.
            epochs, steps_per_epoch, planned (`int`): As for [`Run.plan`].

        Returns:
            `tuple[int, int | None]`: Steps of the whole run, and those that are done where none is left; else `None`.
        """
        if start.restores:  # after an attempt with larger batches once more
            self.run.restore(self.trainer.trained_model, start.saved)
        total = self.run.plan(epochs, steps_per_epoch, planned)
        if start.checkpoint is None:
            return total, None
        state = load_trainer_state(start.checkpoint)
        over = self.run.is_over(state, total, stopped=start.saved is not None and compat.was_stopped(state))
        return total, state.global_step if over else None  # the parent would train one more

    # Events.

    def prepare(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        run, start = self.run, self.start or Start()
        state.log_history = [*start.log, *state.log_history]
        self._to_seed = start.seeds
        if run.progress.seed is None:
            run.progress.seed = torch.initial_seed()
        compat.describe_bar(self.trainer, run.progress.phase, state.max_steps)
        if run.ticket is None and run.config.compact:  # the model is on its device by now
            refuse_compact(model, run.searched, self.trainer.optimizers.given)
            cutting.try_cutting(self.trainer, run.config.layers)
        if run.ticket is None:
            self.trainer.distillation.try_out()

    def log(self, observation: Observation, state: TrainerState) -> None:
        control = self.trainer.control
        should_log = control.should_log  # logging clears it, and the loss of this step is still to be logged
        self.trainer.log(observation_logs(observation, self.run.searched.sparsity))
        control.should_log = should_log
        if self.trainer.is_world_process_zero():
            tqdm.write(observation_line(observation, self.run.config, state.epoch or 0.0))

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw where it is due; a retraining that begins depends on the weights, the step and the seed alone."""
        super().on_step_begin(args, state, control, **kwargs)
        if self._to_seed:
            set_seed(args.seed)
            self._to_seed = False

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse a step whose gradients the search has not seen: a subclass overrides `training_step` whole."""
        if self.run.searching and self.run.searched.needs_gradients and not self._stepped:
            raise RuntimeError(
                f"`{self.owner}.training_step` does not call that of `WormTrainerMixin`, which truncates the "
                "gradients. Derive the trainer from the mixin first, `class Mine(WormTrainerMixin, Theirs)`, or "
                "truncate the optimizer's steps: `WormConfig(truncation_target='update')`."
            )

    def take_gradients(self, loss_scale: torch.Tensor | None) -> None:
        """Hand the gradients of an optimizer step to the search, once its last backward pass is done."""
        self._stepped = True
        self.run.searched.truncate_gradients(loss_scale)

    def retraining_optimizer(self, state: TrainerState, optimizer: Any) -> Any:
        if self.run.restarts:
            steps = self.run.retraining_steps
            self.trainer.optimizers.restart(steps)
            self._to_seed = True
            state.max_steps = state.global_step + steps
        compat.describe_bar(self.trainer, "retrain", state.max_steps)
        return self.trainer.optimizer

    def _end_training(self, state: TrainerState, control: TrainerControl) -> None:
        """Finish the phase with which a training has ended, ahead of all other callbacks."""
        run, trainer = self.run, self.trainer
        if not run.training:
            return
        searched = run.searching
        self.stop()
        if not self.summarized:  # a trial that is pruned
            return
        if not searched:
            run.finish(state, trainer.trained_model)
            self._evaluate("retrained")
            trainer.write_report()
        elif run.draws and not run.config.compact:
            self.draw(state)
            if run.config.retrain_epochs > 0 and run.drawn.converged:  # else the draw has warned already
                warnings.warn(f"{none_left(run.progress, run.config)} The drawn model is the result.", stacklevel=2)
            trainer.log_result("drawn")
        else:
            run.close_search(state)

    def stop(self) -> None:
        """Take all hooks off, and have weights be those that are the training's result."""
        self.run.stop()
        put_weights_in_place(self.trainer.optimizer)

    # The draw.

    def draw(self, state: TrainerState) -> None:
        """Draw the ticket between two evaluations, and report; with `compact=True`, make the model smaller."""
        run, trainer = self.run, self.trainer
        run.close_search(state, "draw")
        self._evaluate("before_draw")
        trainer.distillation.keep()
        dense = cutting.copy_dense(trainer) if run.config.compact else None
        asked = run.config.speedup
        run.draw(None if asked is None else cutting.fitted_speedup(trainer, run, asked)[0])
        self._evaluate("drawn")
        run.progress.tick()
        if dense is not None:
            drawn = trainer.trained_model
            cutting.cut_out(trainer, run)
            run.progress.costs = cutting.measure(trainer, dense, drawn)
        run.progress.speed = cutting.measure_speed(trainer, run)
        trainer.write_report()

    def _evaluate(self, stage: str) -> None:
        metrics = self.trainer.evaluate_stage(stage)
        if metrics is not None:
            self.run.progress.metrics[stage] = metrics
