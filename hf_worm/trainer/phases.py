"""Several trainings one after another as one run: in one folder, with one count of steps, each of them resumable."""

import copy
import math
import os
import tempfile
from abc import abstractmethod
from typing import Any, NamedTuple, cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput, get_last_checkpoint, has_length, set_seed

from hf_worm.core.truncation import unwrapped
from hf_worm.holding import Attached, Held
from hf_worm.report.progress import Counts, Progress, load_state, save_state
from hf_worm.trainer.checkpoint import require_whole
from hf_worm.trainer.counting import CountingTrainerMixin
from hf_worm.trainer.renamed import load_renamed

STATE_FILES = {"optimizer": OPTIMIZER_NAME, "lr_scheduler": SCHEDULER_NAME}

Checkpoint = str | os.PathLike[str] | bool | None  # what may be resumed from; `True`: the last in `output_dir`


class Handover(NamedTuple):
    """What a phase leaves to one that goes on with its training.

    Args:
        folder (`tempfile.TemporaryDirectory`): Holds the `TrainerState`, for the parent to resume from.
        states (`dict[str, Any]`): Of the optimizer and the schedule.
        over_in (`str`, *optional*): The checkpoint that has them instead, if the phase was already over in it.
        epoch_rng (`torch.Tensor`, *optional*):
            Torch's random state when the epoch began, by which some samplers order rows.
    """

    folder: tempfile.TemporaryDirectory[str]
    states: dict[str, Any]
    over_in: str | None
    epoch_rng: torch.Tensor | None


