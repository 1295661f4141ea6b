"""When masks are taken, at which ratio, and when they are drawn; gradual pruning against the benchmarks' callback."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from own_parts import RandomScore
from torch import nn
from training import arguments, examples, same_weights, weights
from transformers import BertForSequenceClassification, Trainer, TrainerCallback, set_seed

from hf_worm import Ticket, TicketSearch, WormConfig
from hf_worm.schedule import Cubic, EarlyBird, Schedule, schedule_of

EPOCHS, PER_EPOCH, RAMP, EVERY, P = 4, 8, 1.75, 3, 0.6


def test_masks_are_due_at_each_epochs_end_or_every_few_steps() -> None:
    by_epochs, by_steps = EarlyBird(0.1, 0.1, 3), EarlyBird(0.1, 0.1, 3, sample_steps=4)
    assert [step for step in range(1, 17) if by_epochs.due(step, epoch_end=step % 8 == 0)] == [8, 16]
    assert [step for step in range(1, 17) if by_steps.due(step, epoch_end=step % 8 == 0)] == [4, 8, 12, 16]


def test_gradual_pruning_is_due_at_its_last_step_too() -> None:
    cubic = Cubic(1.25, sample_steps=4)
    cubic.start(8)
    assert [step for step in range(1, 11) if cubic.due(step, epoch_end=step % 8 == 0)] == [4, 8, 10]
    by_epochs = Cubic(1.25)
    by_epochs.start(8)
    assert [step for step in range(1, 11) if by_epochs.due(step, epoch_end=step % 8 == 0)] == [8, 10]
    assert [cubic.settled(step, (), False) for step in (4, 8, 9, 10, 11)] == [False, False, False, True, True]


def test_the_ratio_rises_as_zhu_and_gupta_have_it() -> None:
    cubic = Cubic(2.0)
    cubic.start(10)
    assert [cubic.share(step) for step in (0, 20, 30)] == [0, 1, 1]
    for step in range(21):
        assert cubic.share(step) == 1 - (1 - step / 20) ** 3
    assert EarlyBird(0.1, 0.1, 3).share(1) == 1


@pytest.mark.parametrize("steps", [None, 0, -1])
def test_gradual_pruning_needs_the_steps_of_an_epoch(model: nn.Module, steps: int | None) -> None:
    search = TicketSearch(model, WormConfig(schedule="cubic"))
    assert search.needs_epochs and not search.needs_gradients
    with pytest.raises(ValueError, match=re.escape(f"the optimizer's steps in an epoch, got {steps!r}.")):
        search.attach(torch.optim.SGD(model.parameters(), lr=0.1), steps)
    with pytest.raises(RuntimeError, match=re.escape("call `search.attach(optimizer, steps_per_epoch=...)` first")):
        search.observe()
    with pytest.raises(RuntimeError, match=re.escape("call `search.attach(optimizer, steps_per_epoch=...)` first")):
        search.due(1, False)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, EarlyBird),
        ({"truncate_from": "start", "sample_strategy": "steps", "sample_steps": 5}, EarlyBird),
        ({"schedule": "cubic", "ramp_epochs": 2.5, "sample_strategy": "steps", "sample_steps": 5}, Cubic),
    ],
)
def test_the_settings_name_the_schedule(settings: dict[str, Any], kind: Any) -> None:
    schedule = schedule_of(WormConfig(**settings))
    assert type(schedule) is kind and isinstance(schedule, Schedule)
    assert schedule.sample_steps == settings.get("sample_steps")
    assert schedule.from_start == (settings.get("truncate_from") == "start")


def test_a_mask_is_due_once_at_a_step(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig())
    assert search.due(8, epoch_end=True)
    search.observe(step=8)
    assert not search.due(8, epoch_end=True) and search.due(16, epoch_end=True)
    resumed = TicketSearch(model, WormConfig())
    resumed.load_state_dict(search.state_dict())
    assert not resumed.due(8, epoch_end=True) and resumed.due(16, epoch_end=True)


# Gradual pruning.


class GradualPruning(TrainerCallback):
    """The benchmarks' callback, line by line, with the naive mask of each layer."""

    def __init__(self, model: nn.Module, epochs: int, ramp: float, every: int, prune_ratio: float) -> None:
        self.model, self.epochs, self.ramp, self.every, self.prune_ratio = model, epochs, ramp, every, prune_ratio
        self.ticket: Ticket | None = None
        self.sparsities: list[float] = []
        self._held: Any = None

    def masks(self, ratio: float) -> dict[str, torch.Tensor]:
        found = {}
        for name, parameter in self.model.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                order = parameter.detach().abs().flatten().argsort(stable=True)
                mask = torch.ones(parameter.numel(), dtype=torch.bool)
                mask[order[: round(ratio * parameter.numel())]] = False
                found[name] = mask.view(parameter.shape)
        return found

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        end = round(self.ramp * state.max_steps)
        step = state.global_step
        if step > end or (step % self.every and step != end):
            return
        ratio = self.prune_ratio * (1 - (1 - step / end) ** 3)
        if self._held is not None:
            self._held.remove()
        self.ticket = Ticket(self.masks(ratio), WormConfig(prune_ratio=self.prune_ratio))
        self.sparsities.append(self.ticket.sparsity)
        self._held = self.ticket.hold(self.model, optimizer.optimizer)


