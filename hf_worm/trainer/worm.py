"""`WormTrainer`: a `Trainer` that searches for a ticket while it trains, draws it, and retrains with it held."""

import copy
import dataclasses
import math
import os
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, set_seed

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.report.progress import Progress, load_state
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket
from hf_worm.trainer.callback import PhaseCallback
from hf_worm.trainer.counting import together
from hf_worm.trainer.cutting import CuttingTrainerMixin
from hf_worm.trainer.messages import NO_CONFIG, none_left, observation_line
from hf_worm.trainer.phases import Checkpoint
from hf_worm.trainer.refusals import refuse_compact, refuse_optimizer, refuse_unsupported
from hf_worm.trainer.trackers import one_run


class WormTrainerMixin(CuttingTrainerMixin):
    """Gives any `Trainer` subclass the three phases search → draw → retrain: `class My(WormTrainerMixin, Theirs): ...`

    [`~WormTrainerMixin.train`] runs all three; [`~WormTrainerMixin.search_ticket`], [`~WormTrainerMixin.draw_ticket`]
    and [`~WormTrainerMixin.retrain`] run one each.

    Args:
        args: What the parent class takes.
        worm_config (`WormConfig`, *optional*): The settings; `None` trains exactly as the parent class does.
        kwargs: What the parent class takes.

    Attributes:
        search (`TicketSearch`, *optional*): The search, its masks and its history.
        ticket (`Ticket`, *optional*): The ticket, once it is drawn.

    Raises:
        ValueError:
            A layer that the configuration names is missing or frozen, training is distributed in a way that is not
            supported (DeepSpeed, FSDP, Megatron-LM, XLA, `nn.DataParallel`), the optimizer steps in the backward pass
            (LOMO, layer-wise GaLore and APOLLO), or regardless of the size of gradients that are to be truncated (Lion,
            Rprop, signSGD, Muon). An optimizer that `args.optim` does not name is refused when training begins.
    """

    def __init__(self, *args: Any, worm_config: WormConfig | None = None, **kwargs: Any) -> None:
        self.worm_config = worm_config
        self.search: TicketSearch | None = None
        self._training_step_ran = False  # that of this class, at least once
        super().__init__(*args, **kwargs)
        if worm_config is not None:
            refuse_unsupported(self, worm_config)
            self.search = TicketSearch(self._trained_model, worm_config)
            if worm_config.compact:
                refuse_compact(self._trained_model, self.search, "optimizer" in self._given)
            self.add_callback(PhaseCallback(self, worm_config))

    # The three phases.

    def train(
        self,
        resume_from_checkpoint: Checkpoint = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """Search (`num_train_epochs` at the most) → draw → retrain (`retrain_epochs`, or what the search leaves).

        A callback that sets `control.should_training_stop` ends the phase, as convergence does: the search is drawn,
        the retraining is the result. To stop a run and go on with it later, interrupt it.

        Where there is an `eval_dataset`, it is evaluated before and after the draw and after the retraining, whatever
        `eval_strategy` says: the report compares these three.

        Args:
            resume_from_checkpoint (`str`, `os.PathLike` or `bool`, *optional*):
                A checkpoint of either phase, or `True` for the last one in `output_dir`.
            trial, ignore_keys_for_eval, kwargs: As for the parent's `train`.

        Returns:
            `TrainOutput`: Of both phases together: the steps, `train_runtime` and rates of both, and the mean loss over
            the steps of both. Of a run that is resumed in the retraining, as of any training resumed: of the rest.

        Raises:
            ValueError: The checkpoint is damaged, or of a run with other layers or settings.
            RuntimeError: A subclass has a `training_step` that truncates nothing.
        """
        options = {"trial": trial, "ignore_keys_for_eval": ignore_keys_for_eval, **kwargs}
        if self.worm_config is None:
            if isinstance(resume_from_checkpoint, os.PathLike):
                resume_from_checkpoint = os.fspath(resume_from_checkpoint)
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        restarts = self.worm_config.retrain_schedule == "restart"
        if restarts and self.worm_config.retrain_epochs > 0 and self._streams:
            raise ValueError(
                f"`retrain_epochs={self.worm_config.retrain_epochs}` needs a training set with a length, got "
                f"`{type(self.train_dataset).__name__}`. Let the search's schedule go on, with `max_steps` for both "
                "(`retrain_schedule='continue'`), or set `retrain_epochs=0`."
            )
        checkpoint = self._find_checkpoint(resume_from_checkpoint)
        self._trial = trial
        with one_run(self):
            if checkpoint is not None and load_state(checkpoint)[0].phase == "retrain":
                return self.retrain(checkpoint, **options)
            if restarts and self.worm_config.retrain_epochs > 0 and self.train_dataset is not None:
                self._warn_of_warmup()
            output = self.search_ticket(checkpoint, **options)
            self.draw_ticket()
            wanted, left = self.worm_config.retrain_epochs > 0, restarts or self._steps_left() > 0
            if wanted and left:
                output = together(output, self.retrain(**options), goes_on=not restarts)
            else:
                if wanted and self._drawn.converged:  # of masks that had not converged, the draw has warned
                    warnings.warn(
                        f"{none_left(self.progress, self._config)} The drawn model is the result.", stacklevel=2
                    )
                self._log_result("drawn")
        if trial is not None:
            # What a hyperparameter search was told last may be of the unpruned model; now it evaluates the result.
            self.objective: float | None = None
        return output

    def search_ticket(self, resume_from_checkpoint: Checkpoint = None, **options: Any) -> TrainOutput:
        """Train as usual, watching the masks and truncating from the trigger point on, until they have converged.

        Args:
            resume_from_checkpoint (`str`, `os.PathLike` or `bool`, *optional*):
                A checkpoint of the search, as for `train`.
            options: Passed on to the parent's `train`.

        Raises:
            ValueError:
                The weights are to fade, and the training set has no length: there are no epochs to count. The
                checkpoint is of the retraining.
        """
        if self._config.truncation_target == "fade" and self._streams:
            raise ValueError(
                "`truncation_target='fade'` counts by epochs and needs a training set with a length, got "
                f"`{type(self.train_dataset).__name__}`. Use `truncation_target='update'`, or a loop of your own with "
                "`search.attach(optimizer, steps_per_epoch=...)`."
            )
        checkpoint = self._find_checkpoint(resume_from_checkpoint)
        if checkpoint is not None:
            if load_state(checkpoint)[0].phase == "retrain":
                raise ValueError(f"{checkpoint} is of the retraining: resume it with `train` or `retrain`.")
            self._require_dense(checkpoint)
        self.ticket, self._rest, self._dense_account = None, None, None
        self.progress = Progress()
        output = self._train_phase("search", checkpoint, options)
        if not self._search.history:
            self.observe()
        return output

    def draw_ticket(self) -> Ticket:
        """Set the weights that the newest mask prunes to 0; evaluate before and after, where there is an eval set.

        With `WormConfig(compact=True)`, `trainer.model` is a smaller model from here on.

        Returns:
            `Ticket`: Also kept as `trainer.ticket`.

        Raises:
            RuntimeError: Nothing was observed yet, or the ticket has been drawn already.
        """
        if self.ticket is not None:
            raise RuntimeError("The ticket is drawn already: begin anew with `search_ticket()`.")
        if not self._search.history:
            raise RuntimeError("There is no mask to draw yet: call `search_ticket()` first.")
        if "search" not in self.progress.steps and self.state.global_step:  # it was interrupted
            self.progress.finish(self._taken())
        self.progress.enter("draw")
        self._evaluate_stage("before_draw")
        dense = None
        if self._config.compact:
            self._forget_optimizer()  # that of the search takes room, and is not needed any more
            dense = copy.deepcopy(self._trained_model)
        self.ticket = self._search.draw()
        self._evaluate_stage("drawn")
        self.progress.tick()
        if dense is not None:
            drawn = self._trained_model
            self._cut_out()
            self._measure(dense, drawn)
        self._write_report()
        return self.ticket

    def retrain(self, resume_from_checkpoint: Checkpoint = None, **options: Any) -> TrainOutput:
        """Train on with the ticket held: for `retrain_epochs`, from a fresh optimizer, schedule and seed.

        With `WormConfig(retrain_schedule="continue")`: from the optimizer and the schedule that the search left, to the
        end of what it was planned for.

        The ticket may be one that was found elsewhere: set `trainer.ticket` to it. With `WormConfig(compact=True)` it
        is cut out first.

        Args:
            resume_from_checkpoint (`str`, `os.PathLike` or `bool`, *optional*):
                A checkpoint of the retraining, as for `train`.
            options: Passed on to the parent's `train`.

        Raises:
            RuntimeError: There is no ticket yet, or no search to go on from.
            ValueError:
                The retraining is to go on, and the search left no step or no optimizer. The checkpoint is of a
                search, or of a retraining with another `retrain_schedule` or `compact`.
        """
        checkpoint = self._find_checkpoint(resume_from_checkpoint)
        if checkpoint is not None:
            self.ticket = self.resumed_ticket(checkpoint)
            if self._config.compact and not self.compacted:
                self.search = TicketSearch(self._trained_model, self._config)
                self._load_dense(self.search, checkpoint)
        self.ticket = self._to_retrain(self._drawn)
        if self._config.compact and not self.compacted:
            self._cut_out()
        args, model_init = self.args, self.model_init
        goes_on = self._config.retrain_schedule == "continue"
        if goes_on and checkpoint is None:
            if "search" not in self.progress.steps:
                raise RuntimeError(
                    "`retrain_schedule='continue'` goes on with a search's optimizer, and there was none."
                )
            if self._steps_left() <= 0:
                raise ValueError(none_left(self.progress, self._config))
        self.args = copy.copy(args)
        if not goes_on:
            self.args.num_train_epochs, self.args.max_steps = self._config.retrain_epochs, -1
            if "search" not in self.progress.steps:  # or it was told before that
                self._warn_of_warmup()
        elif checkpoint is None:  # the parent takes it for a training that is resumed, and a stream can't go on within
            self.args.ignore_data_skip = self._streams
        self.model_init = None  # type: ignore[assignment]  # or the parent would begin with a new model
        set_seed(args.seed)  # as a new `Trainer` would: the phase depends on the drawn weights and the seed alone
        progress = self.progress if checkpoint is None else load_state(checkpoint)[0]
        if goes_on and progress.seed is not None:
            torch.manual_seed(progress.seed)  # or the rows would come in another order than the search began with
        try:
            output = self._train_phase("retrain", checkpoint, options, goes_on)
        finally:
            self.args, self.model_init = args, model_init
        self._apply_ticket()  # whatever callbacks did to the weights at the end of training
        self._evaluate_stage("retrained")
        self._write_report()
        return output

    def resumed_ticket(self, checkpoint: str) -> Ticket:
        """The ticket of a checkpoint of the retraining, to be retrained for as long as this trainer says.

        Args:
            checkpoint (`str`): Its folder.

        Raises:
            ValueError: The checkpoint is of the search, or of a retraining of another kind.
        """
        if load_state(checkpoint)[0].phase != "retrain":
            raise ValueError(f"{checkpoint} is of the search: resume it with `train` or `search_ticket`.")
        ticket = Ticket.from_pretrained(checkpoint)
        for name in ("retrain_schedule", "compact"):
            saved, now = getattr(ticket.config, name), getattr(self._config, name)
            if saved != now:
                raise ValueError(
                    f"{checkpoint} is of a retraining with `{name}={saved!r}`, this trainer has {now!r}. Resume with "
                    "the saved setting, or start anew."
                )
        return self._to_retrain(ticket)

    def _to_retrain(self, ticket: Ticket) -> Ticket:
        """A ticket, to be retrained as this trainer says: it may be another trainer's, or a folder's."""
        retraining = {name: getattr(self._config, name) for name in ("retrain_epochs", "retrain_schedule", "compact")}
        if all(getattr(ticket.config, name) == value for name, value in retraining.items()):
            return ticket
        return dataclasses.replace(ticket, config=dataclasses.replace(ticket.config, **retraining))

    def _warn_of_warmup(self) -> None:
        """The schedule begins once more, with its warmup: a number of steps may be meant for the search alone."""
        steps = math.ceil(self._config.retrain_epochs * self._steps_in_epoch(self.get_train_dataloader()))
        warmup = self.args.get_warmup_steps(steps)
        if warmup >= steps:
            warnings.warn(
                f"The warmup takes {warmup} steps, and the retraining has {steps}: its learning rate won't reach "
                f"{self.args.learning_rate:g}. Give the warmup as a share of the steps (`warmup_steps=0.1`).",
                stacklevel=3,
            )

    def _begin_phase(self) -> None:
        super()._begin_phase()
        if not self.compacted:  # the search is of the model that it was made for
            if self.searching or self._checkpoint_state is not None:
                self.search = TicketSearch(self._trained_model, self._config)
            if self._checkpoint_state is not None:
                self._search.load_state_dict(self._checkpoint_state[1])
            elif self.searching:
                self.progress.observed_step = 0  # of a search that was begun, and begins anew with smaller batches
        if self.searching:
            self.progress.seed = torch.initial_seed()
            if self._config.compact:  # the model is on its device now; one that `model_init` makes is there now
                refuse_compact(self._trained_model, self._search, "optimizer" in self._given)
                self._try_cut(self._search)
        optimizer = self._torch_optimizer
        if optimizer is None:
            return
        refuse_optimizer(self, optimizer, self._config)  # one that `args.optim` does not name
        if self.searching:
            self._handle = self._search.attach(optimizer, self._steps_to_fade_by())
        else:
            self._handle = (self._rest or self._drawn).hold(self._trained_model, optimizer)

    def _steps_left(self) -> int:
        """Optimizer steps to the end of all that was planned."""
        return self._planned_steps() - sum(self.progress.steps.values())

    # The search.

    def _steps_to_fade_by(self) -> int | None:
        """Optimizer steps in an epoch, where weights fade; a training set without length has none."""
        if self._config.truncation_target != "fade":
            return None
        return self._steps_in_epoch(self.callback_handler.train_dataloader or self.get_train_dataloader())

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The parent's step; once the last micro-batch of an optimizer step is in, the gradients are truncated."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._training_step_ran = True
        if self.searching and self.accelerator.sync_gradients:
            self._search.truncate_gradients()
        return loss

    def _require_truncation(self) -> None:
        """Raise a `RuntimeError` where an optimizer step comes whose gradients `training_step` has not been asked for.

        A subclass that overrides it without calling this one would leave them as they are.
        """
        gradients = self._config.truncates and self._config.truncation_target == "gradient"
        if self.searching and gradients and not self._training_step_ran:
            raise RuntimeError(
                f"`{type(self).__name__}.training_step` does not call that of `WormTrainerMixin`, which truncates the "
                "gradients. Derive the trainer from the mixin first, `class Mine(WormTrainerMixin, Theirs)`, or "
                "truncate the optimizer's steps: `WormConfig(truncation_target='update')`."
            )

    def observe(self) -> Observation:
        """Sample the masks, log what they show, and print it in a line."""
        seen = self._search.observe()
        self._tell(seen)
        return seen

    def _observation_due(self, over: bool = False) -> bool:
        """Whether the run stands at the end of an epoch that has not been observed yet.

        A checkpoint of an epoch's last step is written before the epoch ends, and on resume that epoch counts as done.

        Args:
            over (`bool`, *optional*, defaults to `False`): The search ends here, be it in the middle of an epoch.
        """
        ended = over or (self.state.epoch is not None and self.state.epoch == int(self.state.epoch))
        behind = self.progress.observed_step < self.state.global_step
        return self.searching and self._config.sample_strategy == "epoch" and behind and ended

    def _end_if_over(self, stopped: bool) -> bool:
        over = stopped or (self.searching and self._search.converged)
        if self._observation_due(over):
            seen = self._search.observe()
            over = over or seen.converged
            if over:  # or the parent's `train` begins the phase once more, and observes then
                self._tell(seen)
        if over and not self.searching and self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            self._load_best_model()
        return over

    def _tell(self, seen: Observation) -> None:
        self.progress.observed_step = self.state.global_step
        logs = {
            "worm_max_distance": seen.max_distance,
            "worm_mean_distance": seen.mean_distance,
            "worm_truncating": seen.truncating,
            "worm_doomed_share": seen.doomed_share,
            "worm_sparsity": self._search.sparsity,
        }
        should_log = self.control.should_log  # logging clears it, and the loss of this step is still to be logged
        self.log({name: value for name, value in logs.items() if value is not None})
        self.control.should_log = should_log
        if self.is_world_process_zero():
            tqdm.write(observation_line(seen, self._config, self.state.epoch or 0.0))

    # What is pruned.

    def _apply_ticket(self) -> None:
        ticket = self._rest or self.ticket
        if ticket is not None:
            ticket.apply_(self._trained_model)

    # What is evaluated, and what is saved.

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The parent's, on the weights that would be saved."""
        self._apply_ticket()
        return super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self._apply_ticket()  # whatever callbacks did to the weights since the last step
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self._save_ticket(output_dir if output_dir is not None else self._output_dir)

    def _phase_state(self) -> dict[str, Any]:
        return self._search.state_dict()

    def _load_best_model(self) -> None:
        if not self.searching:  # the ticket is found on the weights at convergence, and drawn from them
            self._put_weights_in_place()  # now, or they would be put in place of the best
            super()._load_best_model()

    def _hp_search_setup(self, trial: Any) -> None:
        epochs, steps = self.args.num_train_epochs, self.args.max_steps
        super()._hp_search_setup(trial)
        if self._phase == "retrain":  # a trial's number of epochs or steps is the search's
            self.args.num_train_epochs, self.args.max_steps = epochs, steps

    # What must be there by now.

    @property
    def _config(self) -> WormConfig:
        if self.worm_config is None:
            raise RuntimeError(NO_CONFIG)
        return self.worm_config

    @property
    def _search(self) -> TicketSearch:
        if self.search is None:
            raise RuntimeError(NO_CONFIG)
        return self.search


class WormTrainer(WormTrainerMixin, Trainer):
    """`Trainer` with the three phases of [`WormTrainerMixin`].

    ```python
    trainer = WormTrainer(model=model, args=args, train_dataset=dataset, worm_config=WormConfig())
    trainer.train()
    ```
    """
