"""`WormCallback`: search, draw and hold within the events of one training."""

import logging
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_worm.checkpoint.resume import find_resumed
from hf_worm.checkpoint.state import load_run
from hf_worm.config import WormConfig
from hf_worm.core.truncation import unwrapped
from hf_worm.core.window import Observation
from hf_worm.report.progress import Progress
from hf_worm.report.progress_lines import observation_logs
from hf_worm.run import Run
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket
from hf_worm.trainer.compat import forget_best
from hf_worm.trainer.refusals import refuse_distribution, refuse_optimizer, steps_of_an_epoch

logger = logging.getLogger(__name__)


class RunEvents(TrainerCallback):
    """Tells a run the events of a Trainer's training. What differs between Trainers is left to derived classes.

    Args:
        config (`WormConfig`): The settings.
        parts (`dict[str, Any]`): Score, selection, schedule and treatment of the user's own, each or `None`.
        owner (`str`): The class that messages name.
    """

    def __init__(self, config: WormConfig, parts: dict[str, Any], owner: str) -> None:
        self.run, self.owner = Run(config, parts, self.log), owner
        self.summarized = False  # the Trainer has logged the summary of a training, which comes to its end

    def prepare(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        """Put the run where the training begins."""

    def log(self, observation: Observation, state: TrainerState) -> None:
        """Log an observation."""

    def draw(self, state: TrainerState) -> None:
        """Draw the ticket of a search that has ended."""
        self.run.close_search(state, "draw")
        self.run.draw()

    def goes_on(self, state: TrainerState) -> bool:
        """True if the training goes on after the search."""
        return self.run.goes_on(state)

    def retraining_optimizer(self, state: TrainerState, optimizer: Any) -> Any:
        """Return the optimizer of a retraining that begins here."""
        return optimizer

    def end_search(self, state: TrainerState, control: TrainerControl, resumed: bool = False) -> None:
        """End the search where it is over, or was asked to end, and the training where none is to follow."""
        if self.run.end_search(state, control.should_training_stop, resumed):
            control.should_training_stop = not self.goes_on(state)
            control.should_save |= self.run.saves and not resumed
            if control.should_training_stop:  # the newest mask is drawn from the weights that it was taken of
                forget_best(state)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin the search, or go on where the checkpoint was saved that the Trainer resumes from."""
        model, optimizer, self.summarized = kwargs["model"], kwargs["optimizer"], False
        self.prepare(args, state, model)
        refuse_optimizer(self.owner, unwrapped(optimizer), self.run.searched.scales_gradients)
        self.run.begin(state, model, optimizer, steps_of_an_epoch(args, kwargs["train_dataloader"]))
        self.end_search(state, control, resumed=bool(state.global_step))

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw the ticket of a search that has ended: what was due at its last step was of the unpruned model."""
        if self.run.searching and self.run.over:
            put_weights_in_place(kwargs["optimizer"])
            self.draw(state)
            self.run.progress.enter("retrain")
            forget_best(state)  # of unpruned models
            self.run.hold(kwargs["model"], self.retraining_optimizer(state, kwargs["optimizer"]))

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.run.step_ended(state)
        self.end_search(state, control)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.run.epoch_ended(state)
        self.end_search(state, control)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.summarized |= "train_loss" in kwargs["logs"]
        self.end_search(state, control)

    # What another callback has asked for by then ends the search too.
    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.end_search(state, control)

    on_save = on_evaluate


class WormCallback(RunEvents):
    """Search for a ticket, draw it and hold it in a Trainer that one does not subclass.

    ```python
    trainer = Trainer(..., callbacks=[WormCallback(WormConfig(layers=["neurons"]))])
    trainer.train()  # resume_from_checkpoint works before and after the draw
    ```

    The Trainer's own `num_train_epochs` (or `max_steps`) is the whole run: the ticket is drawn as soon as its masks
    have converged, or after `search_share` of it, and what is left of the run is the retraining, with the same
    optimizer and schedule. Of `config.retrain_epochs` only 0 matters: the training then ends at the draw. Nothing is
    evaluated around the draw. Gradients are truncated, and seen by the score, after they are clipped: a callback is
    called no earlier.

    The ticket is saved beside each checkpoint from the draw on, and in `output_dir` at the end.

    Args:
        config (`WormConfig`): The settings.
        score, select, schedule, treatment (*optional*): Parts of one's own, as for [`TicketSearch`].

    Attributes:
        search (`TicketSearch`, *optional*): The search, its masks and its history, once training has begun.
        ticket (`Ticket`, *optional*): The ticket, once it is drawn.
        progress (`Progress`): Steps, epochs and seconds of the phases so far.

    Raises:
        ValueError: `compact=True`, which takes a second training; `distillation`, which adds to the loss; when training
        begins: as for [`WormTrainerMixin`].
    """

    def __init__(
        self, config: WormConfig, score: Any = None, select: Any = None, schedule: Any = None, treatment: Any = None
    ) -> None:
        if not isinstance(config, WormConfig):
            raise TypeError(f"`config` must be a `WormConfig`, got a `{type(config).__name__}`.")
        if config.compact:
            raise ValueError(
                "`compact=True` takes a second training, of the smaller model, which a callback can't begin: use "
                "`WormTrainer`, or cut afterwards: `callback.ticket.compact(model)`."
            )
        if config.distillation:
            raise ValueError(
                f"`distillation={config.distillation:g}` adds to the loss, which a callback can't: use `WormTrainer`."
            )
        if config.speedup is not None and config.speedup_by == "time":
            raise ValueError(
                "`speedup_by='time'` times the model before the draw, which a callback has no rows for: use "
                "`WormTrainer`, or `speedup_by='multiply_adds'`."
            )
        parts = {"score": score, "select": select, "schedule": schedule, "treatment": treatment}
        super().__init__(config, parts, type(self).__name__)

    @property
    def config(self) -> WormConfig:
        return self.run.config

    @property
    def search(self) -> TicketSearch | None:
        return self.run.search

    @property
    def ticket(self) -> Ticket | None:
        return self.run.ticket

    @property
    def progress(self) -> Progress:
        return self.run.progress

    def prepare(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        refuse_distribution(self.owner, PartialState().distributed_type, args)
        saved = None
        if state.global_step:
            folders = (str(args.output_dir), args.resume_from_checkpoint)
            saved = load_run(find_resumed(state.global_step, state.log_history, folders))
        self.run.restore(model, saved)
        self.run.plan_search(state.num_train_epochs, state.max_steps)

    def log(self, observation: Observation, state: TrainerState) -> None:
        logs = observation_logs(observation, self.run.searched.sparsity)
        state.log_history.append({**logs, "epoch": state.epoch or 0.0, "step": state.global_step})
        logger.info("step %d: %s", state.global_step, logs)

    def goes_on(self, state: TrainerState) -> bool:
        """True if steps are left; another callback that ends the search ends all of the training."""
        left = state.global_step < state.max_steps
        return self.run.config.retrain_epochs > 0 and not self.run.progress.stopped and left

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.run.searching:
            self.run.searched.truncate_gradients()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the run's state, and its ticket, beside the checkpoint; end the search where it was asked for."""
        folder = Path(str(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if args.should_save and folder.is_dir():
            self.run.save(folder)
            if self.ticket is not None:
                self.ticket.save_pretrained(folder)
        self.end_search(state, control)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw the newest mask, unless that has happened, and save the ticket in `output_dir`."""
        if not self.summarized:  # of a trial that is pruned the end is told, and it has none
            self.run.stop()
            return
        if self.run.searching:
            put_weights_in_place(kwargs["optimizer"])
            self.draw(state)
            self.run.stop()
        else:
            self.run.finish(state, kwargs["model"])
        if args.should_save and self.ticket is not None:
            self.ticket.save_pretrained(str(args.output_dir))


def put_weights_in_place(optimizer: Any) -> None:
    """Have an optimizer that trains on other weights than those that are its result (schedule-free) swap them."""
    if isinstance(optimizer, AcceleratedOptimizer):
        optimizer.eval()
