"""Searches and retrainings that end otherwise than by their steps: by epochs, callbacks or an interruption."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import arguments, checkpoints, examples, report, same_weights, weights, worm_trainer
from transformers import BertForSequenceClassification, Trainer, TrainerCallback, TrainerControl, TrainerState

from hf_worm import Ticket, TicketSearch, WormCallback, WormConfig
from hf_worm.checkpoint.state import load_state, save_state
from hf_worm.report.progress import Progress

CONVERGES = WormConfig(stopping_point=0.9, margin=0.1)  # after three epochs of 8 steps
NEVER = WormConfig(stopping_point=0.0)


class At(TrainerCallback):
    """Does something at the end of a step or an epoch."""

    def __init__(
        self, event: str, when: Callable[[TrainerState], bool], what: Callable[[TrainerControl], None]
    ) -> None:
        setattr(self, event, lambda args, state, control, **kwargs: what(control) if when(state) else None)


def stop_epoch(control: TrainerControl) -> None:
    control.should_epoch_stop = True


def stop_training(control: TrainerControl) -> None:
    control.should_training_stop = True


def interrupt(control: TrainerControl) -> None:
    raise KeyboardInterrupt


def every_three(state: TrainerState) -> bool:
    return state.global_step % 3 == 0


def test_epochs_that_end_early_end_the_search_all_the_same(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """Five epochs of three steps, where five of eight were planned; and one of retraining."""
    short = At("on_step_end", every_three, stop_epoch)
    trainer = worm_trainer(bert, tmp_path, NEVER, callbacks=[short], eval_dataset=examples(8))
    with pytest.warns(UserWarning, match="had not converged"):
        trainer.train()
    assert trainer.progress.steps == {"search": 15, "retrain": 3}
    assert len(trainer.search.history) == 5
    assert set(report(tmp_path)["metrics"]) == {"before_draw", "drawn", "retrained"}


def test_epochs_that_end_early_end_a_callbacks_search_too(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    callback = WormCallback(NEVER)
    trainer = Trainer(
        model=bert,
        args=arguments(tmp_path),
        train_dataset=examples(),
        callbacks=[callback, At("on_step_end", every_three, stop_epoch)],
    )
    with pytest.warns(UserWarning, match="had not converged"):
        trainer.train()
    assert callback.ticket.sparsity == 0.5 and callback.progress.steps == {"search": 15}
    assert same_weights(Ticket.from_pretrained(tmp_path).masks, callback.ticket.masks)


def test_a_retraining_that_was_stopped_has_its_account_when_it_is_resumed(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    def trainer(name: str) -> Any:
        config = WormConfig(stopping_point=0.9, margin=0.1, retrain_epochs=3.0)
        stop = At("on_epoch_end", lambda state: state.global_step == 32, stop_training)
        saving = {"save_strategy": "epoch", "eval_dataset": examples(8), "callbacks": [stop]}
        return worm_trainer(copy.deepcopy(bert), tmp_path / name, config, **saving)

    whole, resumed = trainer("whole"), trainer("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(checkpoints(tmp_path / "whole")[-1]))
    assert resumed.progress.steps == whole.progress.steps == {"search": 24, "retrain": 8}
    assert report(tmp_path / "resumed")["metrics"] == report(tmp_path / "whole")["metrics"]


@pytest.mark.parametrize("step", [15, 16, 17])
def test_a_search_that_was_stopped_stays_so_when_it_is_resumed(
    step: int, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """Within an epoch, and at its last step, which is saved before the epoch ends."""

    def trainer(name: str) -> Any:
        stop = At("on_step_end", lambda state: state.global_step == step, stop_training)
        saving = {"save_strategy": "steps", "save_steps": step, "callbacks": [stop]}
        return worm_trainer(copy.deepcopy(bert), tmp_path / name, NEVER, **saving)

    whole, resumed = trainer("whole"), trainer("resumed")
    with pytest.warns(UserWarning, match="had not converged"):
        whole.train()
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert resumed.progress.steps == whole.progress.steps == {"search": step, "retrain": 8}
    assert same_weights(weights(resumed.model), weights(whole.model))
    assert resumed.search.history == whole.search.history


@pytest.mark.parametrize("kind", ["callback", "trainer"])
def test_the_newest_mask_is_drawn_from_the_weights_that_it_was_taken_of(
    kind: str, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """`load_best_model_at_end` finds the first checkpoint of the search the best one, and must not load it."""
    evaluations: list[int] = []

    def metrics(prediction: Any) -> dict[str, float]:
        evaluations.append(1)
        return {"first": -float(len(evaluations))}

    best = {"load_best_model_at_end": True, "metric_for_best_model": "first", "greater_is_better": True}
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "learning_rate": 1e-2, **best}
    rows = {"train_dataset": examples(), "eval_dataset": examples(16), "compute_metrics": metrics}
    config = WormConfig(stopping_point=0.0, retrain_epochs=0.0)
    with pytest.warns(UserWarning, match="had not converged"):
        if kind == "trainer":
            trainer: Any = worm_trainer(bert, tmp_path, config, **rows, **settings)
            trainer.train()
            ticket = trainer.ticket
        else:
            callback = WormCallback(config)
            trainer = Trainer(model=bert, args=arguments(tmp_path, **settings), callbacks=[callback], **rows)
            trainer.train()
            ticket = callback.ticket
    last = load_file(tmp_path / "checkpoint-40" / "model.safetensors")
    assert all(torch.equal(bert.get_parameter(name)[mask], last[name][mask]) for name, mask in ticket.masks.items())


def test_steps_of_a_retraining_that_was_interrupted_count(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    once = [True]
    at = At("on_step_end", lambda state: state.global_step == 27 and bool(once) and once.pop(), interrupt)
    trainer = worm_trainer(bert, tmp_path, CONVERGES, callbacks=[at])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.retrain()
    assert trainer.state.global_step == 35
    assert trainer.progress.steps == {"search": 24, "retrain": 11}
    assert trainer.progress.epochs == {"search": 3.0, "retrain": 1.375}


def test_a_retraining_that_did_not_begin_leaves_no_log(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class Fails(TrainerCallback):
        begun = 0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun += 1
            if self.begun == 2:
                raise ValueError("the second one")

    trainer = worm_trainer(bert, tmp_path, CONVERGES, callbacks=[Fails()])
    trainer.search_ticket()
    trainer.draw_ticket()
    with pytest.raises(ValueError, match="the second one"):
        trainer.retrain()
    trainer.train()
    steps = [entry["step"] for entry in trainer.state.log_history]
    assert steps == sorted(steps) and steps.count(8) == 2, "a loss and an observation, of one training"


def test_no_epochs_of_search_draw_the_weights_as_they_came(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, CONVERGES, num_train_epochs=0)
    with pytest.warns(UserWarning, match="had not converged"):
        trainer.train()
    assert trainer.ticket.sparsity == 0.5 and len(trainer.search.history) == 1


def test_a_search_of_other_settings_is_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, CONVERGES)
    with pytest.raises(ValueError, match=r"other settings than the trainer.*`trainer\.worm_config`"):
        trainer.search = TicketSearch(bert, WormConfig(layers=["neurons"]))


def test_the_state_of_a_part_comes_back_or_is_refused_by_name(tmp_path: Path) -> None:
    given = {"a/b": torch.tensor(1.0), "a": {"b": torch.tensor(2.0), "c": [torch.tensor(3.0), None, "text", 4]}}
    save_state(tmp_path, Progress(), {"score": given})
    read = load_state(tmp_path)[1]["score"]
    assert (float(read["a/b"]), float(read["a"]["b"]), float(read["a"]["c"][0])) == (1.0, 2.0, 3.0)
    assert read["a"]["c"][1:] == [None, "text", 4]
    for wrong, named in (({0: 1}, "`score` has the key 0"), ({"x": {"__tensor__": "y"}}, "`score/x` has the key '__t")):
        with pytest.raises(ValueError, match=f"can't be saved: {named}"):
            save_state(tmp_path, Progress(), {"score": wrong})
    with pytest.raises(ValueError, match="can't be saved: Object of type set"):
        save_state(tmp_path, Progress(), {"score": {"x": {1, 2}}})
