"""`WormCallback`: search, draw and hold within the events of one training."""

import copy
import logging
import math
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from hf_worm.checkpoint.state import Saved, load_run, save_state
from hf_worm.config import WormConfig
from hf_worm.core.truncation import unwrapped
from hf_worm.core.window import Observation
from hf_worm.holding import Attached, Held
from hf_worm.report.progress import Progress
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket
from hf_worm.trainer.refusals import refuse_distribution, refuse_optimizer

logger = logging.getLogger(__name__)


class WormCallback(TrainerCallback):
    """Search for a ticket, draw it and hold it in a Trainer that one does not subclass.

    ```python
    trainer = Trainer(..., callbacks=[WormCallback(WormConfig(layers=["neurons"]))])
    trainer.train()  # resume_from_checkpoint works before and after the draw
    ```

    The Trainer's own `num_train_epochs` (or `max_steps`) is the whole run: the ticket is drawn as soon as its masks
    have converged, and what is left of the run is the retraining, with the same optimizer and schedule. Of
    `config.retrain_epochs` only 0 matters: the training then ends at the draw. Nothing is evaluated around the draw.
    Gradients are truncated, and seen by the score, after they are clipped: a callback is called no earlier.

    The ticket is saved beside each checkpoint from the draw on, and in `output_dir` at the end.

    Args:
        config (`WormConfig`): The settings.
        score, select, schedule, treatment (*optional*): Parts of one's own, as for [`TicketSearch`].

    Attributes:
        search (`TicketSearch`, *optional*): The search, its masks and its history, once training has begun.
        ticket (`Ticket`, *optional*): The ticket, once it is drawn.
        progress (`Progress`): Steps, epochs and seconds of the phases so far.

    Raises:
        ValueError: `compact=True`, which takes a second training; when training begins: as for [`WormTrainerMixin`].
    """

    def __init__(
        self, config: WormConfig, score: Any = None, select: Any = None, schedule: Any = None, treatment: Any = None
    ) -> None:
        if not isinstance(config, WormConfig):
            raise TypeError(f"`config` must be a `WormConfig`, got a `{type(config).__name__}`.")
        self._config = config
        self.parts = {"score": score, "select": select, "schedule": schedule, "treatment": treatment}
        self.search: TicketSearch | None = None
        self.ticket: Ticket | None = None
        self.progress = Progress()
        self.search_steps = self.search_epochs = 0  # after so many, the search ends, converged or not
        self._running = False
        self._summarized = False  # the Trainer has logged what the training took, which comes to its end
        self._over = False  # the search has ended, and its ticket is to be drawn
        self._epoch_ended = False  # `on_epoch_end` has come, and the next epoch has not begun
        self._handle: Attached | Held | None = None  # of the hooks on the optimizer's step
        self._refuse()

    # Events.

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the search, or go on where the checkpoint was saved that the Trainer resumes from."""
        self._begin(args, state, kwargs["model"])
        self._running, self._summarized, self._over, self._epoch_ended = True, False, False, False
        self.progress.enter(self.progress.phase)
        optimizer = kwargs["optimizer"]
        refuse_optimizer(self.owner, unwrapped(optimizer), self._search.scales_gradients)
        if not self.searching:
            self._hold(kwargs["model"], optimizer)
            return
        self._handle = self._search.attach(optimizer, self._steps_per_epoch(args, kwargs["train_dataloader"]))
        if self._observation_lost(state):
            self._observe(state, control)
        self._end_search(state, control, resumed=bool(state.global_step))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that an epoch begins."""
        self._epoch_ended = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the ticket of a search that has ended: what was due at its last step was of the unpruned model."""
        if self.searching and self._over:
            put_weights_in_place(kwargs["optimizer"])
            self._draw(state)
            self._begin_retraining(state)
            self._hold(kwargs["model"], kwargs["optimizer"])

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Hand the gradients of an optimizer step to the search."""
        if self.searching:
            self._search.truncate_gradients()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the masks where they are due after so many steps; end the search where it is over."""
        if self.searching and self._search.due(state.global_step, epoch_end=False):
            self._observe(state, control)
        self._end_search(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the masks where they are due after each epoch; end the search where it is over."""
        self._epoch_ended = True
        if self.searching and self._search.due(state.global_step, epoch_end=True) and self._behind(state):
            self._observe(state, control)
        self._end_search(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the search where another callback has asked for it."""
        self._end_search(state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the search where another callback has asked for it; note the summary of a training."""
        if "train_loss" in kwargs["logs"]:
            self._summarized = True
        self._end_search(state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the run's state, and its ticket, beside the checkpoint; end the search where it was asked for."""
        self._save(args, state)
        self._end_search(state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the newest mask, unless that has happened, and save the ticket in `output_dir`."""
        if not self._summarized:  # of a trial that is pruned the end is told, and it has none
            self._release()
            return
        if self.searching:
            put_weights_in_place(kwargs["optimizer"])
            self._draw(state)
            self._running = False
        else:
            self._finish(state, kwargs["model"])
        if args.should_save and self.ticket is not None:
            self.ticket.save_pretrained(str(args.output_dir))

    # The search.

    @property
    def searching(self) -> bool:
        """True while the search trains."""
        return self._running and self.ticket is None

    @property
    def config(self) -> WormConfig:
        """The settings."""
        return self._config

    @property
    def owner(self) -> str:
        """The name of what messages speak of."""
        return type(self).__name__

    def new_search(self, model: nn.Module) -> TicketSearch:
        """Make a search in a model that has observed nothing, with copies of the parts as they were given."""
        return TicketSearch(model, self.config, **copy.deepcopy(self.parts))

    def restore(self, model: nn.Module, saved: Saved | None) -> None:
        """Begin a run in a model, or put it where it was saved."""
        self._release()
        self.search = self.new_search(model)
        self.ticket = None if saved is None else saved.ticket
        self.progress = Progress() if saved is None else copy.deepcopy(saved.progress)
        if saved is not None:
            self.search.load_state_dict(saved.search)

    def _refuse(self) -> None:
        if self.config.compact:
            raise ValueError(
                "`compact=True` takes a second training, of the smaller model, which a callback can't begin: use "
                "`WormTrainer`, or cut afterwards: `callback.ticket.compact(model)`."
            )

    def _begin(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        refuse_distribution(self.owner, PartialState().distributed_type, args)
        self.restore(model, load_run(self._resumed_from(args, state)) if state.global_step else None)
        self.search_steps, self.search_epochs = state.max_steps, state.num_train_epochs

    def _resumed_from(self, args: TrainingArguments, state: TrainerState) -> Path:
        """Find the checkpoint that the Trainer has resumed from, which it does not tell callbacks."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        given = args.resume_from_checkpoint
        places = [Path(str(args.output_dir), name), *([Path(given), Path(given, name)] if given else [])]
        for folder in places:
            path = folder / TRAINER_STATE_NAME
            if path.is_file() and TrainerState.load_from_json(str(path)).log_history == state.log_history:
                return folder
        raise ValueError(
            f"Can't find the checkpoint of step {state.global_step} that this training resumes from: {places[0]} is "
            "not it. Name it in the arguments as well: `TrainingArguments(resume_from_checkpoint=...)`."
        )

    def _steps_per_epoch(self, args: TrainingArguments, batches: DataLoader[Any]) -> int | None:
        """Count the optimizer steps of an epoch; `None` for a stream."""
        if not has_length(batches):
            return None
        return max(math.ceil(len(batches) / args.gradient_accumulation_steps), 1)

    def _observe(self, state: TrainerState, control: TrainerControl) -> None:
        observation = self._search.observe(state.global_step)
        self.progress.observed_step = state.global_step
        should_log = control.should_log  # logging clears it, and the loss of this step is still to be logged
        self._log(observation, state)
        control.should_log = should_log

    def _log(self, observation: Observation, state: TrainerState) -> None:
        logs = observation_logs(observation, self._search)
        state.log_history.append({**logs, "epoch": state.epoch or 0.0, "step": state.global_step})
        logger.info("step %d: %s", state.global_step, logs)

    def _behind(self, state: TrainerState) -> bool:
        """True if steps were taken since the newest observation."""
        return self.progress.observed_step < state.global_step

    def _observation_lost(self, state: TrainerState) -> bool:
        """True if an epoch was over at the checkpoint that was loaded, and not observed yet.

        A checkpoint of an epoch's last step is written before the epoch ends, and on resumption that epoch counts as
        done.
        """
        whole = state.epoch is not None and state.epoch == int(state.epoch)
        due = state.global_step > 0 and self._search.due(state.global_step, epoch_end=True)
        return self.searching and whole and due and self._behind(state)

    def _end_search(self, state: TrainerState, control: TrainerControl, resumed: bool = False) -> None:
        """End the search where it has converged, has taken its steps, or was asked to stop."""
        if not self.searching or self._over:
            return
        planned = self._taken(state)
        stopped = control.should_training_stop or self.progress.stopped
        if not (self._search.converged or planned or stopped):
            return
        ends = state.global_step >= state.max_steps or state.epoch == int(state.epoch or 0.0)
        if ends and not self._epoch_ended and not resumed:
            return  # the epoch's end is still to come, and with it an observation
        if self._behind(state) and (not self._search.history or self._search.due(state.global_step, epoch_end=True)):
            self._observe(state, control)
        self.progress.stopped = stopped and not planned and not self._search.converged
        self._over = True
        control.should_training_stop = not self._goes_on(state)
        if control.should_training_stop:  # the newest mask is drawn from the weights that it was taken of
            forget_best(state)

    def _taken(self, state: TrainerState) -> bool:
        """True if the search has taken all its steps, or its epochs, which may end early."""
        epochs_over = self._epoch_ended and math.ceil(state.epoch or 0.0) >= self.search_epochs
        return epochs_over or state.global_step >= self.search_steps

    def _goes_on(self, state: TrainerState) -> bool:
        """True if training goes on after the search; another callback that ends it ends all of it."""
        return self.config.retrain_epochs > 0 and not self.progress.stopped and state.global_step < state.max_steps

    # The draw and the retraining.

    def _draw(self, state: TrainerState) -> None:
        self._close_search(state)
        self.progress.enter("draw")
        self._before_draw()
        self.ticket = self._search.draw()
        self._after_draw()

    def _close_search(self, state: TrainerState) -> None:
        """End the search's account; one too short for an observation makes one now."""
        self._release()
        if not self._search.history:
            self._search.observe(state.global_step)
        if "search" not in self.progress.steps and state.global_step:
            self.progress.finish(state.global_step, state.epoch or 0.0)

    def _before_draw(self) -> None:
        """Look at the model before its weights are pruned."""

    def _after_draw(self) -> None:
        """Look at the model whose weights were just pruned."""
        self.progress.tick()

    def _begin_retraining(self, state: TrainerState) -> None:
        self.progress.enter("retrain")
        forget_best(state)  # of unpruned models

    def _hold(self, model: nn.Module, optimizer: Any) -> None:
        assert self.ticket is not None
        self._release()
        self._handle = self.ticket.hold(model, optimizer)

    def _finish(self, state: TrainerState, model: nn.Module) -> None:
        self._release()
        self._running = False
        self.progress.finish(state.global_step, state.epoch or 0.0)
        if self.ticket is not None:
            self.ticket.apply_(model)  # whatever other callbacks did to the weights

    def _release(self) -> None:
        """Take the hooks off the optimizer's step."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _save(self, args: TrainingArguments, state: TrainerState) -> None:
        folder = Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if args.should_save and folder.is_dir():
            save_state(folder, self.progress, self._search.state_dict())
            if self.ticket is not None:
                self.ticket.save_pretrained(folder)

    @property
    def _search(self) -> TicketSearch:
        if self.search is None:
            raise RuntimeError("There is no search yet: it begins with the training.")
        return self.search


def forget_best(state: TrainerState) -> None:
    """Have a Trainer find the best of its models anew."""
    state.best_metric = state.best_model_checkpoint = state.best_global_step = None


def put_weights_in_place(optimizer: Any) -> None:
    """Have an optimizer that trains on other weights than those that are its result (schedule-free) swap them."""
    if isinstance(optimizer, AcceleratedOptimizer):
        optimizer.eval()


def observation_logs(observation: Observation, search: TicketSearch) -> dict[str, Any]:
    """Name what an observation showed, for a Trainer's log; without what there is not yet."""
    logs = {
        "worm_max_distance": observation.max_distance,
        "worm_mean_distance": observation.mean_distance,
        "worm_truncating": observation.truncating,
        "worm_doomed_share": observation.doomed_share,
        "worm_sparsity": search.sparsity,
    }
    return {name: value for name, value in logs.items() if value is not None}
