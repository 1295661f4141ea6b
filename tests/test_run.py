"""`Run`: search, draw and holding in a loop of one's own, by plain numbers."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_worm import WormConfig
from hf_worm.checkpoint.state import load_run
from hf_worm.report.progress import Progress
from hf_worm.run import Run
from hf_worm.ticket import Ticket

STEPS = 4  # of an epoch
CONVERGES = WormConfig(layers=["query.weight"], window=2, stopping_point=0.9)  # after two epochs
NEVER = WormConfig(layers=["query.weight"], window=2, stopping_point=0.0)


@dataclass
class At:
    """A place in a training of so many steps."""

    global_step: int = 0
    max_steps: int = 20

    @property
    def epoch(self) -> float:
        return self.global_step / STEPS


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"query": nn.Linear(6, 6)})


def new_run(config: WormConfig = CONVERGES) -> tuple[Run, list[tuple[int, int]]]:
    """A run, and the steps and numbers of what it tells."""
    told: list[tuple[int, int]] = []
    return Run(config, {}, lambda observation, at: told.append((at.global_step, observation.index))), told


def train(model: nn.Module, run: Run, folder: Path | None = None, resume: int | None = None, stop: int = -1) -> At:
    """Train with plain SGD, save before each epoch's end as a Trainer does, and go on from one of these steps."""
    at, saved, optimizer = At(), None, torch.optim.SGD(model.parameters(), lr=0.1)
    if resume is not None and folder is not None:
        model.load_state_dict(torch.load(folder / str(resume) / "model.pt"))
        at.global_step, saved = resume, load_run(folder / str(resume))
    run.restore(model, saved)
    total = run.plan(5, STEPS, at.max_steps)
    if saved is not None and run.is_over(at, total, stopped=False):
        return at
    run.begin(at, model, optimizer, STEPS)
    going = not run.end_search(at, False, resumed=bool(at.global_step)) or run.goes_on(at)
    while going and at.global_step < at.max_steps:
        if run.searching and run.over:
            run.close_search(at, "draw")
            run.draw()
            run.progress.enter("retrain")
            run.hold(model, optimizer)
        generator = torch.Generator().manual_seed(at.global_step)
        model["query"](torch.randn(8, 6, generator=generator)).square().mean().backward()
        if run.searching:
            run.searched.truncate_gradients()
        optimizer.step()
        optimizer.zero_grad()
        at.global_step += 1
        run.step_ended(at)
        ended = run.end_search(at, at.global_step == stop)
        if folder is not None and resume is None:
            path = folder / str(at.global_step)
            run.save(path)
            torch.save(model.state_dict(), path / "model.pt")
            if run.ticket is not None:
                run.ticket.save_pretrained(path)
        if at.global_step % STEPS == 0:
            run.epoch_ended(at)
            ended |= run.end_search(at, False)
        going = not ended or run.goes_on(at)
    if run.searching:
        run.close_search(at, "draw")
        run.draw()
        run.stop()
    else:
        run.finish(at, model)
    return at


def pruned(model: nn.Module, ticket: Ticket) -> bool:
    return all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in ticket.masks.items())


CONTINUES = WormConfig(layers=["query.weight"], window=2, stopping_point=0.9, retrain_schedule="continue")


def test_a_loop_of_ones_own_searches_draws_and_holds(model: nn.Module) -> None:
    run, told = new_run(CONTINUES)
    at = train(model, run)
    assert at.global_step == 20 and told == [(4, 0), (8, 1)]
    assert run.progress.steps == {"search": 8, "retrain": 12} and run.progress.epochs == {"search": 2.0, "retrain": 3.0}
    assert run.drawn.converged and pruned(model, run.drawn) and not run.training


@pytest.mark.parametrize("step", range(1, 20))
def test_a_run_goes_on_from_wherever_it_was_saved(step: int, model: nn.Module, tmp_path: Path) -> None:
    """At an epoch's last step, which is saved before its observation, too."""
    whole, (run, _), (again, _) = copy.deepcopy(model), new_run(CONTINUES), new_run(CONTINUES)
    train(whole, run, tmp_path)
    train(model, again, tmp_path, resume=step)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))
    assert again.searched.history == run.searched.history and again.progress.steps == run.progress.steps
    assert again.drawn.masks.keys() == run.drawn.masks.keys()


