"""A run is one training of the parent's: callbacks, trackers and trials see of it what they see of `Trainer`."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from training import arguments, examples, report, same_weights, weights, worm_trainer
from transformers import BertForSequenceClassification, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import HPSearchBackend

from hf_worm import TicketSearch, WormConfig, WormTrainer

CONVERGES = WormConfig(stopping_point=0.5)  # after three epochs of 8 steps; one of retraining follows


class Stop(TrainerCallback):
    """Ends a training by its state, at one event."""

    def __init__(self, event: str) -> None:
        self.event = event

    def _stop(self, event: str, state: Any) -> None:
        if event == self.event:
            state.max_steps = min(state.max_steps, state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop("log", state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop("evaluate", state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop("save", state)


@pytest.mark.parametrize("event", ["log", "evaluate", "save"])
def test_without_a_config_what_a_callback_does_to_the_state_counts(
    event: str, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    often = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    taken = [
        kind(
            model=copy.deepcopy(bert),
            args=arguments(tmp_path / kind.__name__, **often),
            train_dataset=examples(),
            eval_dataset=examples(8),
            callbacks=[Stop(event)],
        )
        .train()
        .global_step
        for kind in (Trainer, WormTrainer)
    ]
    assert taken == [5, 5]


class Wide(nn.Module):
    """Gives out more than its logits."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        found = self.model(input_ids=input_ids, labels=labels)
        loss = {} if labels is None else {"loss": found.loss}
        return {**loss, "logits": found.logits, "hidden": found.logits.repeat(1, 3)}