class PhasedTrainerMixin(CountingTrainerMixin):
    """Runs the parent's `train` once for each phase of a run.

    A phase that goes on with the training of the one before is, to the parent, that training resumed.

    Attributes:
        progress (`Progress`): Steps, epochs, seconds and metrics of the phases so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.progress = Progress()
        self._phase: str | None = None  # while the parent's `train` runs
        self._log_before: list[dict[str, float]] = []
        self._checkpoint_state: tuple[Progress, dict[str, Any]] | None = None  # what a resumed phase begins from
        self._saving_checkpoint = False
        self._handle: Attached | Held | None = None  # of the hooks on the optimizer's step
        self._over_in: str | None = None  # the checkpoint in which the last phase was over, if it had no step left
        self._handover: Handover | None = None  # while a phase goes on with the training of the one before
        self._epoch_rng: torch.Tensor | None = None  # torch's random state at the beginning of the newest epoch
        super().__init__(*args, **kwargs)
        self._given_states: dict[str, Any] | None = None  # from the first phase on, of what the user made

    def _train_phase(
        self, phase: str, checkpoint: str | None, options: dict[str, Any], goes_on: bool = False
    ) -> TrainOutput:
        """Train one phase, from its beginning or from a checkpoint of it.

        Args:
            phase (`str`): Its name.
            checkpoint (`str`, *optional*): A checkpoint of the phase, to resume it.
            options (`dict`): For the parent's `train`.
            goes_on (`bool`, *optional*, defaults to `False`):
                With the optimizer, the schedule and the place in the rows that the phase before left; otherwise with a
                fresh optimizer and schedule.
        """
        self._checkpoint_state = None if checkpoint is None else load_state(checkpoint)
        before = self.progress if self._checkpoint_state is None else self._checkpoint_state[0]
        # A training that goes on counts its steps from the start of the run already, and its epochs if it knows them.
        counted = before.total() if goes_on else Counts()
        if self._streams:
            counted = counted._replace(epochs=0.0)
        self._before = before.total().less(counted)
        self._log_before = self.state.log_history if before.steps else []
        self._handover = self._leave() if goes_on and checkpoint is None else None
        self._renew_optimizer()
        self._phase = phase
        try:
            self._over_in = None
            if checkpoint is not None and self._load_if_over(checkpoint):
                output = TrainOutput(self.state.global_step, 0.0, {})
                self._over_in = checkpoint
            else:
                resumed = checkpoint if self._handover is None else self._handover.folder.name
                output = super().train(resume_from_checkpoint=resumed, **options)
                self._put_weights_in_place()
        finally:
            self._phase = None
            self._release_optimizer()
            if self._handover is not None:
                self._handover.folder.cleanup()
                self._handover = None
        self.progress.finish(self._taken().less(counted))
        self._count(+1)
        self._before = Counts()
        return TrainOutput(self.state.global_step, output.training_loss, output.metrics)

    def _begin_epoch(self) -> None:
        """Have an epoch that a phase goes on with be of the same rows in the same order."""
        if self._handover is not None and self._handover.epoch_rng is not None:
            torch.set_rng_state(self._handover.epoch_rng)
            self._handover = self._handover._replace(epoch_rng=None)
        self._epoch_rng = torch.get_rng_state()

    def _begin_phase(self) -> None:
        """Set the phase up on the model and the optimizer as they now are: also after `model_init` or a restart."""
        self._release_optimizer()
        if self._checkpoint_state is not None:
            self.progress = copy.deepcopy(self._checkpoint_state[0])
        else:
            self.state.log_history = self._log_before + self.state.log_history
        self.progress.enter(str(self._phase))

    @abstractmethod
    def _phase_state(self) -> dict[str, Any]:
        """What a checkpoint of the phase holds beside the parent's files, as [`TicketSearch.state_dict`] has it."""

    def _end_if_over(self, stopped: bool) -> bool:
        """Do what ends a phase that was just loaded, if no step of it is left.

        Args:
            stopped (`bool`): Whether its checkpoint says so.

        Returns:
            `bool`: Whether it has ended.
        """
        return stopped

    def _load_if_over(self, checkpoint: str) -> bool:
        """Load a checkpoint after which its phase has no step left; the parent would train one more."""
        self.state = state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
        if self.args.auto_find_batch_size and state.train_batch_size is not None:
            self._train_batch_size = state.train_batch_size  # as the parent will: there are other steps in an epoch
        self._count(-1)
        planned = self._planned_steps()
        prolonged = state.max_steps <= state.global_step < planned
        control = cast(dict[str, Any], state.stateful_callbacks or {}).get("TrainerControl", {}).get("args", {})
        stopped = state.global_step >= planned or (control.get("should_training_stop", False) and not prolonged)
        if (self.args.fp16_full_eval or self.args.bf16_full_eval) and not self.is_model_parallel:
            self._move_model_to_device(self._trained_model, self.args.device)  # the parent's `train` would
        self._load_from_checkpoint(checkpoint)
        self._begin_phase()
        saved = load_state(checkpoint)[0]
        self.progress.seed = self.progress.seed if saved.seed is None else saved.seed  # no rows are put in order here
        return self._end_if_over(stopped)

    def _planned_steps(self) -> int:
        # As the parent counts them; its own method changed its parameters within transformers 5.
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self.args.num_train_epochs * self._steps_in_epoch(self.get_train_dataloader()))

    def _steps_in_epoch(self, batches: DataLoader[Any]) -> int:
        return max(math.ceil(len(batches) / self.args.gradient_accumulation_steps), 1)

    # Going on with the training of the phase before: the parent resumes it from a folder that holds its state alone.

    def _leave(self) -> "Handover":
        """What the phase that is over leaves to the next: call it before the optimizer is renewed."""
        states = {}
        if self._over_in is None:
            states = {name: getattr(self, name).state_dict() for name in STATE_FILES}
        else:
            for file in STATE_FILES.values():
                if not os.path.isfile(os.path.join(self._over_in, file)):
                    raise ValueError(f"{self._over_in} holds no `{file}`, and the retraining goes on with it.")
        state = copy.copy(self.state)
        state.log_history = []  # it may hold what is no JSON, and is put back as the phase begins
        exportable = [
            part for part in (*self.callback_handler.callbacks, self.control) if isinstance(part, ExportableState)
        ]
        callbacks = cast(list[TrainerCallback], exportable)
        state.stateful_callbacks = TrainerState(stateful_callbacks=callbacks).stateful_callbacks
        state.best_metric = state.best_model_checkpoint = state.best_global_step = None  # of another model
        folder = tempfile.TemporaryDirectory()
        state.save_to_json(os.path.join(folder.name, TRAINER_STATE_NAME))
        return Handover(folder, states, self._over_in, self._epoch_rng if self._over_in is None else None)

    def _handed_over(self, checkpoint: str | None) -> "Handover | None":
        """What is handed over, if it is that which the parent takes for a checkpoint."""
        left = self._handover
        return left if left is not None and checkpoint == left.folder.name else None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        left = self._handed_over(checkpoint)
        if left is None or left.over_in is not None:
            super()._load_optimizer_and_scheduler(checkpoint if left is None else left.over_in)
            return
        for name, state in left.states.items():
            getattr(self, name).load_state_dict(state)

    def _load_scaler(self, checkpoint: str | None) -> None:
        left = self._handed_over(checkpoint)  # the accelerator still has it, unless the phase was over in a checkpoint
        super()._load_scaler(checkpoint if left is None else left.over_in)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._handed_over(checkpoint) is None:
            super()._load_rng_state(checkpoint)
            if self.args.ignore_data_skip or self.state.epoch == int(self.state.epoch or 0.0):
                self._epoch_rng = torch.get_rng_state()  # the epoch has begun, and its rows are not drawn yet
        else:
            # The same when it is resumed, whatever was drawn since.
            set_seed((self.args.seed + self.state.global_step) % 2**32)

    def _renew_optimizer(self) -> None:
        # An optimizer that the user made can't be made anew for a phase: it goes back to the state that it came in.
        if self._given_states is None:
            self._given_states = {name: copy.deepcopy(getattr(self, name).state_dict()) for name in self._given}
        for name in STATE_FILES:
            if name in self._given_states:
                getattr(self, name).load_state_dict(copy.deepcopy(self._given_states[name]))
            else:
                setattr(self, name, None)

    def _forget_optimizer(self) -> None:
        """Have nobody hold the optimizer of the phase before: its state is as large as two models."""
        self._renew_optimizer()
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        # All of `free_memory` but the model, which the parent would prepare, and measure that, at each evaluation.
        self.accelerator._optimizers.clear()
        self.accelerator._schedulers.clear()

    @property
    def _given(self) -> list[str]:
        """Which of optimizer and schedule the user made."""
        if self._given_states is None:
            return [name for name in STATE_FILES if getattr(self, name) is not None]
        return list(self._given_states)

    def _release_optimizer(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _put_weights_in_place(self) -> None:
        """Have an optimizer that trains on other weights than those that are its result (schedule-free) swap them."""
        if isinstance(self.optimizer, AcceleratedOptimizer):
            self.optimizer.eval()

    @property
    def _torch_optimizer(self) -> torch.optim.Optimizer | None:
        return None if self.optimizer is None else unwrapped(self.optimizer)

    @property
    def searching(self) -> bool:
        """Whether the search is what trains now."""
        return self._phase == "search"

    @property
    def _streams(self) -> bool:
        """Whether the training set is a stream, of which nobody knows how long it is."""
        return self.train_dataset is not None and not has_length(self.train_dataset)

    @property
    def _trained_model(self) -> nn.Module:
        return cast(nn.Module, self.model)

    @property
    def _output_dir(self) -> str:
        return str(self.args.output_dir)

    def _find_checkpoint(self, resume_from_checkpoint: Checkpoint) -> str | None:
        if not resume_from_checkpoint:
            return None
        if not isinstance(resume_from_checkpoint, bool):
            checkpoint = os.fspath(resume_from_checkpoint)
            require_whole(checkpoint)
            return checkpoint
        last: str | None = None
        if os.path.isdir(self._output_dir):
            last = get_last_checkpoint(self._output_dir)  # type: ignore[no-untyped-call]
        if last is None:
            raise ValueError(f"There is no checkpoint in {self._output_dir} to resume from.")
        require_whole(last)
        return last

    # Checkpoints.

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._saving_checkpoint = self._phase is not None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_checkpoint = False

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # First of all files, and so a mark of what a killed run leaves; the parent's state, which is the last, marks a
        # whole checkpoint.
        if self._saving_checkpoint and self.args.should_save:
            save_state(output_dir if output_dir is not None else self._output_dir, self.progress, self._phase_state())
        super()._save(output_dir, state_dict)

    def _load_callback_state(self) -> None:
        # The one method that the parent calls between reading a checkpoint's `TrainerState` and using it.
        self._count(-1)
        if self._handover is None:  # or they are as the phase before left them
            super()._load_callback_state()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *model: nn.Module | None) -> None:
        if self._handed_over(resume_from_checkpoint) is not None:
            return  # the weights are in place
        if self._phase is None or not load_renamed(self._trained_model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *model)

    def _load_best_model(self) -> None:
        if self._phase is None or not load_renamed(self._trained_model, str(self.state.best_model_checkpoint)):
            super()._load_best_model()
