"""The phases of a `WormTrainer`'s run: what [`WormCallback`] does, and what takes a Trainer of one's own."""

import copy
import math
import warnings
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import set_seed

from hf_worm.checkpoint.state import Saved
from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.report.progress_lines import none_left, observation_line
from hf_worm.search import TicketSearch
from hf_worm.trainer.callback import WormCallback, observation_logs, put_weights_in_place
from hf_worm.trainer.compat import describe_bar, saved_state, was_stopped
from hf_worm.trainer.cutting import try_cutting
from hf_worm.trainer.refusals import refuse_compact
from hf_worm.trainer.stages import StageNames

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin


class Phases(WormCallback):
    """Search, draw and retrain in one training of a trainer that knows of them, with the draw evaluated and reported.

    Args:
        trainer (`WormTrainerMixin`): The trainer.
        config (`WormConfig`): The settings.
        parts (`dict[str, Any]`): Score, selection, schedule and treatment of the user's own, each or `None`.

    Attributes:
        draws (`bool`): Whether the training that runs draws the ticket, or ends with the search.
        active (`bool`): Whether a training of this run's is planned or runs.
        checkpoint (`str`, *optional*): What the training resumes from, or what another has just left.
        names (`StageNames`): The trainer's first callback.
    """

    def __init__(self, trainer: "WormTrainerMixin", config: WormConfig, parts: dict[str, Any]) -> None:
        super().__init__(config, **parts)
        self.trainer = trainer
        self.draws, self.active = True, False
        self.checkpoint: str | None = None
        self.saved: Saved | None = None
        self.to_seed = False  # the next step begins a retraining with a schedule of its own
        self.log_before: list[dict[str, float]] = []  # of the training that this one goes on from
        self.names = StageNames(self._end_training)
        self._kind: type[TicketSearch] = TicketSearch
        self._steps_of_an_epoch = 0
        self._stepped = False  # the trainer's own `training_step` has run, at least once
        self._with_ticket = False  # the training begins with a ticket: it is a retraining
        self._untold = False  # the newest observation was made before training began, and is to be logged

    @property
    def config(self) -> WormConfig:
        """The trainer's settings, which may be exchanged between its phases."""
        return self.trainer.worm_config or self._config

    @property
    def owner(self) -> str:
        """The trainer's class."""
        return type(self.trainer).__name__

    @property
    def restarts(self) -> bool:
        """True if the retraining has an optimizer and a schedule of its own."""
        return self.config.retrain_schedule == "restart"

    def adopt(self, search: TicketSearch) -> None:
        """Search from now on as a search does that the user has made: of its class, with its parts.

        Raises:
            ValueError: Its settings are not the trainer's.
        """
        if search.config != self.config:
            raise ValueError(
                f"The search has other settings than the trainer: {search.config}, and not {self.config}. Make it with "
                "`trainer.worm_config`."
            )
        self.search, self._kind = search, type(search)
        self.parts = {name: getattr(search, name) for name in self.parts}

    def new_search(self, model: nn.Module) -> TicketSearch:
        """Make a search of the kind that is in use."""
        return self._kind(model, self.config, **copy.deepcopy(self.parts))

    def retraining_steps(self) -> int:
        """Count the optimizer steps of a retraining with a schedule of its own."""
        return math.ceil(self.config.retrain_epochs * self._steps_of_an_epoch)

    @property
    def running(self) -> bool:
        """True while a training runs."""
        return self._running

    def put_weights_in_place(self) -> None:
        """Have weights be those that are the training's result."""
        put_weights_in_place(self.trainer.optimizer)

    # The plan.

    def begin(self, checkpoint: str | None, saved: Saved | None) -> None:
        """Have the parent's next training be one of this run's.

        Args:
            checkpoint (`str`, *optional*): What it resumes from, or goes on from.
            saved (`Saved`, *optional*): What that checkpoint holds of a run.
        """
        self.checkpoint, self.saved, self.active = checkpoint, saved, True
        self._with_ticket = self.ticket is not None

    def plan(self, epochs: int, steps_per_epoch: int, planned: int) -> tuple[int, int | None]:
        """Put the run where it begins, or where it was saved, and plan its optimizer steps.

        Args:
            epochs (`int`): Epochs of a training by the trainer's arguments alone, begun ones too.
            steps_per_epoch (`int`): Optimizer steps in an epoch.
            planned (`int`): Steps of such a training.

        Returns:
            `tuple[int, int | None]`: Steps of the whole run, and those that are done where none is left; else `None`.
        """
        self._steps_of_an_epoch, self.search_steps, self.search_epochs = steps_per_epoch, planned, epochs
        if self.saved is not None or not self._with_ticket:  # or, after an attempt with larger batches, anew
            self._put_in_place()
        if self.ticket is None and self._search.schedule.needs_epochs:
            self._search.schedule.start(steps_per_epoch)  # ahead of `attach`: is an observation due where it was saved?
        if self.ticket is not None:
            total = self.progress.begun_step + self.retraining_steps() if self.restarts else planned
        else:
            total = planned + (self.retraining_steps() if self.restarts and self._retrains else 0)
        if self.checkpoint is None:
            return total, None
        state = saved_state(self.checkpoint)
        return total, state.global_step if self._is_over(state, total) else None

    def _put_in_place(self) -> None:
        """Begin the run, or put it where it was saved; a retraining of a smaller model needs no search in it."""
        if self.saved is None or not self.trainer.compacted:
            self.restore(self.trainer.trained_model, self.saved)

    def _is_over(self, state: TrainerState, total: int) -> bool:
        """True if a checkpoint leaves no step to take; the parent would train one more."""
        if self.ticket is not None:
            prolonged = state.max_steps <= state.global_step < total
            stopped = self.saved is not None and was_stopped(state) and not prolonged
            return stopped or state.global_step >= total
        self._running = True
        if self._observation_lost(state) and not self._search.schedule.holds:  # which takes the optimizer
            self._search.observe(state.global_step)
            self.progress.observed_step, self._untold = state.global_step, True
        planned = state.global_step >= self.search_steps
        stopped = self.progress.stopped or (was_stopped(state) and state.global_step < state.max_steps)
        self.progress.stopped = stopped and not planned
        over = self._search.converged or planned or self.progress.stopped
        return over and not (self._retrains and (self.restarts or state.global_step < total))

    @property
    def _retrains(self) -> bool:
        """True if the training that runs goes on after the search, where steps are left."""
        return self.draws and not self.config.compact and self.config.retrain_epochs > 0

    # Events.

    def _refuse(self) -> None:
        """Refuse nothing: the trainer does."""

    def _begin(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        state.log_history = self.log_before + state.log_history
        self.log_before = []
        if self.progress.seed is None:
            self.progress.seed = torch.initial_seed()
        describe_bar(self.trainer, self.progress.phase, state.max_steps)
        if self._untold:
            self._log(self._search.history[-1], state)
            self._untold = False
        if self.ticket is None and self.config.compact:  # the model is on its device by now
            refuse_compact(model, self._search, self.trainer.optimizers.given)
            try_cutting(self.trainer, self.config.layers)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw where it is due; a retraining that begins depends on the weights, the step and the seed alone."""
        super().on_step_begin(args, state, control, **kwargs)
        if self.to_seed:
            set_seed(args.seed)
            self.to_seed = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a step whose gradients the search has not seen: a subclass overrides `training_step` whole."""
        if self.searching and self._search.needs_gradients and not self._stepped:
            raise RuntimeError(
                f"`{self.owner}.training_step` does not call that of `WormTrainerMixin`, which truncates the "
                "gradients. Derive the trainer from the mixin first, `class Mine(WormTrainerMixin, Theirs)`, or "
                "truncate the optimizer's steps: `WormConfig(truncation_target='update')`."
            )

    def take_gradients(self, loss_scale: torch.Tensor | None) -> None:
        """Hand the gradients of an optimizer step to the search, once its last backward pass is done."""
        self._stepped = True
        self._search.truncate_gradients(loss_scale)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the search where another callback has asked for it; the trainer saves the state with the weights."""
        self._end_search(state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The end has been told already, ahead of all other callbacks."""

    def _end_training(self, state: TrainerState, control: TrainerControl) -> None:
        if not self._running:
            return
        ended, searched = self._summarized, self.searching
        self._stop()
        if not ended:
            return
        if not searched:
            self._finish(state, self.trainer.trained_model)
            self._evaluate("retrained")
            self.trainer.write_report()
        elif self.draws and not self.config.compact:
            self._draw(state)
            self._tell_none_left()
            self.trainer.log_result("drawn")
        else:
            self._close_search(state)

    def stop(self) -> None:
        """End the training, however it ended."""
        self._stop()
        self.checkpoint, self.saved, self.active = None, None, False
        self.log_before, self.to_seed = [], False

    def _stop(self) -> None:
        """Take all hooks off, and have weights be those that are the training's result."""
        self._release()
        self._running = False
        self.put_weights_in_place()

    def _tell_none_left(self) -> None:
        assert self.ticket is not None
        if self.config.retrain_epochs > 0 and self.ticket.converged:  # else the draw has warned already
            warnings.warn(f"{none_left(self.progress, self.config)} The drawn model is the result.", stacklevel=2)

    def _goes_on(self, state: TrainerState) -> bool:
        return self._retrains and (self.restarts or state.global_step < state.max_steps)

    def _log(self, observation: Observation, state: TrainerState) -> None:
        self.trainer.log(observation_logs(observation, self._search))
        if self.trainer.is_world_process_zero():
            tqdm.write(observation_line(observation, self.config, state.epoch or 0.0))

    # The draw and the retraining.

    def observe(self, state: TrainerState, control: TrainerControl) -> Observation:
        """Sample the masks, log what they show, and print it in a line."""
        self._observe(state, control)
        return self._search.history[-1]

    def draw(self, state: TrainerState) -> None:
        """Draw the ticket outside a training."""
        self.put_weights_in_place()
        self._draw(state)

    def _before_draw(self) -> None:
        self._evaluate("before_draw")
        if self.config.compact:
            self.trainer.cut.keep_dense()

    def _after_draw(self) -> None:
        self._evaluate("drawn")
        self.progress.tick()
        if self.config.compact and self.ticket is not None:
            self.progress.costs = self.trainer.cut.cut_drawn(self.ticket)
        self.trainer.write_report()

    def _evaluate(self, stage: str) -> None:
        metrics = self.trainer.evaluate_stage(stage)
        if metrics is not None:
            self.progress.metrics[stage] = metrics

    def _begin_retraining(self, state: TrainerState) -> None:
        super()._begin_retraining(state)
        if self.restarts:
            steps = self.retraining_steps()
            self.trainer.optimizers.restart(steps)
            self.to_seed = True
            state.max_steps = state.global_step + steps
        describe_bar(self.trainer, "retrain", state.max_steps)

    def _hold(self, model: nn.Module, optimizer: Any) -> None:
        ticket = self.trainer.cut.rest or self.ticket
        assert ticket is not None
        self._release()
        self._handle = ticket.hold(model, cast(Any, self.trainer.optimizer))  # maybe another than before the draw

    def _finish(self, state: TrainerState, model: nn.Module) -> None:
        self.progress.finish(state.global_step, state.epoch or 0.0)
        self.trainer.apply_ticket()  # whatever callbacks did to the weights at the end of training

    def _save(self, args: TrainingArguments, state: TrainerState) -> None:
        """The trainer saves the state ahead of the weights."""
