"""The evaluations around the draw, under names of their own."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import set_seed

from hf_worm.core.random_states import random_states_kept
from hf_worm.report.metrics import rename_, stage_metrics
from hf_worm.report.progress_lines import stage_line

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin


class Stages(TrainerCallback):
    """Evaluates around the draw, and logs it under names of its own, such as `eval_drawn_accuracy`.

    It has to be the first callback: then it follows all that the parents' `log` add to the metrics under plain names,
    and comes before all that read them. For the same reason it is the one that tells the end of training, ahead of
    trackers, which end their run at it.

    Args:
        at_end (`Callable`): Called with the state and the control when training has ended.
    """

    def __init__(self, at_end: Callable[[TrainerState, TrainerControl], None]) -> None:
        self.prefix = "eval_"
        self.at_end = at_end
        self.planned = 0  # optimizer steps that the training was planned for, by which the parent counts rows

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Rename the metrics in the log; count the rows of the search's steps that were not taken out of its rate."""
        for entry in (kwargs["logs"], state.log_history[-1]):
            rename_(entry, "eval_", self.prefix)
            if "train_samples_per_second" in entry and self.planned:
                entry["train_samples_per_second"] *= state.max_steps / self.planned

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the plain names back: the Trainer logs the very metrics that it returns."""
        rename_(kwargs["metrics"], self.prefix, "eval_")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.at_end(state, control)

    def evaluate(self, trainer: "WormTrainerMixin", stage: str) -> dict[str, float] | None:
        """Evaluate the model at a stage, on the same input as at every other.

        Args:
            trainer (`WormTrainerMixin`): The trainer.
            stage (`str`): `"before_draw"`, `"drawn"` or, as the result under plain names, `"retrained"`.

        Returns:
            `dict[str, float]`: Numbers among the metrics, without `eval_`; `None` without anything to evaluate on.
        """
        # The trainers of sentence-transformers evaluate by an `evaluator` as well, with or without a data set.
        if trainer.eval_dataset is None and getattr(trainer, "evaluator", None) is None:
            return None
        ignored = trainer.ignored_keys
        in_train, trainer.is_in_train = trainer.is_in_train, True  # or `fp16_full_eval` would cast the weights for good
        control = copy.copy(vars(trainer.control))  # a callback may ask to stop at a metric, which is not training's
        self.prefix = "eval_" if stage == "retrained" else f"eval_{stage}_"
        try:
            with same_random_numbers(trainer):
                # A method of one's own may return nothing, or know no `ignore_keys`.
                metrics = (trainer.evaluate() if ignored is None else trainer.evaluate(ignore_keys=ignored)) or {}
        finally:
            self.prefix = "eval_"
            trainer.is_in_train = in_train
            vars(trainer.control).update(control)
        numbers = stage_metrics(metrics)
        if trainer.is_world_process_zero() and not trainer.args.disable_tqdm:  # with it, what is logged is printed
            tqdm.write(stage_line(stage, numbers))
        return numbers


@contextmanager
def same_random_numbers(trainer: "WormTrainerMixin") -> Iterator[None]:
    """Draw random numbers from the seed, and from a collator's own seed, and leave all random states as they were.

    The tokens that a masked language model has to guess are then the same every time.
    """
    collator: Any = trainer.data_collator
    if getattr(collator, "seed", None) is not None and hasattr(collator, "generator"):
        trainer.data_collator = own = copy.copy(collator)
        own.generator = None  # it makes one at its first batch
    try:
        with random_states_kept():
            set_seed(trainer.args.seed)
            yield
    finally:
        trainer.data_collator = collator
