"""`WormTrainer`: a `Trainer` that searches for a ticket while it trains, draws it, and retrains with it held."""

import copy
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput
from transformers.training_args import OptimizerNames

from hf_worm.checkpoint.older_names import load_renamed
from hf_worm.checkpoint.resume import Checkpoint, find_checkpoint, load_retraining, load_search, retrained_as
from hf_worm.checkpoint.state import Saved, load_run
from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.files import copy_code, replace_file
from hf_worm.report.card import correct_origin, extend_model_card
from hf_worm.report.metrics import sum_trainings
from hf_worm.report.progress import Progress
from hf_worm.report.progress_lines import none_left
from hf_worm.report.trade_off import Point
from hf_worm.report.worm_report import REPORT_NAME, build_report, report_json, set_aside
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket
from hf_worm.trainer import compat, cutting, refusals
from hf_worm.trainer.callback import put_weights_in_place
from hf_worm.trainer.distillation import Distillation
from hf_worm.trainer.optimizers import Optimizers
from hf_worm.trainer.phases import Phases, Start
from hf_worm.trainer.trade_off import trade_off

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object


class WormTrainerMixin(_Trainer):
    """Gives any `Trainer` subclass the three phases search → draw → retrain: `class My(WormTrainerMixin, Theirs): ...`

    [`~WormTrainerMixin.train`] runs all three within one call of the parent's; [`~WormTrainerMixin.search_ticket`],
    [`~WormTrainerMixin.draw_ticket`] and [`~WormTrainerMixin.retrain`] run one each.

    Args:
        args: Those of the parent class.
        worm_config (`WormConfig`, *optional*): The settings; `None` trains exactly as the parent class does.
        score, select, schedule, treatment (*optional*): Parts of one's own, as for [`TicketSearch`].
        kwargs: Those of the parent class.

    Attributes:
        search (`TicketSearch`, *optional*): The search, its masks and its history. One of a class or with parts of
            one's own may be assigned: each run searches as it does.
        ticket (`Ticket`, *optional*): The ticket, once it is drawn.
        progress (`Progress`): Steps, epochs, seconds and metrics of the phases so far.

    Raises:
        ValueError:
            A layer that the configuration names is missing or frozen, training is distributed in a way that is not
            supported (DeepSpeed, FSDP, Megatron-LM, XLA, `nn.DataParallel`), the optimizer steps in the backward pass
            (LOMO, layer-wise GaLore and APOLLO), or regardless of the size of gradients that are to be truncated (Lion,
            Rprop, signSGD, Muon). An optimizer that `args.optim` does not name is refused when training begins.
    """

    def __init__(
        self,
        *args: Any,
        worm_config: WormConfig | None = None,
        score: Any = None,
        select: Any = None,
        schedule: Any = None,
        treatment: Any = None,
        **kwargs: Any,
    ) -> None:
        self.ignored_keys: list[str] | None = None  # of a model's outputs, at the evaluations around the draw
        self.optimizers, self.distillation = Optimizers(self), Distillation(self)
        self._phases: Phases | None = None
        super().__init__(*args, **kwargs)
        if worm_config is None:
            return
        if not isinstance(worm_config, WormConfig):
            raise TypeError(f"`worm_config` must be a `WormConfig`, got a `{type(worm_config).__name__}`.")
        refusals.refuse_distribution(type(self).__name__, self.accelerator.distributed_type, self.args)
        parts = {"score": score, "select": select, "schedule": schedule, "treatment": treatment}
        phases = self._phases = Phases(self, worm_config, parts)
        phases.run.restore(self.trained_model)
        search = phases.run.searched
        refusals.refuse_optimizer(phases.owner, OptimizerNames(self.args.optim).value, search.scales_gradients)
        compat.insert_first(self, phases.stages)
        self.add_callback(phases)
        if worm_config.compact:
            refusals.refuse_compact(self.trained_model, search, self.optimizers.given)
            self.callback_handler = compat.OneRunHandler(self.callback_handler)

    # The three phases.

    def train(
        self,
        resume_from_checkpoint: Checkpoint = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """Search (`num_train_epochs` at the most) → draw → retrain (`retrain_epochs`, or what the search leaves).

        One training of the parent's, but for `compact=True`, which begins a second with the smaller model. A callback
        that sets `control.should_training_stop` ends the phase, as convergence does: the search is drawn, the
        retraining is the result. To stop a run and go on with it later, interrupt it.

        Where there is an `eval_dataset`, it is evaluated before and after the draw and after the retraining, whatever
        `eval_strategy` says: the report compares these three.

        Args:
            resume_from_checkpoint (`str`, `os.PathLike` or `bool`, *optional*):
                A checkpoint of either phase, or `True` for the last one in `output_dir`.
            trial, ignore_keys_for_eval, kwargs: As for the parent's `train`.

        Returns:
            `TrainOutput`: Of the whole run. Of a run that is resumed, as of any training resumed: of the rest.

        Raises:
            ValueError: The checkpoint is damaged, or of a run with other layers or settings.
            RuntimeError: A subclass has a `training_step` that truncates nothing.
        """
        options = {"trial": trial, "ignore_keys_for_eval": ignore_keys_for_eval, **kwargs}
        if self._phases is None:
            if isinstance(resume_from_checkpoint, os.PathLike):
                resume_from_checkpoint = os.fspath(resume_from_checkpoint)
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        config = self._phases.run.config
        refusals.refuse_stream_to_retrain(config, self.train_dataset)
        checkpoint = find_checkpoint(resume_from_checkpoint, str(self.args.output_dir))
        if checkpoint is not None and load_run(checkpoint).ticket is not None:
            return self.retrain(checkpoint, **options)
        if config.retrain_schedule == "restart" and config.retrain_epochs > 0 and self.train_dataset is not None:
            refusals.warn_of_warmup(self, config)
        output = self._train_twice(checkpoint, options) if config.compact else self._search(checkpoint, options, True)
        if trial is not None:
            # What a hyperparameter search was told last may be of the unpruned model; now it evaluates the result.
            self.objective: float | None = None
        return output

    def search_ticket(
        self, resume_from_checkpoint: Checkpoint = None, save: bool = False, **options: Any
    ) -> TrainOutput:
        """Train as usual, watching the masks and truncating from the trigger point on, until they have converged.

        Args:
            resume_from_checkpoint, options: As for `train`; the checkpoint is one of the search.
            save (`bool`, *optional*, defaults to `False`): Save a checkpoint where the search ends, whatever
                `save_strategy` says: `train` draws from it, with another `speedup` too.

        Raises:
            ValueError: The checkpoint is of the retraining, or epochs are to be counted of a set without a length.
        """
        self._running.run.saves = save
        try:
            return self._search(find_checkpoint(resume_from_checkpoint, str(self.args.output_dir)), options, False)
        finally:
            self._running.run.saves = False

    def draw_ticket(self) -> Ticket:
        """Set the weights that the newest mask prunes to 0; evaluate before and after, where there is an eval set.

        With `WormConfig(compact=True)`, `trainer.model` is a smaller model from here on.

        Returns:
            `Ticket`: Also kept as `trainer.ticket`.

        Raises:
            RuntimeError: Nothing was observed yet, or the ticket has been drawn already.
        """
        self._require_undrawn()
        self._running.draw(self.state)
        return self._running.run.drawn

    def retrain(self, resume_from_checkpoint: Checkpoint = None, **options: Any) -> TrainOutput:
        """Train on with the ticket held: for `retrain_epochs`, with a fresh optimizer and schedule.

        With `WormConfig(retrain_schedule="continue")`: with the optimizer and the schedule that the search left, to the
        end of what it was planned for.

        The ticket may be one that was found elsewhere: set `trainer.ticket` to it. With `WormConfig(compact=True)` it
        is cut out first.

        Args:
            resume_from_checkpoint, options: As for `train`; the checkpoint is one of the retraining.

        Raises:
            RuntimeError: There is no ticket yet, or no search to go on from.
            ValueError: The search left no step to go on with. The checkpoint is of a search, or of a retraining with
                another `retrain_schedule` or `compact`.
        """
        run = self._running.run
        checkpoint = find_checkpoint(resume_from_checkpoint, str(self.args.output_dir))
        saved = None if checkpoint is None else load_retraining(checkpoint, run.config)
        if saved is not None:
            self._restore(saved, str(checkpoint))
        run.ticket = retrained_as(run.drawn, run.config)
        self.distillation.begin(resumed=saved is not None)
        if run.config.compact and not self.compacted:
            cutting.cut_out(self, run)
        model_init, self.model_init = self.model_init, None  # type: ignore[assignment]  # a new model has no ticket
        try:
            if saved is None:
                return self._go_on(options)
            return self._train(Start(checkpoint, saved, restores=not self.compacted), options)
        finally:
            self.model_init = model_init

    def trade_off(self, speedups: Sequence[float]) -> list[Point]:
        """Evaluate the tickets of several speeds as they would be drawn by the scores of now; nothing is drawn.

        Args:
            speedups (`Sequence[float]`): Above 1, as in `WormConfig`.

        Returns:
            `list[Point]`: First the model as it is, then by speed: multiply-adds, measured speed, metrics. They are
            written to `worm_trade_off.json` and `worm_trade_off.png` in the run's folder as well.

        Raises:
            RuntimeError: Nothing was observed yet, or the ticket has been drawn already.
            ValueError: A speed can't be had, or `layers` are no heads and neurons.
        """
        self._require_undrawn()
        return trade_off(self, self._running.run, speedups)

    def observe(self) -> Observation:
        """Sample the masks, log what they show, and print it in a line."""
        return self._running.run.observe(self.state)

    def _require_undrawn(self) -> None:
        """Raise a `RuntimeError` unless a search has observed something that is not drawn yet."""
        run = self._running.run
        if run.ticket is not None:
            raise RuntimeError("The ticket is drawn already: begin anew with `search_ticket()`.")
        if not run.searched.history:
            raise RuntimeError("There is no mask to draw yet: call `search_ticket()` first.")

    def _search(self, checkpoint: str | None, options: dict[str, Any], draws: bool) -> TrainOutput:
        """Search and, if it draws, draw and retrain within the same training."""
        run = self._running.run
        refusals.refuse_stream_of_epochs(run.searched, self.train_dataset)
        saved = None if checkpoint is None else load_search(checkpoint)
        if checkpoint is not None and self.compacted:
            raise ValueError(
                f"{checkpoint} is of a search in the dense model, and this trainer's model is the compact one by now. "
                "Resume with a new trainer that is given the dense model."
            )
        run.ticket, run.rest, run.draws, self.distillation.teacher = None, None, draws, None
        return self._train(Start(checkpoint, saved), options)

    def _train(self, start: Start, options: dict[str, Any]) -> TrainOutput:
        """Run one training of the parent's, from its beginning or from a checkpoint."""
        phases = self._running
        self.ignored_keys = options.get("ignore_keys_for_eval")
        compat.note_trial(self, options.get("trial"))
        phases.start = start
        seed = (phases.run if start.saved is None else start.saved).progress.seed
        if start.checkpoint is not None and seed is not None:
            torch.manual_seed(seed)  # or the rows would come in another order than the run began with
        compat.move_last(self, phases)
        self.optimizers.renew()
        try:
            output = super().train(resume_from_checkpoint=start.checkpoint, **options)
            self.apply_ticket()  # whatever callbacks did to the weights at the end of training
            return output
        finally:
            phases.stop()
            phases.start = None
            self._tell_failed_pushes()

    def _train_twice(self, checkpoint: str | None, options: dict[str, Any]) -> TrainOutput:
        """Search, draw and retrain a smaller model: other parameters, and so another training."""
        handler = cast(compat.OneRunHandler, self.callback_handler)
        handler.another_follows = True
        try:
            searched = self._search(checkpoint, options, draws=False)
        finally:
            handler.another_follows = False
        self.draw_ticket()
        if self._running.run.config.retrain_epochs > 0:
            found = self.retrain(**options)
            steps = searched.global_step, found.global_step - searched.global_step
            metrics = sum_trainings(searched.metrics, found.metrics, steps)
            return TrainOutput(found.global_step, metrics["train_loss"], metrics)
        self.log_result("drawn")
        self.control = handler.tell_trackers(self.args, self.state, self.control)
        return searched

    def _go_on(self, options: dict[str, Any]) -> TrainOutput:
        """Retrain after a search of this trainer's, as a training resumed; or a ticket from elsewhere, from step 0."""
        run, state = self._running.run, self.state
        if "search" not in run.progress.steps:
            if not run.restarts:
                raise RuntimeError(
                    "`retrain_schedule='continue'` goes on with a search's optimizer, and there was none."
                )
            refusals.warn_of_warmup(self, run.config)  # or it was told before that
        if not run.restarts and state.global_step >= state.max_steps:
            raise ValueError(none_left(run.progress, run.config))
        run.begin_retraining(state)
        # The first training's summary is not that of the run.
        log = [entry for entry in state.log_history if "train_loss" not in entry]
        start = Start(restores=False, log=log, seeds=run.restarts)
        if not state.global_step:
            return self._train(start, options)
        with tempfile.TemporaryDirectory() as folder, compat.callbacks_kept(self):
            compat.leave(self, folder, optimizer=not run.restarts)
            if not run.restarts:
                self.args.ignore_data_skip = refusals.streams(self.train_dataset)  # a stream can't go on within
            return self._train(start._replace(checkpoint=folder), options)

    def _restore(self, saved: Saved, checkpoint: str) -> None:
        """Put the run where a checkpoint of its retraining was saved."""
        run = self._running.run
        if self.compacted:
            run.ticket, run.progress = saved.ticket, copy.deepcopy(saved.progress)
            return
        try:
            run.restore(self.trained_model, saved)
        except ValueError as error:
            if not run.config.compact:
                raise
            raise ValueError(
                f"{checkpoint} is of a retraining after what was pruned had been cut out, which is done once more: "
                f"resume it with the dense model that the run began with. {error}"
            ) from error

    def _tell_failed_pushes(self) -> None:
        for error in compat.failed_pushes(self):
            cause = error if isinstance(error, HfHubHTTPError) or error.__cause__ is None else error.__cause__
            warnings.warn(
                f"A push to `{self.hub_model_id}` while training failed. `trainer.push_to_hub()` pushes all that is in "
                f"{self.args.output_dir}. {type(cause).__name__}: {str(cause).strip()}",
                stacklevel=4,
            )

    # Steps, optimizer and schedule.

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The parent's step; once the last micro-batch of an optimizer step is in, the gradients are truncated."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.searching and self.accelerator.sync_gradients:
            self._running.take_gradients(compat.loss_scale(self.accelerator))
        return loss

    def compute_loss(  # type: ignore[override]  # a parent's own may take no number of items
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The parent's; in a retraining with distillation, a share of it is the distance to the model before the draw.

        Args:
            model, inputs, return_outputs, kwargs: As the parent's own.
        """
        if not (model.training and self.distillation.teacher is not None and self.ticket is not None):
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        given = dict(inputs)  # the parent may take the labels out
        loss, outputs = super().compute_loss(model, inputs, True, **kwargs)
        loss = self.distillation.mixed(loss, outputs, given, kwargs.get("num_items_in_batch"))
        return (loss, outputs) if return_outputs else loss

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's, with the steps and epochs of the retraining, or of none where a checkpoint leaves none."""
        values = super().set_initial_training_values(*args, **kwargs)
        if self._phases is None or self._phases.start is None:
            return values
        epochs, steps_per_epoch, *others, planned = values
        start = self._phases.start
        total, done = self._phases.plan(start, epochs, steps_per_epoch, planned)
        others[1] = cast(int, others[1]) * total // max(planned, 1)  # samples
        self._phases.stages.planned = total
        if done is not None:
            epochs = done // steps_per_epoch
            compat.load_random_states(self, str(start.checkpoint))
        elif epochs != sys.maxsize:
            epochs = math.ceil(total / steps_per_epoch)
        return (epochs, steps_per_epoch, *others, total)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The parent's, over the steps of the phase alone where the retraining has a schedule of its own."""
        if self._phases is not None and self._phases.run.restarts:
            run = self._phases.run
            num_training_steps = run.search_steps if run.ticket is None else run.retraining_steps
        return super().create_scheduler(num_training_steps, optimizer)

    # The evaluations, and a smaller model.

    def evaluate_stage(self, stage: str) -> dict[str, float] | None:
        """Evaluate the model before the draw, after it, or as the result; see [`~hf_worm.trainer.stages`]."""
        return self._running.stages.evaluate(self, stage)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The parent's, on the weights that would be saved."""
        self.apply_ticket()
        return super().evaluation_loop(*args, **kwargs)

    def apply_ticket(self) -> None:
        """Set what the ticket prunes to 0, whatever was done to the weights since the last step."""
        if self._phases is not None:
            self._phases.run.apply_(self.trained_model)

    def log_result(self, stage: str) -> None:
        """Log a stage's metrics by their plain names too: a model card would have the last that the log has of them."""
        metrics = self.progress.metrics.get(stage, {})
        if metrics:
            self.log({f"eval_{name}": value for name, value in metrics.items()})

    @property
    def compacted(self) -> bool:
        """True if what the ticket prunes has been cut out of the model."""
        return self._phases is not None and self._phases.run.rest is not None

    # What is saved.

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.apply_ticket()
        folder = output_dir if output_dir is not None else str(self.args.output_dir)
        checkpoint = Path(folder).name == f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        run = None if self._phases is None else self._phases.run
        writes = checkpoint and run is not None and run.training and self.args.should_save
        if run is not None and writes:
            # First of all files, and so a mark of what a killed run leaves; the parent's state, which is the last,
            # marks a whole checkpoint.
            run.save(folder)
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self._save_ticket(folder)
        if writes and self.args.push_to_hub and compat.wait_for_push(self):  # the parent copies the weights alone
            self._save_ticket(str(self.args.output_dir))
            copy_code(folder, str(self.args.output_dir))

    def _save_ticket(self, folder: str) -> None:
        if self.ticket is not None:
            self.ticket.save_pretrained(folder)
        elif self._phases is not None and self.state.global_step:  # it has trained
            set_aside(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *model: nn.Module | None) -> None:
        phases = self._phases
        start = Start() if phases is None or phases.start is None else phases.start
        if start.checkpoint == resume_from_checkpoint and start.saved is None:
            return  # another training has left it, with the weights in place
        if phases is None or not load_renamed(self.trained_model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *model)

    def _load_best_model(self) -> None:
        phases = self._phases
        if phases is not None:
            if phases.run.searching:
                return  # the ticket is found on the weights at convergence, and drawn from them
            put_weights_in_place(self.optimizer)  # now, or they would be put in place of the best
            if load_renamed(self.trained_model, str(self.state.best_model_checkpoint)):
                return
        super()._load_best_model()

    def report(self) -> dict[str, Any]:
        """Report the run as `worm_report.json` does: metrics, phases, observations and the account of weights.

        Raises:
            RuntimeError: There is no ticket yet.
        """
        run = self._running.run
        return build_report(run.drawn, run.progress, self.trained_model, run.account)

    def write_report(self) -> None:
        """Write `worm_report.json` into the run's folder."""
        if self.is_world_process_zero():
            replace_file(Path(compat.run_folder(self)) / REPORT_NAME, report_json(self.report()))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The parent's card, and what the ticket prunes, how it was found, what it cost, and how to load the model."""
        super().create_model_card(*args, **kwargs)
        folder = str(self.args.output_dir)
        if not self.is_world_process_zero() or not (Path(folder) / "README.md").is_file():
            return  # the latter is of parents that write none
        correct_origin(folder, self.trained_model)
        if self.ticket is not None:
            extend_model_card(folder, self.hub_model_id or self.args.hub_model_id, self.report())

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's; the model is saved whatever the Hub answers."""
        if self.hub_model_id is None:  # then the parent asks for the repository first
            self.save_model(_internal_call=True)
        return super().push_to_hub(*args, **kwargs)

    # What there is.

    @property
    def worm_config(self) -> WormConfig | None:
        """The settings, which may be exchanged between the phases."""
        return None if self._phases is None else self._phases.run.config

    @worm_config.setter
    def worm_config(self, config: WormConfig) -> None:
        self._running.run.config = config

    @property
    def search(self) -> TicketSearch | None:
        """The search, its masks and its history."""
        return None if self._phases is None else self._phases.run.search

    @search.setter
    def search(self, search: TicketSearch) -> None:
        self._running.run.adopt(search)

    @property
    def ticket(self) -> Ticket | None:
        """The ticket, once it is drawn."""
        return None if self._phases is None else self._phases.run.ticket

    @ticket.setter
    def ticket(self, ticket: Ticket | None) -> None:
        self.distillation.teacher = None  # it is another ticket's
        self._running.run.ticket = ticket

    @property
    def progress(self) -> Progress:
        """Steps, epochs, seconds and metrics of the phases so far."""
        return Progress() if self._phases is None else self._phases.run.progress

    @property
    def searching(self) -> bool:
        """True while the search trains."""
        return self._phases is not None and self._phases.run.searching

    @property
    def trained_model(self) -> nn.Module:
        """The model out of wrappers."""
        return cast(nn.Module, self.model)

    @property
    def _running(self) -> Phases:
        if self._phases is None:
            raise RuntimeError("This trainer has no `worm_config`: it can `train()`, as its parent class does.")
        return self._phases


class WormTrainer(WormTrainerMixin, Trainer):
    """`Trainer` with the three phases of [`WormTrainerMixin`].

    ```python
    trainer = WormTrainer(model=model, args=args, train_dataset=dataset, worm_config=WormConfig())
    trainer.train()
    ```
    """
