"""One run, whatever trains the model: the search for a ticket, its draw and its holding, by steps and epochs."""

import copy
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from hf_worm.checkpoint.state import Saved, save_state
from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.holding import Attached, Held
from hf_worm.report.progress import Progress
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket


class Position(Protocol):
    """A place in a training, such as the `TrainerState` of Transformers: steps and epochs so far, and steps planned."""

    global_step: int
    max_steps: int

    @property
    def epoch(self) -> float | None: ...


class Run:
    """Decides at each place of a training: whether masks are taken, the search is over, and which phase follows.

    The training calls `restore` when it has its model and `plan` when it knows its steps; then `begin`, `step_ended`,
    `epoch_ended` and `end_search` where they happen, `draw` and `hold` when the search has ended, and `finish`.

    Args:
        config (`WormConfig`): The settings.
        parts (`Mapping[str, Any]`): Score, selection, schedule and treatment of the user's own, each or `None`.
        tell (`Callable`): Called with each observation and the `Position` at which it was made.

    Attributes:
        search (`TicketSearch`, *optional*): The search, once there is a model.
        ticket (`Ticket`, *optional*): The ticket, once it is drawn.
        rest (`Ticket`, *optional*): The ticket of a model that was made smaller: it prunes what could not be cut out.
        account (`dict`, *optional*): The account of the model before it was made smaller.
        progress (`Progress`): Steps, epochs and seconds of the phases so far.
        draws (`bool`): Whether the training that runs draws the ticket, or ends with the search.
        saves (`bool`): Whether a checkpoint is to be saved where the search ends.
        training (`bool`): Whether a training runs.
        over (`bool`): Whether the search has ended, and its ticket is to be drawn.
        search_steps, search_epochs (`int`): After so many, the search ends, converged or not.
    """

    def __init__(self, config: WormConfig, parts: Mapping[str, Any], tell: Callable[[Observation, Any], None]) -> None:
        self.config, self.parts, self.tell = config, dict(parts), tell
        self.kind: type[TicketSearch] = TicketSearch
        self.search: TicketSearch | None = None
        self.ticket: Ticket | None = None
        self.rest: Ticket | None = None
        self.account: dict[str, Any] | None = None
        self.progress = Progress()
        self.draws, self.saves = True, False
        self.training = self.over = False
        self.search_steps = self.search_epochs = 0
        self._steps_per_epoch = self._planned = 0
        self._at_epoch_end = False  # an epoch has ended, and no step of the next
        self._untold = False  # the newest observation was made before training began, and is to be told
        self._handle: Attached | Held | None = None  # of the hooks on the optimizer's step

    @property
    def searched(self) -> TicketSearch:
        """The search, which must have begun."""
        if self.search is None:
            raise RuntimeError("There is no search yet: it begins with the training.")
        return self.search

    @property
    def drawn(self) -> Ticket:
        """The ticket, which must have been drawn."""
        if self.ticket is None:
            raise RuntimeError("There is no ticket yet: call `search_ticket()` and `draw_ticket()` first.")
        return self.ticket

    @property
    def searching(self) -> bool:
        """True while the search trains."""
        return self.training and self.ticket is None

    @property
    def restarts(self) -> bool:
        """True if the retraining has an optimizer and a schedule of its own."""
        return self.config.retrain_schedule == "restart"

    @property
    def retrains(self) -> bool:
        """True if the training that runs goes on after the search, where steps are left."""
        return self.draws and not self.config.compact and self.config.retrain_epochs > 0

    @property
    def retraining_steps(self) -> int:
        """Optimizer steps of a retraining with a schedule of its own."""
        if self.config.search_share is not None:
            return self._planned - self.progress.steps.get("search", 0)
        return math.ceil(self.config.retrain_epochs * self._steps_per_epoch)

    def goes_on(self, at: Position) -> bool:
        """True if the training goes on after a search that has ended here."""
        return self.retrains and (self.restarts or at.global_step < at.max_steps)

    # State and plan.

    def restore(self, model: nn.Module, saved: Saved | None = None) -> None:
        """Begin in a model with a new search, or go on as a checkpoint holds the run.

        Raises:
            ValueError: The model lacks layers of the settings, or is not the one of the checkpoint.
        """
        self.release()
        self.search = self.kind(model, self.config, **copy.deepcopy(self.parts))
        self.rest = self.account = None
        self.ticket = None if saved is None else saved.ticket
        self.progress = Progress() if saved is None else copy.deepcopy(saved.progress)
        if saved is not None:
            self.search.load_state_dict(saved.search)

    def adopt(self, search: TicketSearch) -> None:
        """Search from now on as a search does that the user has made: of its class, with its parts.

        Raises:
            ValueError: It has other settings than the run.
        """
        if search.config != self.config:
            raise ValueError(
                f"The search has other settings than the trainer: {search.config}, and not {self.config}. Make it with "
                "`trainer.worm_config`."
            )
        self.search, self.kind = search, type(search)
        self.parts = {name: getattr(search, name) for name in self.parts}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write progress and search into a checkpoint's folder."""
        save_state(folder, self.progress, self.searched.state_dict())

    def plan(self, epochs: int, steps_per_epoch: int, planned: int) -> int:
        """Plan the optimizer steps.

        Args:
            epochs (`int`): Epochs of a training without a retraining of its own, begun ones too.
            steps_per_epoch (`int`): Optimizer steps in an epoch.
            planned (`int`): Steps of such a training.

        Returns:
            `int`: Steps of the whole run.
        """
        self._steps_per_epoch = steps_per_epoch
        self.plan_search(epochs, planned)
        if self.ticket is None and self.searched.schedule.needs_epochs:
            self.searched.schedule.start(
                steps_per_epoch
            )  # ahead of `attach`: is an observation due where it was saved?
        if not self.restarts:
            return planned
        if self.ticket is not None:
            return self.progress.begun_step + self.retraining_steps
        if self.config.search_share is not None:
            return planned if self.retrains else self.search_steps
        return planned + (self.retraining_steps if self.retrains else 0)

    def plan_search(self, epochs: int, planned: int) -> None:
        """Plan the search: all epochs and steps of a training, or a share of its steps."""
        self._planned, self.search_steps, self.search_epochs = planned, planned, epochs
        if self.config.search_share is not None:
            most = planned - (1 if self.config.retrain_epochs > 0 else 0)  # or nothing would be left to retrain
            self.search_steps = max(min(round(self.config.search_share * planned), most), 1)
            self.search_epochs = sys.maxsize

    def is_over(self, at: Position, total: int, stopped: bool) -> bool:
        """True if there is no step left to take from where the run was saved.

        Args:
            at (`Position`): Where it was saved.
            total (`int`): Steps of the whole run.
            stopped (`bool`): The training had been ended by then.
        """
        if self.ticket is not None:
            prolonged = at.max_steps <= at.global_step < total
            return (stopped and not prolonged) or at.global_step >= total
        if self._observation_lost(at) and not self.searched.schedule.holds:  # which takes the optimizer
            self.searched.observe(at.global_step)
            self.progress.observed_step, self._untold = at.global_step, True
        planned = at.global_step >= self.search_steps
        self.progress.stopped = not planned and (self.progress.stopped or (stopped and at.global_step < at.max_steps))
        over = self.searched.converged or planned or self.progress.stopped
        return over and not (self.retrains and (self.restarts or at.global_step < total))

    # The search.

    def begin(self, at: Position, model: nn.Module, optimizer: Optimizer, steps_per_epoch: int | None) -> None:
        """Search in a training that begins or goes on, or hold the ticket."""
        self.training, self.over, self._at_epoch_end = True, False, False
        self.progress.enter(self.progress.phase)
        if not self.searching:
            self.hold(model, optimizer)
            return
        self._handle = self.searched.attach(optimizer, steps_per_epoch)
        if self._untold:
            self._untold = False
            self.tell(self.searched.history[-1], at)
        if self._observation_lost(at):
            self.observe(at)

    def observe(self, at: Position) -> Observation:
        """Take the masks, and tell what they show."""
        observation = self.searched.observe(at.global_step)
        self.progress.observed_step = at.global_step
        self.tell(observation, at)
        return observation

    def step_ended(self, at: Position) -> None:
        """Take the masks where they are due after so many steps."""
        self._at_epoch_end = False
        if self.searching and self.searched.due(at.global_step, epoch_end=False):
            self.observe(at)

    def epoch_ended(self, at: Position) -> None:
        """Take the masks where they are due after each epoch."""
        self._at_epoch_end = True
        if self.searching and self._epoch_due(at):
            self.observe(at)

    def end_search(self, at: Position, stopped: bool, resumed: bool = False) -> bool:
        """End the search where it has converged, has taken its steps, or was asked to stop.

        Args:
            at (`Position`): Where the training is.
            stopped (`bool`): The training is to end.
            resumed (`bool`, *optional*, defaults to `False`): It begins here: no end of an epoch is to come.

        Returns:
            `bool`: Whether it has ended just now.
        """
        if not self.searching or self.over:
            return False
        search, stopped = self.searched, stopped or self.progress.stopped
        # Epochs may end early.
        epochs_over = self._at_epoch_end and math.ceil(at.epoch or 0.0) >= self.search_epochs
        planned = epochs_over or at.global_step >= self.search_steps
        if not (search.converged or planned or stopped):
            return False
        ends = at.global_step >= at.max_steps or at.epoch == int(at.epoch or 0.0)
        if ends and not self._at_epoch_end and not resumed:
            return False  # the epoch's end is still to come, and with it an observation
        if self._epoch_due(at) or (at.global_step and not search.history):
            self.observe(at)
        self.progress.stopped = stopped and not planned and not search.converged
        self.over = True
        return True

    def close_search(self, at: Position, phase: str = "search") -> None:
        """Close the search's account, take the masks if they never were, and enter the phase that follows, if any."""
        self.release()
        if not self.searched.history:
            self.searched.observe(at.global_step)
        if "search" not in self.progress.steps and at.global_step:
            self.progress.finish(at.global_step, at.epoch or 0.0)
        self.progress.enter(phase)

    def _observation_lost(self, at: Position) -> bool:
        """True if an epoch was over at the checkpoint that was loaded, and not observed yet.

        A checkpoint of an epoch's last step is written before the epoch ends, and on resumption that epoch counts as
        done.
        """
        return at.epoch is not None and at.epoch == int(at.epoch) and self._epoch_due(at)

    def _epoch_due(self, at: Position) -> bool:
        """True if the masks are due at the end of an epoch here, and steps were taken since the newest observation.

        The search's own count of steps does not do: it may have observed without being told any.
        """
        return self.progress.observed_step < at.global_step and self.searched.due(at.global_step, epoch_end=True)

    # The draw and the retraining.

    def draw(self, speedup: float | None = None) -> Ticket:
        """Draw the newest mask of a search whose account is closed, or that of another speed."""
        ticket = self.searched.draw(speedup)
        self.ticket = replace(ticket, config=self.config)  # which has the speed that was asked for
        self.progress.tick()
        return self.ticket

    def begin_retraining(self, at: Position) -> None:
        """Begin to retrain in another training than the search's; one that was interrupted is closed first."""
        if self.progress.phase == "retrain" and at.global_step > self.progress.begun_step:
            self.progress.finish(at.global_step, at.epoch or 0.0)
        if at.global_step:
            self.progress.begun_step, self.progress.begun_epoch = at.global_step, at.epoch or 0.0
        self.progress.enter("retrain")

    def hold(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Have the ticket held through each step of an optimizer."""
        self.release()
        self._handle = (self.rest or self.drawn).hold(model, optimizer)

    def apply_(self, model: nn.Module) -> None:
        """Set what the ticket prunes to 0, whatever was done to the weights since the last step."""
        ticket = self.rest or self.ticket
        if ticket is not None:
            ticket.apply_(model)

    def finish(self, at: Position, model: nn.Module) -> None:
        """End the retraining."""
        self.stop()
        self.progress.finish(at.global_step, at.epoch or 0.0)
        self.apply_(model)

    def stop(self) -> None:
        """End the training, however it ended."""
        self.release()
        self.training = False

    def release(self) -> None:
        """Take the hooks off the optimizer's step."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
