"""What a run shares with others: callbacks, subclasses, optimizers made elsewhere, copies, interruptions."""

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from training import (
    QUERY_AND_KEY,
    arguments,
    checkpoints,
    examples,
    pruned_are_zero,
    report,
    same_weights,
    weights,
    worm_trainer,
)
from transformers import BertForSequenceClassification, EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.integrations.integration_utils import MLflowCallback
from transformers.trainer_utils import get_last_checkpoint

from hf_worm import Ticket, TicketSearch, WormConfig, WormTrainer, WormTrainerMixin

AT_ONCE = {"truncate_from": "start", "truncation": 0.0}
GOES_ON = WormConfig(stopping_point=0.5, retrain_schedule="continue")


def batch() -> dict[str, torch.Tensor]:
    rows = examples(8)
    return {
        "input_ids": torch.stack([row["input_ids"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def moved(model: nn.Module, before: dict[str, torch.Tensor]) -> list[float]:
    """The share of each query's and key's weights that are not what they were."""
    after = model.state_dict()
    return [float((after[name] != before[name]).float().mean()) for name in QUERY_AND_KEY]


# Callbacks.


@pytest.mark.parametrize("schedule", ["restart", "continue"])
def test_callbacks_find_the_checkpoint_that_was_just_saved(
    schedule: str, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """As those of W&B and MLflow do, which upload it."""

    class Uploads(TrainerCallback):
        found: ClassVar[list[tuple[str, int]]] = []
        evaluated: ClassVar[list[int]] = []

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            newest = get_last_checkpoint(str(tmp_path))
            assert newest is not None and Path(newest).name == f"checkpoint-{state.global_step}"
            self.found.append((trainer.progress.phase, state.global_step))

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.evaluated.append(state.global_step)

    often = {"save_strategy": "epoch", "eval_strategy": "epoch", "eval_dataset": examples(16)}
    config = WormConfig(stopping_point=0.5, retrain_epochs=2.0, retrain_schedule=schedule)
    trainer = worm_trainer(bert, tmp_path, config, callbacks=[Uploads()], **often)
    trainer.train()
    assert Uploads.found == [("search", 8), ("search", 16), ("search", 24), ("retrain", 32), ("retrain", 40)]
    assert Uploads.evaluated == [8, 16, 24, 24, 24, 32, 40, 40], "before the draw, drawn, and the result as well"
    Uploads.found.clear()
    Uploads.evaluated.clear()


def test_a_callback_that_came_between_the_phases_is_saved_with_the_rest(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "eval_dataset": examples(16)}
    trainer = worm_trainer(bert, tmp_path, GOES_ON, save_strategy="epoch", eval_strategy="epoch", **best)
    trainer.search_ticket()
    trainer.draw_ticket()
    trainer.add_callback(EarlyStoppingCallback(3))
    trainer.retrain()
    assert "EarlyStoppingCallback" in (checkpoints(tmp_path)[-1] / "trainer_state.json").read_text()


def test_what_a_callback_logs_need_not_be_json_where_training_goes_on(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class LogsNumpy(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.log_history[-1]["mine"] = np.float32(1)

    trainer = worm_trainer(bert, tmp_path, GOES_ON, callbacks=[LogsNumpy()])
    trainer.train()
    logged = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == list(range(4, 44, 4)), "of both phases"


class Tracker(MLflowCallback):
    """Knows when a tracker's run is told to begin and to end, and what is logged after."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("begin")

    def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
        self.events.append("log")

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        pass

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert kwargs["model"] is not None
        self.events.append(f"end at {state.global_step}")

    def __del__(self) -> None:
        pass


@pytest.mark.parametrize(("retrain_epochs", "end"), [(1.0, "end at 32"), (0.0, "end at 24")])
def test_a_trackers_run_has_all_phases_in_it(
    retrain_epochs: float, end: str, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(stopping_point=0.5, retrain_epochs=retrain_epochs)
    trainer = worm_trainer(bert, tmp_path, config, callbacks=[tracker := Tracker()], eval_dataset=examples(16))
    trainer.train()
    assert [event for event in tracker.events if event.startswith("end")] == [end]
    assert tracker.events[-1] == end and tracker.events[0] == "begin", "what is evaluated after a phase is in it"
    tracker.events.clear()
    trainer.search_ticket()
    assert tracker.events[-1] == "end at 24", "a phase by itself is a training"


def test_an_evaluation_that_returns_nothing(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class Silent(WormTrainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> None:
            super().evaluate(*args, **kwargs)

    trainer = worm_trainer(bert, tmp_path, kind=Silent, eval_dataset=examples(16))
    trainer.train()
    assert trainer.progress.metrics == {"before_draw": {}, "drawn": {}, "retrained": {}}


# Subclasses.


class OwnStep:
    """A `training_step` that knows of no other."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        loss: torch.Tensor = model(**inputs).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class Overrides(OwnStep, WormTrainer):
    pass


class Theirs(OwnStep, Trainer):
    pass


class Derived(WormTrainerMixin, Theirs):
    pass


def test_a_step_that_would_not_be_truncated_is_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"`Overrides\.training_step` does not call that of `WormTrainerMixin`"):
        worm_trainer(bert, tmp_path, kind=Overrides).train()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(Derived, {}), (Overrides, {"truncation_target": "update"}), (Overrides, {"truncation": 1.0})],
)
def test_a_step_of_ones_own_that_can_be_truncated(
    kind: Any, changes: dict[str, Any], bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = worm_trainer(bert, tmp_path, WormConfig(**{"stopping_point": 0.5, **AT_ONCE, **changes}), kind)
    trainer.train()
    assert trainer.ticket is not None and trainer.ticket.converged


# Optimizers.


def test_an_optimizer_that_is_assigned_trains_both_phases(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class Assigns(WormTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

        def training_step(self, *args: Any) -> torch.Tensor:
            trained.add((self.progress.phase, type(self.optimizer.optimizer)))
            return super().training_step(*args)

    trained: set[Any] = set()
    worm_trainer(bert, tmp_path, kind=Assigns).train()
    assert trained == {("search", torch.optim.SGD), ("retrain", torch.optim.SGD)}
    compact = WormConfig(layers=["neurons"], compact=True)
    with pytest.raises(ValueError, match="needs an optimizer that the trainer makes"):
        worm_trainer(bert, tmp_path / "compact", compact, kind=Assigns).train()


@pytest.mark.parametrize("target", ["gradient", "update", "fade"])
def test_accelerates_optimizer_is_truncated_and_held(target: str, bert: BertForSequenceClassification) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(bert, torch.optim.AdamW(bert.parameters(), lr=1e-2, weight_decay=0.0))
    search = TicketSearch(model, WormConfig(truncation_target=target, **AT_ONCE))
    search.attach(optimizer, steps_per_epoch=4)

    def step() -> None:
        accelerator.backward(model(**batch()).loss)
        search.truncate_gradients()
        optimizer.step()
        optimizer.zero_grad()

    before = weights(model)
    step()
    assert moved(model, before) == [1.0 if target == "fade" else 0.5] * 4
    search.observe()
    ticket = search.draw()
    ticket.hold(model, optimizer)
    step()
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in ticket.masks.items())


def test_an_optimizer_of_other_weights_is_refused_before_the_search(bert: BertForSequenceClassification) -> None:
    with pytest.raises(ValueError, match="SGD"):
        TicketSearch(bert, WormConfig()).attach(torch.optim.SGD(bert.classifier.parameters(), lr=0.1))


def test_what_is_saved_at_a_signal_is_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    args.enable_jit_checkpoint = True  # transformers 5.0 has no such argument
    with pytest.raises(ValueError, match="does not support `enable_jit_checkpoint`"):
        WormTrainer(model=bert, args=args, train_dataset=examples(), worm_config=WormConfig())


def test_a_warmup_longer_than_the_retraining_is_told(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="warmup takes 20 steps, and the retraining has 8"):
        worm_trainer(bert, tmp_path, warmup_steps=20).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        worm_trainer(copy.deepcopy(bert), tmp_path, warmup_steps=7).train()


def test_a_ticket_is_drawn_once(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, eval_dataset=examples(16))
    trainer.train()
    measured = report(tmp_path)["metrics"]
    with pytest.raises(RuntimeError, match="drawn already: begin anew"):
        trainer.draw_ticket()
    assert report(tmp_path)["metrics"] == measured


class Recording(WormTrainer):
    """Notes the rows that it trains on."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        self.rows = [*getattr(self, "rows", []), *map(tuple, inputs["input_ids"].tolist())]
        return super().training_step(model, inputs, *rest)


@pytest.mark.parametrize("way", ["a seed before training", "a model_init that seeds", "once more"])
def test_a_search_goes_on_with_the_rows_that_are_left_whatever_the_seed(
    bert: BertForSequenceClassification, tmp_path: Path, way: str
) -> None:
    """Their order is that of PyTorch's seed as the phase begins, which need not be that of the arguments."""

    def seeding() -> BertForSequenceClassification:
        torch.manual_seed(0)
        return copy.deepcopy(bert)

    parts: dict[str, Any] = {"num_train_epochs": 2, **({"model_init": seeding} if "model_init" in way else {})}
    config = WormConfig(retrain_schedule="continue", stopping_point=0.9, sample_strategy="steps", sample_steps=1)
    trainer = worm_trainer(bert, tmp_path, config, Recording, save_strategy="steps", save_steps=5, **parts)
    if way == "once more":
        trainer.train()
        trainer.rows = []
    if way == "a seed before training":
        torch.manual_seed(0)
    trainer.train()
    assert trainer.progress.steps == {"search": 3, "retrain": 13}
    assert len(set(trainer.rows[:64])) == 64
    resumed = worm_trainer(copy.deepcopy(bert), tmp_path, config, Recording, **parts)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert resumed.rows == trainer.rows[5 * 8 :], "whatever the seed is now"


def test_a_model_is_on_its_device_before_it_runs(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent leaves that to its `train` where evaluations are in 16 bits."""
    events: list[str] = []

    def telling(name: str) -> None:
        method = getattr(Trainer, name)
        monkeypatch.setattr(Trainer, name, lambda *args, **kwargs: (events.append(name), method(*args, **kwargs))[1])

    telling("_move_model_to_device")
    telling("evaluation_loop")
    bert.register_forward_pre_hook(lambda *given: events.append("forward"))
    settings = {"bf16_full_eval": True, "eval_dataset": examples(8), "save_strategy": "epoch"}
    compact = WormConfig(layers=["neurons"], compact=True, stopping_point=0.9)
    worm_trainer(copy.deepcopy(bert), tmp_path, compact, **settings).search_ticket()
    assert events[0] == "_move_model_to_device" and "forward" in events
    events.clear()
    resumed = worm_trainer(copy.deepcopy(bert), tmp_path, compact, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-24"))
    assert resumed.progress.steps == {"search": 24, "retrain": 8}
    assert events[0] == "_move_model_to_device"


def test_bytes_of_memory_are_no_metrics(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    worm_trainer(bert, tmp_path, skip_memory_metrics=False, eval_dataset=examples(8)).train()
    assert {name for stage in report(tmp_path)["metrics"].values() for name in stage} == {"loss"}


class Guessing:
    """A collator with random numbers of its own, as those that mask tokens have with a seed."""

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.generator: torch.Generator | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.seed is not None and self.generator is None:
            self.generator = torch.Generator().manual_seed(self.seed)
        ids = torch.stack([row["input_ids"] for row in rows])
        ids = torch.where(torch.rand(ids.shape, generator=self.generator) < 0.5, 0, ids)
        return {"input_ids": ids, "labels": torch.tensor([row["labels"] for row in rows])}


@pytest.mark.parametrize("seed", [None, 3])
def test_stages_are_measured_on_the_same_input(
    bert: BertForSequenceClassification, tmp_path: Path, seed: int | None
) -> None:
    trainer = worm_trainer(
        bert, tmp_path, WormConfig(prune_ratio=0.0, stopping_point=0.5), learning_rate=0.0, eval_dataset=examples(16)
    )
    trainer.data_collator = collator = Guessing(seed)
    trainer.train()
    losses = {stage: found["loss"] for stage, found in report(tmp_path)["metrics"].items()}
    assert len(losses) == 3 and len(set(losses.values())) == 1
    assert trainer.data_collator is collator


def test_the_epochs_of_a_resumed_run_are_the_same(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(sample_strategy="steps", sample_steps=1, window=4, stopping_point=0.9)
    settings = {"train_dataset": examples(24), "num_train_epochs": 1.3}
    worm_trainer(
        copy.deepcopy(bert), tmp_path / "whole", config, save_strategy="steps", save_steps=1, **settings
    ).train()
    for checkpoint in checkpoints(tmp_path / "whole"):
        worm_trainer(copy.deepcopy(bert), tmp_path / "again", config, **settings).train(str(checkpoint))
        whole, again = (report(tmp_path / name) for name in ("whole", "again"))
        assert again["search"]["epochs"] == whole["search"]["epochs"] == pytest.approx(4 / 3)
        assert again["retrain"]["epochs"] == whole["retrain"]["epochs"] == 1.0


@pytest.mark.parametrize("schedule", ["restart", "continue"])
def test_tokens_and_operations_are_those_of_the_run(
    bert: BertForSequenceClassification, tmp_path: Path, schedule: str
) -> None:
    """Rows of 12 tokens in steps of 8, whichever phase a checkpoint is of, and of a run that was resumed too."""
    config = WormConfig(stopping_point=0.5, retrain_schedule=schedule)
    settings = {"include_num_input_tokens_seen": "all", "logging_steps": 1, "num_train_epochs": 4}
    whole = worm_trainer(copy.deepcopy(bert), tmp_path / "whole", config, save_strategy="epoch", **settings)
    whole.train()
    assert whole.progress.steps == {"search": 24, "retrain": 8}
    logged = [(entry["step"], entry["num_input_tokens_seen"]) for entry in whole.state.log_history if "loss" in entry]
    assert logged == [(step, 96 * step) for step in range(1, 33)]
    one = whole.state.total_flos / 32
    for checkpoint in checkpoints(tmp_path / "whole"):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert state["num_input_tokens_seen"] == 96 * state["global_step"]
        assert state["total_flos"] == one * state["global_step"]
        resumed = worm_trainer(copy.deepcopy(bert), tmp_path / "resumed", config, **settings)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert [resumed.state.num_input_tokens_seen, resumed.state.total_flos] == [96 * 32, one * 32]


def test_the_largest_seed(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, GOES_ON, seed=2**32 - 1)
    trainer.train()
    assert trainer.progress.steps == {"search": 24, "retrain": 16}


# Copies, interruptions, tickets from elsewhere.


def test_a_copy_of_an_attached_search_truncates_nothing_silently(bert: BertForSequenceClassification) -> None:
    optimizer = torch.optim.AdamW(bert.parameters(), lr=1e-2)
    search = TicketSearch(bert, WormConfig(truncation_target="update", **AT_ONCE))
    handle = search.attach(optimizer)
    pickle.dumps(search)
    model, other, copied = copy.deepcopy((bert, optimizer, search))
    model(**batch()).loss.backward()
    with pytest.raises(RuntimeError, match="attach"):
        copied.truncate_gradients()
    copied.attach(other)
    before = weights(model)
    copied.truncate_gradients()
    other.step()
    assert moved(model, before) == [0.5] * 4
    assert handle.active and same_weights(weights(bert), before), "the original is as it was"


def test_an_interrupted_search_can_be_drawn(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class Interrupts(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if trainer.searching and state.global_step == 20:
                raise KeyboardInterrupt

    config = WormConfig(stopping_point=0.5, window=4)
    trainer = worm_trainer(bert, tmp_path, config, callbacks=[Interrupts()], save_strategy="epoch", eval_steps=4)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    with pytest.warns(UserWarning, match="had not converged"):
        trainer.draw_ticket()
    trainer.retrain()
    assert trainer.progress.steps == {"search": 20, "retrain": 8}
    assert trainer.progress.epochs == {"search": 2.5, "retrain": 1.0}
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in (8, 16, 24, 28)]
    assert pruned_are_zero(tmp_path / "checkpoint-28", Ticket.from_pretrained(tmp_path / "checkpoint-28"))


def test_a_ticket_from_elsewhere_is_retrained_as_this_trainer_says(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    search = TicketSearch(bert, WormConfig(retrain_epochs=0.0, retrain_schedule="continue"))
    search.observe()
    trainer = worm_trainer(bert, tmp_path, WormConfig(retrain_epochs=2.0))
    trainer.ticket = search.draw()
    trainer.retrain()
    assert trainer.progress.steps == {"retrain": 16}
    assert trainer.report()["config"]["retrain_epochs"] == 2.0


@pytest.mark.parametrize("kind", [DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM])
def test_weights_spread_over_processes_are_refused(
    kind: DistributedType, bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: kind))
    with pytest.raises(ValueError, match=f"`WormTrainer` does not support {kind.value} training"):
        worm_trainer(bert, tmp_path)
