"""Trackers of experiments (MLflow, Trackio, ClearML, ...), for which several trainings are one run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import CallbackHandler

TRACKERS = tuple(INTEGRATION_TO_CALLBACK.values())


@contextmanager
def one_run(trainer: Trainer) -> Iterator[None]:
    """Tell trackers of the end once, after this block, and not after each training within it.

    Many end their run then, and begin another with what is logged next. Other callbacks see every end: they close
    progress bars, for one.

    Args:
        trainer (`Trainer`): The trainer whose callbacks they are.
    """
    handler = trainer.callback_handler
    tell = handler.on_train_end

    def tell_others(*args: Any) -> TrainerControl:
        with _only(handler, lambda callback: not isinstance(callback, TRACKERS)):
            control: TrainerControl = tell(*args)
            return control

    setattr(handler, "on_train_end", tell_others)  # noqa: B010 (a method, to type checkers)
    try:
        yield
    finally:
        del handler.on_train_end
    with _only(handler, lambda callback: isinstance(callback, TRACKERS)):
        trainer.control = tell(trainer.args, trainer.state, trainer.control)


@contextmanager
def _only(handler: CallbackHandler, chosen: Callable[[TrainerCallback], bool]) -> Iterator[None]:
    callbacks = handler.callbacks
    handler.callbacks = [callback for callback in callbacks if chosen(callback)]
    try:
        yield
    finally:
        handler.callbacks = callbacks
