"""Each seam of transformers and accelerate that has no promise: it is where it was, and is called when it was."""

import copy
import inspect
import os
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from training import SETTINGS, arguments, checkpoints, examples, worm_trainer
from transformers import BertForSequenceClassification, ProgressCallback, Trainer, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState
from transformers.trainer_utils import HPSearchBackend

from hf_worm import WormConfig, WormTrainer, WormTrainerMixin
from hf_worm.checkpoint.resume import load_trainer_state
from hf_worm.trainer import compat
from hf_worm.trainer.phases import Start


class Recorded(Trainer):
    """Notes the seams that the parent calls, in their order."""

    calls: list[str]

    def _note(self, name: str) -> None:
        self.calls = [*getattr(self, "calls", []), name]

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._note("load weights")
        super()._load_from_checkpoint(*args, **kwargs)

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        self._note("plan")
        values = super().set_initial_training_values(*args, **kwargs)
        self.values = values
        return values

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        self._note("optimizer")
        return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        self._note("schedule")
        return super().create_scheduler(*args, **kwargs)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self._note("random states")
        super()._load_rng_state(checkpoint)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._note("step")
        assert isinstance(self.accelerator.sync_gradients, bool), "set before the step"
        return super().training_step(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self._note("save weights")
        assert output_dir is None or not os.path.exists(os.path.join(output_dir, "trainer_state.json"))
        super()._save(output_dir, state_dict)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "train_runtime" in logs:
            self._note("summary")
        super().log(logs, *args, **kwargs)
        if "train_runtime" in logs:
            assert "train_samples_per_second" in logs
            self.summary = logs

    def _load_best_model(self) -> None:
        self._note("best model")
        super()._load_best_model()

    def _finish_current_push(self) -> None:
        self._note("wait for pushes")
        super()._finish_current_push()


class Events(TrainerCallback):
    """Notes the events that come between."""

    def __init__(self) -> None:
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert {"model", "optimizer", "lr_scheduler", "train_dataloader"} <= kwargs.keys()
        assert not control.should_training_stop
        self.trainer._note("begin")

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._note("epoch")

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._note("step begins")

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._note("before the optimizer")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._note("step ends")

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._note("epoch ends")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert Path(args.output_dir, f"checkpoint-{state.global_step}", "trainer_state.json").is_file()
        self.trainer._note("saved")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._note("end")


def recorded(model: nn.Module, folder: Path, checkpoint: str | None = None, **changes: Any) -> Recorded:
    events = Events()
    best = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer = Recorded(
        model=model,
        args=arguments(folder, **{"num_train_epochs": 2, **best, **changes}),
        train_dataset=examples(16),
        eval_dataset=examples(8),
        callbacks=[events],
    )
    events.trainer = trainer
    clip = trainer.accelerator.clip_grad_norm_
    trainer.accelerator.clip_grad_norm_ = lambda *given: (trainer._note("clip"), clip(*given))[1]
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


STEP = ["step begins", "step", "clip", "before the optimizer", "step ends"]
EPOCH = ["epoch", *STEP, *STEP, "epoch ends", "save weights", "saved"]


END = ["summary", "best model", "end", "wait for pushes"]


def in_one_order(calls: list[str]) -> list[str]:
    """Transformers 5.0 loads the best model ahead of the summary; both come before the end."""
    *before, first, second, end, last = calls
    return [*before, *sorted((first, second), reverse=True), end, last]


def test_the_parent_calls_the_seams_in_this_order(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    whole = recorded(copy.deepcopy(bert), tmp_path)
    begin = ["optimizer", "schedule", "begin"]
    assert in_one_order(whole.calls) == ["plan", *begin, *EPOCH, *EPOCH, *END]
    resumed = recorded(bert, tmp_path / "resumed", str(checkpoints(tmp_path)[0]))
    first = ["epoch", "random states", *EPOCH[1:]]
    assert in_one_order(resumed.calls) == ["load weights", "plan", *begin, *first, *END]


def test_the_plan_has_epochs_first_then_steps_of_one_and_all_steps_last(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = recorded(bert, tmp_path, num_train_epochs=2.5)
    epochs, in_epoch, examples_, samples, *_, steps = trainer.values
    assert (epochs, in_epoch, examples_, samples, steps) == (3, 2, 16, 40, 5)
    planned = worm_trainer(bert, tmp_path / "worm", WormConfig(stopping_point=0.0, retrain_epochs=2.0))
    batches = planned.get_train_dataloader()
    parameters = inspect.signature(Trainer.set_initial_training_values).parameters
    given = (planned.args, batches, 8)[: len(parameters) - 1]  # transformers 5.0 is told the size of a batch too
    assert planned.set_initial_training_values(*given)[-1] == 40, "the parent's, while none trains"
    planned._phases.start = Start()
    epochs, in_epoch, _, samples, *_, steps = planned.set_initial_training_values(*given)
    assert (epochs, in_epoch, samples, steps) == (7, 8, 64 * 7, 56), "five epochs of search, two of retraining"


def test_no_step_is_trained_where_the_plan_ends_with_the_epochs_that_are_done(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    recorded(copy.deepcopy(bert), tmp_path)

    class Done(Recorded):
        def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
            _, *others = super().set_initial_training_values(*args, **kwargs)
            return (1, *others)

    trainer = Done(model=bert, args=arguments(tmp_path), train_dataset=examples(16))
    trainer.train(resume_from_checkpoint=str(checkpoints(tmp_path)[0]))
    assert "step" not in trainer.calls and trainer.state.global_step == 2


def overridden() -> set[str]:
    methods = {name for name, one in vars(WormTrainerMixin).items() if inspect.isfunction(one)}
    return methods & vars(Trainer).keys() - {"__init__"}


def test_at_most_four_private_methods_are_overridden_by_one_class() -> None:
    assert WormTrainer.__mro__[1 : WormTrainer.__mro__.index(Trainer)] == (WormTrainerMixin,)
    private = {name for name in overridden() if name.startswith("_")}
    assert private == {"_save", "_load_from_checkpoint", "_load_best_model"}
    assert "set_initial_training_values" in overridden(), "of a public name, and without documentation"


@pytest.mark.parametrize("name", sorted(overridden()))
def test_what_is_overridden_has_the_parents_parameters(name: str) -> None:
    mine, parents = (inspect.signature(getattr(kind, name)) for kind in (WormTrainerMixin, Trainer))
    named = [one.name for one in mine.parameters.values() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert list(parents.parameters)[: len(named)] == named


def test_the_summary_that_is_logged_is_the_one_that_is_returned(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = Recorded(model=bert, args=arguments(tmp_path), train_dataset=examples(16))
    assert trainer.train().metrics is trainer.summary


def test_what_is_evaluated_is_what_is_logged(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    found: list[Any] = []

    class Looks(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            found.append(logs)
            assert state.log_history[-1] == {**logs, "step": state.global_step}

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            found.append(metrics)

    trainer = Trainer(model=bert, args=arguments(tmp_path), eval_dataset=examples(8), callbacks=[Looks()])
    metrics = trainer.evaluate()
    assert found[0] is found[1] is metrics


def test_callbacks_are_called_in_the_order_of_the_list(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    heard: list[str] = []

    class Says(TrainerCallback):
        def __init__(self, word: str) -> None:
            self.word = word

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            heard.append(self.word)

    first, middle, last = (Says(word) for word in ("first", "middle", "last"))
    trainer = Trainer(model=bert, args=arguments(tmp_path, num_train_epochs=1), train_dataset=examples(8))
    for callback in (last, middle):
        trainer.add_callback(callback)
    compat.insert_first(trainer, first)
    compat.move_last(trainer, last)
    trainer.train()
    assert heard == ["first", "middle", "last"]


def test_a_handler_may_take_the_place_of_the_trainers(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    told: list[str] = []
    tracker_class = next(iter(INTEGRATION_TO_CALLBACK.values()))

    class Tracker(tracker_class):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            """Without the tracker's own."""

        def __getattribute__(self, name: str) -> Any:
            if name == "on_train_end":
                return lambda *args, **kwargs: told.append("tracker")
            return (lambda *args, **kwargs: None) if name.startswith("on_") else object.__getattribute__(self, name)

    class Other(TrainerCallback):
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            told.append("other")

    trainer = Trainer(model=bert, args=arguments(tmp_path), callbacks=[Other()])
    trainer.add_callback(Tracker())
    handler = compat.OneRunHandler(trainer.callback_handler)
    assert vars(trainer.callback_handler).keys() < vars(handler).keys() and isinstance(handler, CallbackHandler)
    for follows, expected in ((True, ["other"]), (False, ["other", "tracker"])):
        handler.another_follows = follows
        handler.on_train_end(trainer.args, trainer.state, trainer.control)
        assert told == expected
        told.clear()
    handler.tell_trackers(trainer.args, trainer.state, trainer.control)
    assert told == ["tracker"] and len(handler.callbacks) == len(trainer.callback_handler.callbacks)


def test_the_progress_bar_shows_the_phase(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    bar = ProgressCallback()
    shown: list[Any] = []

    class Looks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            shown.append((bar.training_bar.desc, bar.training_bar.total))

    settings = {**SETTINGS, "disable_tqdm": False, "num_train_epochs": 4}
    trainer = worm_trainer(bert, tmp_path, callbacks=[Looks()], **settings)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(bar)
    trainer.train()
    assert shown[0] == ("search: ", 40) and shown[-1] == ("retrain: ", 32)


def test_a_trial_has_a_folder_of_its_own(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = Trainer(model=bert, args=arguments(tmp_path))
    assert compat.run_folder(trainer) == str(tmp_path)
    trainer.hp_search_backend, trainer.hp_name = HPSearchBackend.OPTUNA, None
    compat.note_trial(trainer, SimpleNamespace(number=3))
    assert compat.run_folder(trainer) == str(tmp_path / "run-3")


def test_a_batch_is_what_a_model_takes(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = Trainer(model=bert, args=arguments(tmp_path), train_dataset=examples())
    batch = compat.first_batch(trainer)
    assert batch["input_ids"].shape == (8, 12) and batch["input_ids"].device == bert.device
    assert bert(**batch).loss.ndim == 0


def test_the_scale_of_the_loss_is_the_scalers() -> None:
    accelerator = Accelerator(cpu=True)
    assert compat.loss_scale(accelerator) is None
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    accelerator.scaler = scaler
    assert compat.loss_scale(accelerator) is None, "nothing was scaled yet"
    scaler.scale(torch.ones(()))
    scale = compat.loss_scale(accelerator)
    assert isinstance(scale, torch.Tensor) and float(scale) == 1024.0


def test_a_model_that_is_swapped_is_what_trains_and_what_callbacks_see(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    seen: list[Any] = []

    class Looks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            seen.append(model)

    other = copy.deepcopy(bert)
    before = copy.deepcopy(bert.state_dict())
    trainer = Trainer(
        model=bert, args=arguments(tmp_path, num_train_epochs=1), train_dataset=examples(8), callbacks=[Looks()]
    )
    compat.swap_model(trainer, other)
    trainer.train()
    assert seen == [other] and trainer.model is trainer.model_wrapped is other
    assert all(torch.equal(weight, before[name]) for name, weight in bert.state_dict().items())


def test_an_optimizer_that_is_forgotten_is_held_by_nobody(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    import gc
    import weakref

    trainer = Trainer(model=bert, args=arguments(tmp_path, num_train_epochs=1), train_dataset=examples(8))
    trainer.train()
    optimizer = weakref.ref(trainer.optimizer.optimizer)
    assert optimizer() is not None
    compat.forget_optimizer(trainer)
    gc.collect()
    assert optimizer() is None
    trainer.train()
    assert trainer.optimizer is not None, "the parent makes another"


@pytest.mark.parametrize("optimizer", [True, False])
def test_what_a_training_leaves_is_what_another_goes_on_from(
    optimizer: bool, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """The parent resumes from a folder without weights, if none are asked of it."""

    class Resumes(Trainer):
        def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            """The weights are in place."""

    class Stops(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 8

    whole = Trainer(model=copy.deepcopy(bert), args=arguments(tmp_path, num_train_epochs=2), train_dataset=examples())
    whole.train()
    trainer = Resumes(
        model=bert, args=arguments(tmp_path, num_train_epochs=2), train_dataset=examples(), callbacks=[Stops()]
    )
    trainer.train()
    folder = tmp_path / "left"
    folder.mkdir()
    compat.leave(trainer, str(folder), optimizer)
    left = {path.name for path in folder.iterdir()}
    assert left == {"rng_state.pth", "trainer_state.json"} | ({"optimizer.pt", "scheduler.pt"} if optimizer else set())
    state = load_trainer_state(str(folder))
    assert (state.global_step, state.epoch, state.log_history) == (8, 1.0, [])
    if not optimizer:
        compat.forget_optimizer(trainer)
    with compat.callbacks_kept(trainer):
        assert trainer.train(resume_from_checkpoint=str(folder)).global_step == 16
    same = all(torch.equal(a, b) for a, b in zip(bert.parameters(), whole.model.parameters(), strict=True))
    assert same == optimizer


def test_a_training_that_was_stopped_says_so_in_its_checkpoint(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    recorded(bert, tmp_path)
    first, last = (load_trainer_state(str(folder)) for folder in checkpoints(tmp_path))
    assert (compat.was_stopped(first), compat.was_stopped(last)) == (False, True)
    assert not compat.was_stopped(TrainerState())
    assert "should_training_stop" in TrainerControl().state()["args"]


def test_the_best_of_models_is_found_anew() -> None:
    state = TrainerState(best_metric=0.9, best_model_checkpoint="checkpoint-8", best_global_step=8, global_step=16)
    compat.forget_best(state)
    assert state == TrainerState(global_step=16)


def test_random_states_are_put_where_a_checkpoint_has_them(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = recorded(bert, tmp_path)
    folder = str(checkpoints(tmp_path)[0])
    compat.load_random_states(trainer, folder)
    first = torch.rand(3)
    compat.load_random_states(trainer, folder)
    assert torch.equal(torch.rand(3), first)


def test_callbacks_go_on_as_they_are(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = Trainer(model=bert, args=arguments(tmp_path, restore_callback_states_from_checkpoint=True))
    args = trainer.args
    with compat.callbacks_kept(trainer):
        assert trainer.args.restore_callback_states_from_checkpoint is False
    assert trainer.args is args and args.restore_callback_states_from_checkpoint is True


def test_pushes_that_failed_are_told_once(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = Trainer(model=bert, args=arguments(tmp_path))
    assert list(compat.failed_pushes(trainer)) == []
    failed, done = Future(), Future()
    failed.set_exception(OSError("no space"))
    done.set_result(None)
    from transformers.utils import PushInProgress

    trainer.push_in_progress = PushInProgress([failed, done])
    assert [str(error) for error in compat.failed_pushes(trainer)] == ["no space"]
    assert list(compat.failed_pushes(trainer)) == []


@pytest.mark.parametrize(("always", "pushes"), [(True, True), (False, False)])
def test_files_wait_for_a_push_that_reads_them(
    always: bool, pushes: bool, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    waited: list[bool] = []

    class Push:
        def is_done(self) -> bool:
            return bool(waited)

        def wait_until_done(self) -> None:
            waited.append(True)

    trainer = Trainer(model=bert, args=arguments(tmp_path, hub_always_push=always))
    assert compat.wait_for_push(trainer), "there was none"
    trainer.push_in_progress = Push()
    assert compat.wait_for_push(trainer) == pushes and bool(waited) == always
    waited.append(True)
    assert compat.wait_for_push(trainer), "it is done"


def test_an_optimizer_can_begin_anew_within_a_training(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """The loop asks the Trainer for optimizer and schedule at each step, and callbacks are given the newest."""
    seen: list[tuple[int, float]] = []

    class Looks(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
            seen.append((id(optimizer.optimizer), round(kwargs["lr_scheduler"].get_last_lr()[0] * 1e3, 6)))

    config = WormConfig(stopping_point=0.5, sample_strategy="steps", sample_steps=2, retrain_epochs=0.5)
    settings = {"num_train_epochs": 1, "learning_rate": 1e-3}
    worm_trainer(bert, tmp_path, config, callbacks=[Looks()], **settings).train()
    first, second = {one for one, _ in seen[:6]}, {one for one, _ in seen[6:]}
    assert len(first) == len(second) == 1
    assert [rate for _, rate in seen] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 1.0, 0.75, 0.5, 0.25]


def test_there_is_a_test_for_each_function() -> None:
    source = Path(__file__).read_text().replace("test_the_progress_bar_shows_the_phase", "compat.describe_bar(")
    own = [one for one in vars(compat).values() if inspect.isfunction(one) and one.__module__ == compat.__name__]
    assert len(own) > 8 and [one.__name__ for one in own if f"compat.{one.__name__}(" not in source] == []
