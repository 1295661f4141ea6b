"""The factor of multiply-adds that makes a model as fast as was asked, on a clock that is given."""

import copy
from collections.abc import Callable

import pytest
import torch
from training import small_bert
from transformers import AlbertConfig, AlbertForSequenceClassification, BertForSequenceClassification

from hf_worm import TicketSearch, WormConfig
from hf_worm.report.speed import counts
from hf_worm.trainer import fitting
from hf_worm.trainer.fitting import LIMIT, fit, gain

ROW = {"input_ids": torch.arange(8)[None]}
Clock = Callable[[float], float]  # from the share of multiply-adds that is left to that of the time


@pytest.fixture
def search() -> TicketSearch:
    model = BertForSequenceClassification(small_bert(hidden_size=48, num_attention_heads=6, intermediate_size=96))
    search = TicketSearch(model, WormConfig.eb_train(layers=["heads", "neurons"], speedup=2.0))
    search.observe()
    return search


def with_clock(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[float]:
    """Have the time of a forward pass follow from its multiply-adds; the factors that are tried."""
    tried: list[float] = []

    def race(models: dict[str, torch.nn.Module], *_: object) -> dict[str, list[float]]:
        size = {name: counts(copy.deepcopy(model), ROW)["multiply_adds"] for name, model in models.items()}
        tried.append(size["dense"] / size["compact"])
        return {name: [clock(count / size["dense"])] * 3 for name, count in size.items()}

    monkeypatch.setattr(fitting, "race", race)
    return tried


def fitted(search: TicketSearch, asked: float = 2.0) -> tuple[float, fitting.Gain]:
    model = search._require_open()
    return fit(search, model, ROW, asked, timed=True)


def test_what_is_fast_enough_loses_no_more(search: TicketSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = with_clock(monkeypatch, lambda left: left)
    factor, found = fitted(search)
    assert factor <= 2.0
    assert 2.0 <= found.measured <= tried[0]
    assert found.measured == pytest.approx(found.multiply_adds)


def test_what_is_faster_than_asked_loses_less() -> None:
    """ALBERT's layers share their weights, which are counted once and work four times."""
    sizes = {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 96, "embedding_size": 16}
    model = AlbertForSequenceClassification(AlbertConfig(vocab_size=64, num_hidden_layers=4, **sizes)).eval()
    search = TicketSearch(model, WormConfig.eb_train(layers=["neurons", "heads"], speedup=2.0))
    search.observe()
    (ticket,) = search.tickets(speedups=[2.0])
    assert gain(model, ticket, ROW, timed=False).multiply_adds > 2.2
    factor, found = fit(search, model, ROW, 2.0, timed=False)
    assert factor < 2.0 <= found.multiply_adds < 2.2


def test_the_most_that_can_be_had_is_the_end_of_it(search: TicketSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(monkeypatch, lambda left: 0.2 + 0.8 * left)
    with pytest.raises(ValueError, match="times fewer") as error:
        search.require_speedups([1000.0])
    largest = float(str(error.value).split("multiply-adds are ")[1].split(" ")[0])
    factor, found = fitted(search, asked=0.97 * largest)
    assert factor == 0.97 * largest
    assert found.measured < factor


def test_what_is_too_slow_loses_more(search: TicketSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(monkeypatch, lambda left: 0.08 + 0.92 * left)
    factor, found = fitted(search)
    assert 2.0 < factor < LIMIT * 2.0
    assert 2.0 <= found.measured < 2.2


def test_no_more_than_a_quarter_more_goes(search: TicketSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(monkeypatch, lambda left: 0.4 + 0.6 * left)
    factor, found = fitted(search)
    assert factor == LIMIT * 2.0
    assert found.measured < 2.0


def test_where_nothing_is_gained_no_more_goes(search: TicketSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose time is that of starting its kernels."""
    with_clock(monkeypatch, lambda left: 1.0)
    assert fitted(search)[0] == 2.0


def test_multiply_adds_are_as_many_times_fewer_with_those_of_attention() -> None:
    """Of long rows in a narrow model, products of queries and keys are most of it, and have no weights."""
    model = BertForSequenceClassification(small_bert(intermediate_size=128, max_position_embeddings=128))
    search = TicketSearch(model, WormConfig.eb_train(layers=["neurons"], speedup=1.5))
    search.observe()
    row = {"input_ids": torch.arange(48)[None] % 64}
    (ticket,) = search.tickets(speedups=[1.5])
    assert gain(model, ticket, row, timed=False).multiply_adds < 1.5
    factor, found = fit(search, model, row, 1.5, timed=False)
    assert found.measured is None
    assert factor > 1.5 and 1.5 <= found.multiply_adds < 1.6


def test_the_model_stays_as_it_is(search: TicketSearch) -> None:
    """On a real clock."""
    model = search._require_open()
    before = copy.deepcopy(model.state_dict())
    (ticket,) = search.tickets(speedups=[3.0])
    found = gain(model, ticket, ROW)
    assert found.multiply_adds >= 3.0
    assert found.measured > 0
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