class Searching(TrainerCallback):
    """The same by a search with the cubic schedule, in one training."""

    def __init__(self, model: nn.Module, config: WormConfig, state: dict[str, Any] | None = None) -> None:
        self.model, self.search = model, TicketSearch(model, config)
        self.ticket: Ticket | None = None
        self.state, self.kept = state, {}
        self.handle: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        if self.state is not None:
            self.search.load_state_dict(self.state)
        self.handle = self.search.attach(optimizer, steps_per_epoch=PER_EPOCH)

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        step = state.global_step
        due = self.ticket is None and self.search.due(step, epoch_end=False)
        if due and self.search.observe(step).converged:
            self.ticket = self.search.draw()
            self.ticket.hold(self.model, optimizer)
            self.handle.remove()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.kept[state.global_step] = copy.deepcopy(self.search.state_dict())


def train(model: nn.Module, folder: Path, callback: TrainerCallback, resume: str | None = None, **changes: Any) -> None:
    set_seed(42)
    changes = {"num_train_epochs": EPOCHS, "weight_decay": 0.1, "max_grad_norm": 1.0, **changes}
    trainer = Trainer(model=model, args=arguments(folder, **changes), train_dataset=examples(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)


def cubic_config(**changes: Any) -> WormConfig:
    sampling = {"sample_strategy": "steps", "sample_steps": EVERY}
    return WormConfig(**{"schedule": "cubic", "prune_ratio": P, "ramp_epochs": RAMP, **sampling, **changes})


def test_gradual_pruning_is_that_of_the_benchmarks_to_the_last_bit(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    theirs, mine = copy.deepcopy(bert), copy.deepcopy(bert)
    benchmark = GradualPruning(theirs, EPOCHS, RAMP / EPOCHS, EVERY, P)
    train(theirs, tmp_path / "theirs", benchmark)
    callback = Searching(mine, cubic_config())
    train(mine, tmp_path / "mine", callback)
    assert benchmark.ticket is not None and callback.ticket is not None
    assert len(callback.search.history) == len(benchmark.sparsities) == 5
    assert benchmark.sparsities == sorted(set(benchmark.sparsities)), "it rises"
    assert callback.ticket.masks.keys() == benchmark.ticket.masks.keys()
    assert all(torch.equal(mask, benchmark.ticket.masks[name]) for name, mask in callback.ticket.masks.items())
    assert same_weights(weights(mine), weights(theirs))
    assert callback.ticket.converged and callback.ticket.parts["schedule"] == "cubic"
    assert not any(seen.truncating for seen in callback.search.history)


def test_interrupted_gradual_pruning_comes_to_the_same_bits(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    whole = copy.deepcopy(bert)
    callback = Searching(whole, cubic_config())
    saving = {"save_strategy": "steps", "save_steps": 5}
    train(whole, tmp_path, callback, **saving)
    for step in (5, 10):
        again = copy.deepcopy(bert)
        resumed = Searching(again, cubic_config(), callback.kept[step])
        train(again, tmp_path / "again", resumed, str(tmp_path / f"checkpoint-{step}"))
        assert same_weights(weights(again), weights(whole))
        assert resumed.search.history == callback.search.history


def test_between_samplings_pruned_weights_are_zero_and_afterwards_the_hold_is_let_go(model: nn.Module) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    search = TicketSearch(model, cubic_config(sample_steps=2, ramp_epochs=1.0))
    handle = search.attach(optimizer, steps_per_epoch=6)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 4, 8)), torch.arange(16) % 2).backward()
        search.truncate_gradients()
        optimizer.step()

    def zeros() -> int:
        return sum(int((layer.weight == 0).sum()) for layer in search.layers)

    counts = []
    for number in range(1, 7):
        step()
        if search.due(number, epoch_end=False):
            search.observe()
        counts.append(zeros())
    units = 4 * 64
    ratios = [P * (1 - (1 - t / 6) ** 3) for t in (2, 4, 6)]
    expected = [4 * round(ratio * 64) for ratio in ratios]
    assert counts == [0, expected[0], expected[0], expected[1], expected[1], expected[2]] and expected[2] < units
    assert search.converged
    search.draw()
    step()
    assert zeros() == 0, "a drawn ticket is held by `hold` alone"
    handle.remove()


def test_a_weight_that_a_later_mask_keeps_trains_on_from_zero(model: nn.Module) -> None:
    """The mask is taken anew at each sampling, here of scores that change at random."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = TicketSearch(model, cubic_config(), score=RandomScore(1))
    search.attach(optimizer, steps_per_epoch=PER_EPOCH)
    back, before = 0, {name: torch.ones(8, 8, dtype=torch.bool) for name in ("0.query.weight", "1.key.weight")}
    for number in range(1, round(RAMP * PER_EPOCH) + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 4, 8)), torch.arange(16) % 2).backward()
        search.truncate_gradients()
        optimizer.step()
        for name, mask in search.masks.items():
            if name in before:
                back += int((mask & ~before[name]).sum())
                assert torch.equal(model.get_parameter(name) != 0, mask)
        if search.due(number, epoch_end=False):
            before = {name: search.masks.get(name, kept) for name, kept in before.items()}
            search.observe()
    assert back > 0 and search.converged


def test_a_ramp_that_has_not_ended_is_warned_of(model: nn.Module) -> None:
    search = TicketSearch(model, cubic_config())
    search.attach(torch.optim.SGD(model.parameters(), lr=0.1), steps_per_epoch=PER_EPOCH)
    search.observe(step=3)
    with pytest.warns(UserWarning, match=r"rises for 14 optimizer steps, and was still rising.*`ramp_epochs`"):
        assert not search.draw().converged