def test_a_search_that_forgets_its_masks_ends_elsewhere(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    train(copy.deepcopy(model), new_run(CONTINUES)[0], tmp_path)
    again = new_run(CONTINUES)[0]
    monkeypatch.setattr(again.kind, "load_state_dict", lambda self, state: None)
    train(model, again, tmp_path, resume=6)
    assert again.progress.steps == {"search": 12, "retrain": 8}


def test_masks_that_were_taken_without_a_count_of_steps_are_not_taken_again(model: nn.Module) -> None:
    """A search may observe the weights of an epoch by itself: its own count of steps says nothing then."""
    run, told = new_run(NEVER)
    run.restore(model)
    run.plan(5, STEPS, 20)
    run.searched.observe()
    run.progress.observed_step = STEPS
    assert not run.is_over(At(STEPS), 20, stopped=False)
    run.begin(At(STEPS), model, torch.optim.SGD(model.parameters()), STEPS)
    run.epoch_ended(At(STEPS))
    assert told == [] and len(run.searched.history) == 1


@pytest.mark.parametrize(("stop", "observed"), [(6, [4, 6]), (8, [4, 8])])
def test_a_search_that_is_asked_to_end_takes_its_masks_first(stop: int, observed: list[int], model: nn.Module) -> None:
    """Within an epoch at once, and at its last step where the epoch ends."""
    run, told = new_run(NEVER)
    run.draws = False
    run.restore(model)
    run.plan(5, STEPS, 20)
    run.begin(At(), model, torch.optim.SGD(model.parameters()), STEPS)
    for step in range(1, stop + 1):
        at = At(step)
        run.step_ended(at)
        ended = run.end_search(at, stopped=step == stop)
        if step % STEPS == 0:
            assert not ended, "the epoch's end is still to come"
            run.epoch_ended(at)
            ended = run.end_search(at, stopped=step == stop)
    assert ended and run.over and run.progress.stopped and [step for step, _ in told] == observed
    assert not run.end_search(at, stopped=True), "it ends once"


@pytest.mark.parametrize(
    ("config", "ticket", "steps"),
    [
        ({}, False, 20 + 4),
        ({"retrain_epochs": 2.5}, False, 20 + 10),
        ({"retrain_epochs": 0.0}, False, 20),
        ({"retrain_schedule": "continue"}, False, 20),
        ({"retrain_epochs": 2.5}, True, 8 + 10),
        ({"retrain_schedule": "continue"}, True, 20),
    ],
)
def test_the_plan_has_a_retraining_where_one_follows(
    config: dict[str, Any], ticket: bool, steps: int, model: nn.Module
) -> None:
    run, _ = new_run(WormConfig(layers=["query.weight"], **config))
    run.restore(model)
    if ticket:
        run.searched.observe(8)
        run.draw()
        run.progress = Progress(phase="retrain", begun_step=8)
    assert run.plan(5, STEPS, 20) == steps


@pytest.mark.parametrize(
    ("step", "stopped", "epochs", "over"),
    [
        (20, False, 0.0, True),
        (20, False, 1.0, False),
        (10, False, 0.0, False),
        (10, True, 0.0, True),
        (10, True, 1.0, False),
    ],
)
def test_a_search_is_over_with_its_steps_or_where_it_was_stopped(
    step: int, stopped: bool, epochs: float, over: bool, model: nn.Module
) -> None:
    run, _ = new_run(WormConfig(layers=["query.weight"], stopping_point=0.0, retrain_epochs=epochs))
    run.restore(model)
    total = run.plan(5, STEPS, 20)
    assert run.is_over(At(step), total, stopped) == over


def test_without_a_model_there_is_no_search_and_no_ticket() -> None:
    run, _ = new_run()
    with pytest.raises(RuntimeError, match="There is no search yet"):
        run.searched  # noqa: B018
    with pytest.raises(RuntimeError, match="There is no ticket yet"):
        run.drawn  # noqa: B018
