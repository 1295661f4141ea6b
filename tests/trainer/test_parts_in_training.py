"""Parts of the settings and of the user's own, trained through `WormTrainer`, interrupted and resumed."""

import copy
import inspect
from pathlib import Path
from typing import Any

import own_parts
import pytest
import torch
from own_parts import Doubling, EverSmaller, RandomScore, WholeRows
from torch import nn
from training import checkpoints, examples, report, same_weights, weights, worm_trainer
from transformers import BertForSequenceClassification

from hf_worm import Ticket, TicketSearch, WormConfig, WormTrainer

OWN: dict[str, Any] = {
    "score": lambda: RandomScore(3),
    "select": lambda: WholeRows(),
    "schedule": lambda: Doubling(12),
    "treatment": lambda: EverSmaller(0.5),
}
NAMED: dict[str, dict[str, Any]] = {
    "fisher": {"score": "fisher", "layers": ["neurons", "heads"]},
    "taylor of weights": {"score": "taylor", "score_decay": 0.9},
    "fisher, fading": {"score": "fisher", "layers": ["neurons"], "truncation_target": "fade", "fade_epochs": 0.5},
    "2:4": {"scope": "2:4"},
    "cubic": {"schedule": "cubic", "ramp_epochs": 2.0, "sample_strategy": "steps", "sample_steps": 3},
    "cubic, fisher, heads": {"schedule": "cubic", "ramp_epochs": 1.5, "layers": ["heads"], "score": "fisher"},
}


def check_resuming(bert: BertForSequenceClassification, folder: Path, config: WormConfig, make: Any) -> WormTrainer:
    """Train once, and again from each checkpoint; all ends are the same to the bit."""
    settings = {"save_strategy": "steps", "save_steps": 4, "eval_dataset": examples(16)}

    def trainer(name: str) -> WormTrainer:
        model = copy.deepcopy(bert)
        return worm_trainer(model, folder / name, config, lambda **given: WormTrainer(**given, **make()), **settings)

    whole = trainer("whole")
    whole.train()
    saved = checkpoints(folder / "whole")
    steps = [int(one.name.partition("-")[2]) for one in saved]
    assert min(steps) < report(folder / "whole")["search"]["steps"] < max(steps), "both phases are put to the test"
    for checkpoint in saved[:-1]:
        resumed = trainer(f"from {checkpoint.name}")
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(resumed.model), weights(whole.model)), checkpoint.name
        assert same_weights(resumed.ticket.masks, whole.ticket.masks) and resumed.ticket.parts == whole.ticket.parts
        assert resumed.search.history == whole.search.history
    return whole