def test_ignored_outputs_are_ignored_around_the_draw_too(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    shapes: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        shapes.append(np.shape(prediction.predictions))
        return {"mean": float(prediction.predictions.mean())}

    trainer = worm_trainer(Wide(bert), tmp_path, CONVERGES, eval_dataset=examples(16), compute_metrics=metrics)
    assert trainer.train(ignore_keys_for_eval=["hidden"]).global_step == 32
    assert shapes == [(16, 2)] * 3, "before the draw, drawn, retrained"


def test_what_a_callback_logs_at_an_evaluation_has_its_step(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class Logs(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.log({"mine": 1.0})

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.log({"mine": 1.0})

    often = {"eval_strategy": "epoch", "save_strategy": "epoch", "eval_dataset": examples(8)}
    trainer = worm_trainer(bert, tmp_path, CONVERGES, callbacks=[Logs()], **often)
    trainer.train()
    mine = [(entry["step"], entry["epoch"]) for entry in trainer.state.log_history if "mine" in entry]
    ends = [(8, 1.0), (8, 1.0), (16, 2.0), (16, 2.0), (24, 3.0), (24, 3.0)]
    assert mine == [*ends, (24, 3.0), (24, 3.0), (32, 4.0), (32, 4.0), (32, 4.0)]


class Count(TrainerCallback, ExportableState):
    """Counts steps, and is saved with each checkpoint."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps += 1

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"steps": self.steps}}


def counted(trainer: Trainer) -> int:
    return next(callback for callback in trainer.callback_handler.callbacks if type(callback) is Count).steps


@pytest.mark.parametrize("step", [20, 24, 28])
def test_a_callback_with_a_state_counts_on_wherever_it_is_resumed(
    step: int, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """Within the search, at its end and in the retraining."""
    saving = {"save_strategy": "steps", "save_steps": 4, "restore_callback_states_from_checkpoint": True}
    whole = worm_trainer(copy.deepcopy(bert), tmp_path, CONVERGES, callbacks=[Count()], **saving)
    whole.train()
    assert counted(whole) == 32
    resumed = worm_trainer(bert, tmp_path / "resumed", CONVERGES, callbacks=[Count()], **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert counted(resumed) == 32
    assert same_weights(weights(resumed.model), weights(whole.model))


def test_callbacks_hear_one_beginning_and_one_end(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class Hears(TrainerCallback):
        heard: ClassVar[list[str]] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.heard.append("begin")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.heard.append(f"end at {state.global_step}, {trainer.progress.phase}")

    trainer = worm_trainer(bert, tmp_path, CONVERGES, callbacks=[Hears()], eval_dataset=examples(8))
    trainer.train()
    assert Hears.heard == ["begin", "end at 32, retrain"]
    assert "retrained" in report(tmp_path)["metrics"]


class Pruned(Exception):
    """Stands for Optuna's, which ends a trial."""


def test_of_a_trial_that_is_pruned_the_end_is_heard_and_nothing_drawn(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the Trainer does with Optuna: it tells the end of training, then raises."""
    heard: list[str] = []

    class Hears(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            heard.append("begin")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            heard.append("end")

    def tell(self: Any, trial: Any, step: int, metrics: dict[str, float]) -> None:
        if trial.number == 0 and step == 8:
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise Pruned

    monkeypatch.setattr(Trainer, "_report_to_hp_search", tell)
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    changes = {"model_init": lambda: copy.deepcopy(bert), "eval_strategy": "epoch", "eval_dataset": examples(8)}
    trainer = worm_trainer(bert, tmp_path, CONVERGES, callbacks=[Hears()], **changes)
    trainer.hp_search_backend, trainer.hp_space = HPSearchBackend.OPTUNA, lambda trial: trial.params
    trainer.hp_name = None
    with pytest.raises(Pruned):
        trainer.train(trial=SimpleNamespace(number=0, params={}))
    assert heard == ["begin", "end"] and trainer.ticket is None
    trainer.train(trial=SimpleNamespace(number=1, params={}))
    assert heard == ["begin", "end"] * 2 and trainer.ticket.converged
    assert not (tmp_path / "run-0" / "worm_report.json").exists()
    assert report(tmp_path / "run-1")["metrics"]["retrained"]


def test_an_empty_name_of_a_checkpoint_is_refused_as_by_the_parent(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    plain = Trainer(model=copy.deepcopy(bert), args=arguments(tmp_path), train_dataset=examples())
    with pytest.raises(ValueError):
        plain.train(resume_from_checkpoint="")
    for config in (None, CONVERGES):
        trainer = WormTrainer(
            model=copy.deepcopy(bert), args=arguments(tmp_path), train_dataset=examples(), worm_config=config
        )
        with pytest.raises(ValueError):
            trainer.train(resume_from_checkpoint="")


def test_the_retraining_has_the_rows_that_follow(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """One training has one order of rows: an epoch in which the ticket is drawn has each row once."""

    class Recording(WormTrainer):
        rows: ClassVar[list[tuple[int, ...]]] = []

        def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
            self.rows.extend(map(tuple, inputs["input_ids"].tolist()))
            return super().training_step(model, inputs, *rest)

    config = WormConfig(stopping_point=0.5, sample_strategy="steps", sample_steps=3, retrain_epochs=2.0)
    trainer = worm_trainer(bert, tmp_path, config, Recording)
    trainer.train()
    assert trainer.progress.steps == {"search": 9, "retrain": 16}
    for first in (0, 64, 128):
        assert len(set(Recording.rows[first : first + 64])) == 64 - max(0, first + 64 - 200)


def test_a_search_that_is_assigned_is_the_one_that_searches(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class Mine(TicketSearch):
        observed: ClassVar[list[int]] = []

        def observe(self, step: int | None = None) -> Any:
            self.observed.append(step or 0)
            return super().observe(step)

    trainer = worm_trainer(bert, tmp_path, CONVERGES)
    trainer.search = Mine(trainer.model, CONVERGES)
    trainer.train()
    assert type(trainer.search) is Mine and Mine.observed == [8, 16, 24]
    trainer.train()
    assert Mine.observed == [8, 16, 24] * 2, "a second run begins clean"


def test_a_smaller_model_is_all_that_is_left_of_a_dense_one(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """While it trains, nothing holds the dense model or any of its weights."""
    import gc
    import weakref

    held: list[Any] = []
    dense: list[weakref.ref[Any]] = []

    def model_init() -> BertForSequenceClassification:
        model = copy.deepcopy(bert)
        dense[:] = [weakref.ref(model), *map(weakref.ref, model.parameters())]
        return model

    class Looks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if trainer.compacted:
                gc.collect()
                held.append([one() for one in dense if one() is not None])

    config = WormConfig(layers=["neurons", "heads"], stopping_point=0.9, compact=True)
    trainer = worm_trainer(bert, tmp_path, config, model_init=model_init, callbacks=[Looks()])
    trainer.train()
    assert held == [[]] * 8
    assert trainer.search.history and trainer.search.masks, "what the search has found can still be read"
