"""`WormCallback`: the same search, draw and holding in a Trainer that one does not subclass."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import (
    QUERY_AND_KEY,
    arguments,
    checkpoints,
    examples,
    pruned_are_zero,
    same_weights,
    weights,
    worm_trainer,
)
from transformers import BertForSequenceClassification, EarlyStoppingCallback, Trainer, TrainerCallback

from hf_worm import Ticket, WormCallback, WormConfig

CONFIG = WormConfig(stopping_point=0.5, margin=0.3, retrain_schedule="continue")


def trained(
    model: nn.Module, folder: Path, config: WormConfig = CONFIG, checkpoint: str | None = None, **changes: Any
) -> tuple[Trainer, WormCallback]:
    callback = WormCallback(config)
    callbacks = [callback, *changes.pop("callbacks", [])]
    rows = {"train_dataset": changes.pop("train_dataset", examples()), "eval_dataset": examples(16)}
    trainer = Trainer(model=model, args=arguments(folder, **changes), callbacks=callbacks, **rows)
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer, callback


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"truncation_target": "update"},
        {"truncation_target": "fade", "fade_epochs": 0.5},
        {"layers": ["neurons", "heads"], "sample_strategy": "steps", "sample_steps": 3},
        {"score": "fisher", "layers": ["neurons"]},
    ],
    ids=["gradient", "update", "fade", "neurons and heads", "fisher"],
)
def test_it_does_as_a_worm_trainer_does(
    changes: dict[str, Any], bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """Without clipping: a callback sees gradients after it, and a `WormTrainer` before."""
    config = WormConfig(**{"stopping_point": 0.5, "margin": 0.3, "retrain_schedule": "continue", **changes})
    theirs = worm_trainer(copy.deepcopy(bert), tmp_path / "theirs", config, max_grad_norm=0.0)
    theirs.train()
    trainer, callback = trained(bert, tmp_path / "mine", config, max_grad_norm=0.0)
    assert callback.ticket.converged and callback.progress.steps == theirs.progress.steps
    assert same_weights(callback.ticket.masks, theirs.ticket.masks)
    assert same_weights(weights(trainer.model), weights(theirs.model))
    assert callback.search.history == theirs.search.history
    assert same_weights(Ticket.from_pretrained(tmp_path / "mine").masks, theirs.ticket.masks)


@pytest.mark.parametrize("target", ["gradient", "fade"])
def test_it_is_resumed_from_any_checkpoint(target: str, bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(stopping_point=0.5, margin=0.3, truncation_target=target, fade_epochs=0.5)
    saving = {"save_strategy": "steps", "save_steps": 6}
    whole, callback = trained(copy.deepcopy(bert), tmp_path, config, **saving)
    folders = checkpoints(tmp_path)
    with_ticket = [folder for folder in folders if (folder / "ticket.safetensors").exists()]
    assert 0 < len(with_ticket) < len(folders), "checkpoints of both phases are put to the test"
    for folder in folders[:-1]:
        resumed, again = trained(
            copy.deepcopy(bert), tmp_path, config, str(folder), **{**saving, "save_strategy": "no"}
        )
        assert same_weights(weights(resumed.model), weights(whole.model)), folder.name
        assert again.search.history == callback.search.history
        assert same_weights(again.ticket.masks, callback.ticket.masks)


def test_a_checkpoint_elsewhere_has_to_be_named(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    whole, _ = trained(copy.deepcopy(bert), tmp_path / "whole", save_strategy="epoch")
    folder = str(checkpoints(tmp_path / "whole")[1])
    with pytest.raises(ValueError, match=r"Can't find the checkpoint of step 16.*resume_from_checkpoint=\.\.\."):
        trained(copy.deepcopy(bert), tmp_path / "else", checkpoint=folder)
    resumed, _ = trained(bert, tmp_path / "named", checkpoint=folder, resume_from_checkpoint=folder)
    assert same_weights(weights(resumed.model), weights(whole.model))


def test_what_it_prunes_is_zero_at_every_save_and_after_every_step(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class Looks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
            zeros.append(float((model.get_parameter(QUERY_AND_KEY[0]) == 0).float().mean()))

    zeros: list[float] = []
    trainer, callback = trained(bert, tmp_path, callbacks=[Looks()], save_strategy="epoch", weight_decay=0.1)
    drawn = callback.progress.steps["search"]
    assert zeros == [0.0] * drawn + [0.5] * (40 - drawn)
    assert [pruned_are_zero(folder, callback.ticket) for folder in checkpoints(tmp_path)] == [False] * 3 + [True] * 2
    trainer.save_model()
    assert pruned_are_zero(tmp_path, callback.ticket)


def test_no_retraining_ends_the_training_at_the_draw(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer, callback = trained(bert, tmp_path, WormConfig(stopping_point=0.5, retrain_epochs=0))
    assert trainer.state.global_step == 24 and callback.ticket.sparsity == 0.5
    assert pruned_are_zero_in(trainer.model, callback.ticket)


def test_masks_that_do_not_converge_are_drawn_at_the_end(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="had not converged"):
        trainer, callback = trained(bert, tmp_path, WormConfig(stopping_point=0.0), num_train_epochs=2)
    assert trainer.state.global_step == 16 and not callback.ticket.converged
    assert pruned_are_zero_in(trainer.model, callback.ticket)


def test_another_callback_that_stops_the_training_stops_it(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    changes = {"eval_strategy": "epoch", "save_strategy": "epoch", "learning_rate": 0.0, "load_best_model_at_end": True}
    with pytest.warns(UserWarning, match="had not converged"):
        trainer, callback = trained(
            bert,
            tmp_path,
            WormConfig(stopping_point=0.0),
            callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
            metric_for_best_model="loss",
            **changes,
        )
    assert trainer.state.global_step == 16 and pruned_are_zero_in(trainer.model, callback.ticket)


def test_its_log_has_the_observations(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer, callback = trained(bert, tmp_path)
    logged = [entry for entry in trainer.state.log_history if "worm_sparsity" in entry]
    assert [entry["step"] for entry in logged] == [8, 16, 24]
    assert [entry.get("worm_max_distance") for entry in logged] == [
        observation.max_distance for observation in callback.search.history
    ]


def test_a_second_training_begins_clean(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer, callback = trained(bert, tmp_path)
    first = callback.ticket
    trainer.train()
    assert callback.ticket is not first and [seen.index for seen in callback.search.history] == [0, 1, 2]


def test_a_smaller_model_takes_a_trainer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`compact=True` takes a second training.*use `WormTrainer`"):
        WormCallback(WormConfig(layers=["neurons"], compact=True))
    with pytest.raises(TypeError, match="`config` must be a `WormConfig`, got a `dict`"):
        WormCallback({"prune_ratio": 0.5})  # type: ignore[arg-type]


def test_an_optimizer_that_steps_by_signs_is_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = Trainer(
        model=bert,
        args=arguments(tmp_path),
        train_dataset=examples(),
        optimizers=(torch.optim.Rprop(bert.parameters(), lr=1e-3), None),
        callbacks=[WormCallback(CONFIG)],
    )
    with pytest.raises(ValueError, match=r"`Rprop` steps by the sign.*truncation_target='update'"):
        trainer.train()


def pruned_are_zero_in(model: nn.Module, ticket: Ticket) -> bool:
    return all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in ticket.masks.items())