@pytest.mark.parametrize("part", OWN)
def test_a_part_of_ones_own_is_trained_and_resumed(
    part: str, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(stopping_point=0.9, margin=0.05, retrain_epochs=2.0)
    whole = check_resuming(bert, tmp_path, config, lambda: {part: OWN[part]()})
    made = OWN[part]()
    assert whole.ticket.parts[part] == made.name
    assert len(inspect.getsource(getattr(own_parts, type(made).__name__)).splitlines()) <= 25


@pytest.mark.parametrize("settings", NAMED.values(), ids=NAMED)
def test_a_part_of_the_settings_is_trained_and_resumed(
    settings: dict[str, Any], bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(**{"stopping_point": 0.9, "margin": 0.05, "retrain_epochs": 2.0, **settings})
    whole = check_resuming(bert, tmp_path, config, dict)
    assert whole.ticket.sparsity == pytest.approx(0.5)


def test_a_state_that_is_lost_ends_elsewhere(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a score that forgets what it gathered ranks other units."""
    from hf_worm.scores import GateGradient

    monkeypatch.setattr(GateGradient, "load_state_dict", lambda self, state: None)
    with pytest.raises(AssertionError):
        check_resuming(bert, tmp_path, WormConfig(stopping_point=0.9, **NAMED["fisher"], retrain_epochs=2.0), dict)


def test_a_score_of_ones_own_begins_clean_in_each_training(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    first, second = (
        worm_trainer(
            copy.deepcopy(bert),
            tmp_path,
            WormConfig(stopping_point=0.9),
            lambda **given: WormTrainer(**given, score=RandomScore(3)),
            model_init=lambda: copy.deepcopy(bert),
        )
        for _ in range(2)
    )
    first.train()
    masks = first.ticket.masks
    first.train()
    assert same_weights(first.ticket.masks, masks)
    second.train()
    assert same_weights(second.ticket.masks, masks)


def test_gate_gradients_are_those_ahead_of_clipping_and_truncation(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """A training whose gradients are clipped to nothing and truncated to 0 gathers what the backward passes gave."""
    gathered: list[dict[str, float]] = []

    class Gathers:
        name = "gathers"

        def accumulate(self, layers: Any) -> None:
            gathered.append({layer.name: float(layer.views[0].gradient.norm()) for layer in layers})

        def of(self, layer: Any) -> torch.Tensor:
            return layer.weight.detach().abs()

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: Any) -> None:
            """Nothing is kept."""

    config = WormConfig(truncate_from="start", truncation=0.0, stopping_point=0.0)
    settings = {"max_grad_norm": 1e-12, "num_train_epochs": 1, "optim": "sgd", "learning_rate": 0.0}
    trainer = worm_trainer(bert, tmp_path, config, lambda **given: WormTrainer(**given, score=Gathers()), **settings)
    trainer.search_ticket()
    assert len(gathered) == 8 and all(norm > 1e-9 for step in gathered for norm in step.values())


@pytest.mark.parametrize("layers", [["neurons", "heads"], ["query", "key"]], ids="+".join)
def test_accumulated_batches_gather_as_whole_ones(
    layers: list[str], bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    from training import SequentialTrainer, sum_over_items, without_dropout

    found = {}
    for size, accumulated in ((8, 1), (2, 4)):
        trainer = worm_trainer(
            without_dropout(copy.deepcopy(bert)),
            tmp_path,
            WormConfig(score="fisher", layers=layers, stopping_point=0.0),
            SequentialTrainer,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            compute_loss_func=sum_over_items,
            num_train_epochs=2,
            optim="sgd",
        )
        trainer.search_ticket()
        found[size] = [trainer.search.score.of(layer) for layer in trainer.search.layers]
        assert trainer.search.state_dict()["score"]["step"] == 16
    for whole, parts in zip(found[8], found[2], strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-12)


def test_two_of_each_four_neighbours_stay(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, WormConfig(scope="2:4", stopping_point=0.9))
    trainer.train()
    trainer.save_model()
    for name, mask in Ticket.from_pretrained(tmp_path).masks.items():
        assert bool((mask.view(-1, 4).sum(1) == 2).all())
        assert bool(((bert.get_parameter(name).view(-1, 4) != 0).sum(1) == 2).all())


def test_tickets_of_several_ratios_leave_the_model_alone(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, WormConfig(score="fisher", layers=["neurons"], stopping_point=0.9))
    trainer.search_ticket()
    before = weights(bert)
    tickets = trainer.search.tickets([0.25, 0.5, 0.75])
    assert [ticket.sparsity for ticket in tickets] == [0.25, 0.5, 0.75]
    assert same_weights(weights(bert), before)
    kept = [next(iter(ticket.masks.values())) for ticket in tickets]
    assert bool((kept[1] <= kept[0]).all()) and bool((kept[2] <= kept[1]).all()), "by one ranking"


def test_a_ticket_of_zeros_is_kept_while_it_is_fine_tuned(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    search = TicketSearch(bert, WormConfig(prune_ratio=0.25))
    search.observe()
    search.draw()
    trainer = worm_trainer(bert, tmp_path, WormConfig())
    trainer.ticket = Ticket.from_zeros(bert, ["query", "key"])
    trainer.retrain()
    trainer.save_model()
    assert trainer.ticket.sparsity == 0.25
    model: nn.Module = BertForSequenceClassification.from_pretrained(tmp_path)
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in trainer.ticket.masks.items())
