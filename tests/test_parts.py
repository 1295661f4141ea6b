"""Parts of a user's own in a search: what they do, and that a search with them goes on to the same bits."""

import copy
import inspect
import io
from typing import Any

import own_parts
import pytest
import torch
from own_parts import Doubling, EverSmaller, RandomScore, WholeRows
from torch import nn

from hf_worm.config import WormConfig
from hf_worm.search import TicketSearch

STEPS = 16


def own(**parts: Any) -> dict[str, Any]:
    made = {
        "score": RandomScore(3),
        "select": WholeRows(),
        "schedule": Doubling(STEPS),
        "treatment": EverSmaller(0.5),
    }
    return {**made, **parts}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, search: TicketSearch, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 4, 8)), torch.arange(16) % 2).backward()
        search.truncate_gradients()
        optimizer.step()
        if search.due(step + 1, epoch_end=False):
            search.observe()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("name", ["RandomScore", "WholeRows", "Doubling", "EverSmaller"])
def test_a_part_of_ones_own_is_a_class_of_at_most_25_lines(name: str) -> None:
    assert len(inspect.getsource(getattr(own_parts, name)).splitlines()) <= 25


def test_a_search_with_parts_of_ones_own_does_what_they_say(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(), **own())
    train(model, sgd(model), search, range(STEPS))
    assert len(search.history) == 5 and search.converged
    assert [seen.truncating for seen in search.history] == [False, True, True, True, True]
    for mask in search.masks.values():
        assert mask.all(1).sum() == (~mask).all(1).sum() == 4, "whole rows, half of them"
    generator = torch.Generator().manual_seed(3)
    for step in range(STEPS):
        torch.rand((), generator=generator)
        if Doubling(STEPS).due(step + 1, False):
            scores = [torch.rand(8, 8, generator=generator).sum(1) for _ in search.layers]
    for mask, rows in zip(search.masks.values(), scores, strict=True):
        assert mask[:, 0].tolist() == (rows > rows.sort().values[3]).tolist()
    assert search.treatment.steps == STEPS - 2, "the second observation triggers"
    ticket = search.draw()
    assert ticket.converged
    assert ticket.parts == {"score": "random", "select": "rows", "schedule": "doubling", "treatment": "ever_smaller"}


@pytest.mark.parametrize("after", [0, 1, 3, 9, 15])
@pytest.mark.parametrize("kept", [None, "score", "select", "schedule", "treatment"])
def test_interrupted_and_resumed_it_comes_to_the_same_bits(model: nn.Module, after: int, kept: str | None) -> None:
    """All four parts, or all but one that is the settings'."""
    config = WormConfig(sample_strategy="steps", sample_steps=2, stopping_point=0.4, margin=0.2, truncation=0.5)

    def search_in(one: nn.Module) -> TicketSearch:
        return TicketSearch(one, config, **(own() if kept is None else own(**{kept: None})))

    twin = copy.deepcopy(model)
    whole = search_in(model)
    train(model, sgd(model), whole, range(STEPS))
    first = search_in(twin)
    train(twin, sgd(twin), first, range(after))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = search_in(twin)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(twin, sgd(twin), resumed, range(after, STEPS))
    assert resumed.history == whole.history and whole.history
    assert all(torch.equal(mask, whole.masks[name]) for name, mask in resumed.masks.items())
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_without_its_state_it_does_not_come_to_the_same_bits(model: nn.Module) -> None:
    twin = copy.deepcopy(model)
    whole, first = TicketSearch(model, WormConfig(), **own()), TicketSearch(twin, WormConfig(), **own())
    train(model, sgd(model), whole, range(STEPS))
    train(twin, sgd(twin), first, range(9))
    state = first.state_dict() | {"score": RandomScore(3).state_dict()}
    resumed = TicketSearch(twin, WormConfig(), **own())
    resumed.load_state_dict(state)
    train(twin, sgd(twin), resumed, range(9, STEPS))
    assert any(not torch.equal(mask, whole.masks[name]) for name, mask in resumed.masks.items())


@pytest.mark.parametrize("part", ["score", "select", "schedule"])
def test_a_search_is_not_resumed_with_another_part(model: nn.Module, part: str) -> None:
    state = TicketSearch(model, WormConfig(), **own()).state_dict()
    search = TicketSearch(model, WormConfig(), **own(**{part: None}))
    with pytest.raises(ValueError, match=f"The saved search ran with `{part}="):
        search.load_state_dict(state)


@pytest.mark.parametrize("part", ["score", "select", "schedule", "treatment"])
def test_what_is_no_part_is_refused(model: nn.Module, part: str) -> None:
    for wrong in (lambda layer: layer.weight, "fisher", type(own()[part])):
        with pytest.raises(TypeError, match=f"`{part}` must be a `.*`, got .* it lacks an attribute or a method"):
            TicketSearch(model, WormConfig(), **{part: wrong})


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda layer: torch.rand(3), r"Scores of `0.query.weight` are floating point, of shape \(8, 8\); .*`random`"),
        (lambda layer: torch.ones(8, 8, dtype=torch.long), "has torch.int64 of shape"),
        (lambda layer: -torch.rand(8, 8), "Scores are at least 0; the score `random` of `0.query.weight` is not"),
        (lambda layer: torch.full((8, 8), torch.nan), "The score `random` of `0.query.weight`, .* is NaN or infinite"),
    ],
)
def test_what_is_no_score_is_refused(model: nn.Module, scores: Any, message: str) -> None:
    score = RandomScore(0)
    score.of = scores  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=message):
        TicketSearch(model, WormConfig(), score=score).observe()


@pytest.mark.parametrize("mask", [torch.ones(8, 8), torch.ones(8, dtype=torch.bool)])
def test_what_is_no_mask_is_refused(model: nn.Module, mask: torch.Tensor) -> None:
    class Wrong(WholeRows):
        def masks(self, layers: Any, scores: Any, ratios: Any) -> Any:
            return [mask for _ in layers]

    with pytest.raises(
        ValueError, match=r"A mask of `0.query.weight` is `bool` of shape \(8, 8\); the selection `rows`"
    ):
        TicketSearch(model, WormConfig(), select=Wrong()).observe()
