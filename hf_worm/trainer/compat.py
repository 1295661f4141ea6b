"""Seams of transformers and accelerate without a promise: each is touched here alone, by a small function.

`WormTrainerMixin` overrides four more: `_save`, `_load_from_checkpoint`, `_load_best_model` and, of a public name,
`set_initial_training_values`. tests/trainer/test_compat.py fails where one of them moves, or is called otherwise.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerState
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import CallbackHandler, ExportableState, TrainerControl

TRACKERS = tuple(INTEGRATION_TO_CALLBACK.values())  # of experiments: MLflow, Trackio, ClearML, ...


class OneRunHandler(CallbackHandler):
    """Tells trackers of experiments the end of the last of several trainings alone.

    Many end their run then, and begin another with what is logged next. Other callbacks hear every end: they close
    progress bars, for one.

    Args:
        handler (`CallbackHandler`): Whose place it takes.
    """

    def __init__(self, handler: CallbackHandler) -> None:
        vars(self).update(vars(handler))
        self.another_follows = False

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Tell all callbacks or, where another training follows, all but trackers."""
        others = [callback for callback in self.callbacks if not isinstance(callback, TRACKERS)]
        return self._tell_end(others if self.another_follows else self.callbacks, args, state, control, **kwargs)

    def tell_trackers(self, args: Any, state: TrainerState, control: TrainerControl) -> TrainerControl:
        """Tell trackers alone the end of the run."""
        trackers = [callback for callback in self.callbacks if isinstance(callback, TRACKERS)]
        return self._tell_end(trackers, args, state, control)

    def _tell_end(self, callbacks: list[Any], *given: Any, **kwargs: Any) -> TrainerControl:
        everyone, self.callbacks = self.callbacks, callbacks
        try:
            told: TrainerControl = super().on_train_end(*given, **kwargs)
        finally:
            self.callbacks = everyone
        return told


def insert_first(trainer: Trainer, callback: TrainerCallback) -> None:
    """Add a callback that is called before all others."""
    trainer.callback_handler.callbacks.insert(0, callback)


def move_last(trainer: Trainer, callback: TrainerCallback) -> None:
    """Have a callback be called after all others that there are by now."""
    callbacks = trainer.callback_handler.callbacks
    callbacks.append(callbacks.pop(callbacks.index(callback)))


def describe_bar(trainer: Trainer, phase: str, steps: int) -> None:
    """Show the phase, and the number of steps that the run will have, in the Trainer's progress bar."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
            callback.training_bar.total = steps
            callback.training_bar.set_description(phase)


def first_batch(trainer: Trainer) -> dict[str, Any]:
    """Return the first batch of the training set, on the device."""
    batch: dict[str, Any] = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    return batch


def note_trial(trainer: Trainer, trial: Any) -> None:
    """Note the trial of a hyperparameter search, or that there is none, ahead of the parent."""
    trainer._trial = trial


def run_folder(trainer: Trainer) -> str:
    """Return the folder of the run: `output_dir`, or a trial's own within it."""
    folder: str = trainer._get_output_dir(getattr(trainer, "_trial", None))
    return folder


def loss_scale(accelerator: Accelerator) -> torch.Tensor | None:
    """Return the factor by which a `GradScaler` has multiplied the loss, without a synchronisation; else `None`."""
    scaler = getattr(accelerator, "scaler", None)
    scale: torch.Tensor | None = None if scaler is None else scaler._scale
    return scale


def swap_model(trainer: Trainer, model: nn.Module) -> None:
    """Have the Trainer and its callbacks go on with another model."""
    trainer.model = trainer.model_wrapped = trainer.callback_handler.model = model


def forget_optimizer(trainer: Trainer) -> None:
    """Let go of the optimizer and the schedule of a training: their state is as large as two models."""
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    # `free_memory` would forget the model too, which the parent would prepare, and measure that, at each evaluation.
    trainer.accelerator._optimizers.clear()
    trainer.accelerator._schedulers.clear()


def forget_best(state: TrainerState) -> None:
    """Have a Trainer find the best of its models anew."""
    state.best_metric = state.best_model_checkpoint = state.best_global_step = None


def leave(trainer: Trainer, folder: str, optimizer: bool) -> None:
    """Write a checkpoint that a training goes on from, without the weights, which are in place.

    Args:
        trainer (`Trainer`): The trainer, whose training has ended.
        folder (`str`): The checkpoint's folder.
        optimizer (`bool`): Whether the training goes on with the optimizer and the schedule.
    """
    if optimizer:
        trainer._save_optimizer_and_scheduler(folder)
        trainer._save_scaler(folder)
    trainer._save_rng_state(folder)
    state = copy.copy(trainer.state)
    state.log_history = []  # it may hold values that JSON does not know, and is put back when the next training begins
    forget_best(state)  # of unpruned models
    parts: Any = [
        part for part in (*trainer.callback_handler.callbacks, trainer.control) if isinstance(part, ExportableState)
    ]
    state.stateful_callbacks = TrainerState(stateful_callbacks=parts).stateful_callbacks
    state.save_to_json(os.path.join(folder, TRAINER_STATE_NAME))


def load_random_states(trainer: Trainer, checkpoint: str) -> None:
    """Put the random states where a checkpoint has them; the parent does so in the first epoch that it trains."""
    trainer._load_rng_state(checkpoint)


def was_stopped(state: TrainerState) -> bool:
    """True if a checkpoint was saved after something had ended the training."""
    saved: Any = state.stateful_callbacks or {}
    return bool(saved.get("TrainerControl", {}).get("args", {}).get("should_training_stop", False))


@contextmanager
def callbacks_kept(trainer: Trainer) -> Iterator[None]:
    """Have callbacks go on as they are through a training that the parent takes for a resumed one."""
    args = trainer.args
    trainer.args = copy.copy(args)
    trainer.args.restore_callback_states_from_checkpoint = False
    try:
        yield
    finally:
        trainer.args = args


def failed_pushes(trainer: Trainer) -> Iterator[BaseException]:
    """Yield the errors of pushes while training, which the parent waits for and does not look at; each once."""
    push = getattr(trainer, "push_in_progress", None)
    if push is not None:
        jobs, push.jobs = push.jobs, []
        yield from filter(None, (job.exception() for job in jobs))


def wait_for_push(trainer: Trainer) -> bool:
    """Wait until no push reads the files in `output_dir`, where the parent begins another beside it.

    Returns:
        `bool`: Whether the parent will push the checkpoint that is being saved.
    """
    push = getattr(trainer, "push_in_progress", None)
    if push is None or push.is_done():
        return True
    if trainer.args.hub_always_push:
        trainer._finish_current_push()
    return bool(trainer.args.hub_always_push)
