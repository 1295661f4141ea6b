"""What a run says of itself: the evaluations around the draw, its report, its model card."""

import copy
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_worm.config import WormConfig
from hf_worm.files import replace_file
from hf_worm.report.card import correct_origin, extend_model_card
from hf_worm.report.loading import model_name, origin
from hf_worm.report.metrics import NOT_METRICS, STAGES, is_number
from hf_worm.report.worm_report import REPORT_NAME, build_report, report_json, set_aside
from hf_worm.ticket import Ticket
from hf_worm.trainer.messages import NO_CONFIG
from hf_worm.trainer.phases import PhasedTrainerMixin
from hf_worm.trainer.randomness import own_random_numbers


class StageNames(TrainerCallback):
    """Logs an evaluation around the draw under names of its own, such as `eval_drawn_accuracy`.

    It has to be the first callback: then it follows all that the parents' `log` add to the metrics under plain names,
    and comes before all that read them.

    Args:
        prefix (`str`): Stands for `"eval_"` in the names.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for entry in (kwargs["logs"], state.log_history[-1]):
            _rename(entry, "eval_", self.prefix)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        _rename(kwargs["metrics"], self.prefix, "eval_")  # the Trainer logs the very metrics that it returns


def _rename(metrics: dict[str, float], old: str, new: str) -> None:
    renamed = {new + name.removeprefix(old) if name.startswith(old) else name: metrics[name] for name in metrics}
    metrics.clear()
    metrics.update(renamed)


class ReportingTrainerMixin(PhasedTrainerMixin):
    """Evaluates a ticket's stages, and writes what came of them.

    Attributes:
        worm_config (`WormConfig`, *optional*): The settings; `None` trains as the parent class does.
        ticket (`Ticket`, *optional*): The ticket, once it is drawn.
    """

    worm_config: WormConfig | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ticket: Ticket | None = None
        self._dense_account: dict[str, Any] | None = None  # of the model before the ticket was cut out of it
        self._trial: Any = None  # of a hyperparameter search; each has a folder
        super().__init__(*args, **kwargs)

    def _evaluate_stage(self, stage: str) -> None:
        # The trainers of sentence-transformers evaluate by an `evaluator` as well, with or without a data set.
        if self.eval_dataset is None and getattr(self, "evaluator", None) is None:
            return
        # After the retraining it is the result of the run, and goes by the plain names.
        names = StageNames("eval_" if stage == "retrained" else f"eval_{stage}_")
        self.callback_handler.callbacks.insert(0, names)
        in_train, self.is_in_train = self.is_in_train, True  # or `fp16_full_eval` would cast the weights for good
        try:
            with self._own_random_numbers():  # stages are compared: they are to guess the same masked tokens
                metrics = self.evaluate() or {}  # a method of one's own may return nothing
        finally:
            self.remove_callback(names)
            self.is_in_train = in_train
        self.progress.metrics[stage] = {
            name.removeprefix("eval_"): value
            for name, value in metrics.items()
            if name.startswith("eval_") and not name.endswith(NOT_METRICS) and is_number(value)
        }
        if self.is_world_process_zero() and not self.args.disable_tqdm:  # with it, what is logged is printed
            found = ", ".join(f"{name} {value:.4f}" for name, value in self.progress.metrics[stage].items())
            tqdm.write(f"{STAGES[stage]}: {found}")

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Those of the seed, and from a collator that has a seed of its own, those of that."""
        collator: Any = self.data_collator
        if getattr(collator, "seed", None) is not None and hasattr(collator, "generator"):
            self.data_collator = own = copy.copy(collator)
            own.generator = None  # it makes one at its first batch
        try:
            with own_random_numbers(self.args.seed):
                yield
        finally:
            self.data_collator = collator

    def _log_result(self, stage: str) -> None:
        """Log a stage's metrics by their plain names too: a model card would have the last that the log has of them."""
        metrics = self.progress.metrics.get(stage, {})
        if metrics:
            self.log({f"eval_{name}": value for name, value in metrics.items()})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The parent's card, and what the ticket prunes, how it was found, what it cost, and how to load the model.

        Args:
            args, kwargs: As the parent's own: TRL's trainers take other arguments than the `Trainer`.
        """
        log = self.state.log_history
        ends = [place for place, entry in enumerate(log) if "train_loss" in entry][:-1]
        # The parent's table of results ends where the first training does.
        self.state.log_history = [
            {name: value for name, value in entry.items() if name != "train_runtime"} if place in ends else entry
            for place, entry in enumerate(log)
        ]
        try:
            super().create_model_card(*args, **kwargs)
        finally:
            self.state.log_history = log
        if not self.is_world_process_zero() or not (Path(self._output_dir) / "README.md").is_file():
            return  # the latter is of parents that write none
        correct_origin(self._output_dir, origin(self._trained_model), model_name(self._trained_model))
        if self.ticket is not None:
            extend_model_card(self._output_dir, self.hub_model_id or self.args.hub_model_id, self.report())

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's; the model is saved whatever the Hub answers.

        Args:
            args, kwargs: As the parent's own.
        """
        if self.hub_model_id is None:  # then the parent asks for the repository first
            self.save_model(_internal_call=True)
        return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """The parent's, of a whole model, and not while an earlier push reads the files that this one writes over.

        The parent begins the next one beside it (`hub_always_push`): a commit then has some files of either.
        """
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            if self.args.hub_always_push:
                self._finish_current_push()
            elif self.push_in_progress is not None and not self.push_in_progress.is_done():
                return
            self._save_ticket(self._output_dir)  # the parent copies the weights alone
            for code in Path(checkpoint_folder).glob("*.py"):  # of a model that carries it
                shutil.copy(code, self._output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def _finish_current_push(self) -> None:
        """The parent's, which waits and doesn't look; a push of a checkpoint that failed is told."""
        super()._finish_current_push()
        push = self.push_in_progress if self.hub_model_id is not None else None
        if push is None:
            return
        for error in filter(None, [job.exception() for job in push.jobs]):
            cause = error if isinstance(error, HfHubHTTPError) or error.__cause__ is None else error.__cause__
            warnings.warn(
                f"A push to `{self.hub_model_id}` while training failed. `trainer.push_to_hub()` pushes all that is in "
                f"{self._output_dir}. {type(cause).__name__}: {str(cause).strip()}",
                stacklevel=2,
            )
        push.jobs = []  # told once

    def _save_ticket(self, folder: str) -> None:
        if self.ticket is not None:
            self.ticket.save_pretrained(folder)
        elif self.worm_config is not None and self.state.global_step:  # it has trained
            set_aside(folder)

    def report(self) -> dict[str, Any]:
        """What the run did, as `worm_report.json` has it: metrics, phases, observations and the account of weights.

        Raises:
            RuntimeError: There is no ticket yet.
        """
        return build_report(self._drawn, self.progress, self._trained_model, self._dense_account)

    def _write_report(self) -> None:
        if self.is_world_process_zero():
            folder = self._output_dir if self._trial is None else self._get_output_dir(self._trial)
            replace_file(Path(folder) / REPORT_NAME, report_json(self.report()))

    @property
    def _drawn(self) -> Ticket:
        if self.ticket is None:
            todo = "There is no ticket yet: call `search_ticket()` and `draw_ticket()` first."
            raise RuntimeError(NO_CONFIG if self.worm_config is None else todo)
        return self.ticket
