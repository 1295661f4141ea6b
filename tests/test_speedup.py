"""A search that is asked for a speed: as many heads and neurons go as it takes, and those of the smallest scores."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification
from zoo import ZOO, zoo_model

from hf_worm import Ticket, TicketSearch, WormConfig
from hf_worm.report.speed import counts
from hf_worm.units.costs import multiply_adds, multiply_adds_of_unit

UNITS = ["heads", "neurons"]
ROW = {"input_ids": torch.arange(8)[None]}


@pytest.fixture
def model() -> BertForSequenceClassification:
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 96}
    return BertForSequenceClassification(BertConfig(vocab_size=64, **sizes)).eval()


def searched(model: nn.Module, **settings: object) -> TicketSearch:
    search = TicketSearch(model, WormConfig.eb_train(**{"layers": UNITS, "speedup": 2.0, **settings}))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        model(
            input_ids=torch.randint(0, 64, (4, 8), generator=generator), labels=torch.tensor([0, 1, 1, 0])
        ).loss.backward()
        search.truncate_gradients()
        model.zero_grad()
    return search


def cut(model: nn.Module, ticket: Ticket) -> nn.Module:
    smaller = copy.deepcopy(model)
    ticket.apply_(smaller)
    return ticket.compact(smaller)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("score", ["magnitude", "taylor", "fisher"])
@pytest.mark.parametrize("speedup", [1.3, 2.0, 4.0])
def test_the_smaller_model_has_so_many_times_fewer_multiply_adds(
    model: BertForSequenceClassification, scope: str, score: str, speedup: float
) -> None:
    search = searched(model, scope=scope, score=score, speedup=speedup)
    search.observe()
    smaller = cut(model, search.draw())
    # A pooler and a classifier work once on a row, and are counted as if on each token: a little more goes than asked.
    gained = counts(model, ROW)["multiply_adds"] / counts(smaller, ROW)["multiply_adds"]
    assert speedup <= gained <= 1.25 * speedup


def test_in_each_layer_the_same_share_goes_and_the_model_loads_plainly(
    model: BertForSequenceClassification, tmp_path: object
) -> None:
    search = searched(model, scope="layer", score="fisher", layers=["neurons"], speedup=1.5)
    search.observe()
    smaller = cut(model, search.draw())
    assert isinstance(smaller, BertForSequenceClassification)
    smaller.save_pretrained(str(tmp_path))
    loaded = BertForSequenceClassification.from_pretrained(str(tmp_path)).eval()
    assert loaded.config.intermediate_size < 96
    torch.testing.assert_close(loaded(**ROW).logits, smaller.eval()(**ROW).logits)


def test_the_largest_sum_of_scores_wins(model: BertForSequenceClassification) -> None:
    """By hand: for each number of heads, as many neurons as the multiply-adds allow."""
    search = searched(model, scope="global", score="fisher")
    search.observe()
    heads, neurons = ([layer for layer in search.layers if layer.granularity == kind] for kind in ("head", "neuron"))
    of_heads, of_neurons = (torch.cat([search.score.of(layer) for layer in kind]) for kind in (heads, neurons))
    a_head, a_neuron = multiply_adds_of_unit(heads[0]), multiply_adds_of_unit(neurons[0])
    assert (a_head, a_neuron) == (4 * 48 * 8, 2 * 48)
    rest = multiply_adds(model) - a_head * len(of_heads) - a_neuron * len(of_neurons)
    best = 0.0
    for kept in range(3, len(of_heads) + 1):
        left = int((multiply_adds(model) / 2 - rest - kept * a_head) // a_neuron)
        if left >= 3:
            best = max(best, float(of_heads.sort().values[-kept:].sum() + of_neurons.sort().values[-left:].sum()))
    found = sum(float(search.score.of(layer)[search.masks[layer.name]].sum()) for layer in search.layers)
    assert found == pytest.approx(best, rel=1e-5)


def test_a_layer_keeps_its_best_unit(model: BertForSequenceClassification) -> None:
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.weight.mul_(1e-6)
        model.bert.encoder.layer[1].output.dense.weight.mul_(1e-6)
    search = searched(model, scope="global", score="fisher", speedup=4.0)
    search.observe()
    assert all(mask.any() for mask in search.masks.values())
    for layer in search.layers:
        assert search.masks[layer.name][search.score.of(layer).argmax()]


def test_more_than_can_be_had_names_the_largest(model: BertForSequenceClassification) -> None:
    said = r"speedup=1000.* one unit left in each of the 6 layers.* ([\d.]+) times fewer"
    with pytest.raises(ValueError, match=said) as error:
        searched(model, speedup=1000.0)
    largest = float(str(error.value).split("multiply-adds are ")[1].split(" ")[0])
    search = searched(model, speedup=largest * 0.99)
    search.observe()
    with pytest.raises(ValueError, match="times fewer"):
        searched(model, speedup=largest * 1.01)
    with pytest.raises(ValueError, match="times fewer"):
        search.tickets(speedups=[largest * 1.01])
    with pytest.raises(ValueError, match="or prune `heads` as well"):
        searched(model, speedup=1000.0, layers=["neurons"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speedup": 0.5}, "above 1"),
        ({"speedup": 1}, "above 1"),
        ({"speedup": float("inf")}, "above 1"),
        ({"speedup": "2"}, "above 1"),
        ({"speedup": True}, "above 1"),
        ({"scope": "2:4", "layers": ["query"]}, "2:4"),
        ({"layers": ["neurons=0.5"]}, "ratio of its own"),
    ],
)
def test_what_contradicts_a_speed_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WormConfig(**{"layers": UNITS, "speedup": 2.0, **settings})


def test_single_weights_make_no_model_faster(model: BertForSequenceClassification) -> None:
    with pytest.raises(ValueError, match=r"query.*weight.*heads"):
        TicketSearch(model, WormConfig(layers=["query", "neurons"], speedup=2.0))


def test_tickets_of_several_speeds_and_ratios(model: BertForSequenceClassification) -> None:
    search = searched(model, scope="global", score="fisher")
    search.observe()
    before = copy.deepcopy(model.state_dict())
    by_ratio, slow, fast = search.tickets([0.25], speedups=[1.5, 3.0])
    assert (by_ratio.config.speedup, slow.config.speedup, fast.config.speedup) == (None, 1.5, 3.0)
    assert by_ratio.sparsity == pytest.approx(0.25, abs=0.01)
    for name, mask in fast.masks.items():
        assert not (mask & ~slow.masks[name]).any() or "attention" in name  # more heads may stay, and fewer neurons
    assert slow.parts["select"] == "speedup"
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    with pytest.raises(ValueError, match="above 1"):
        search.tickets(speedups=[0.5])


def test_another_speed_may_be_drawn(model: BertForSequenceClassification) -> None:
    search = searched(model, scope="global", score="fisher")
    search.observe()
    (wanted,) = search.tickets(speedups=[3.0])
    ticket = search.draw(speedup=3.0)
    assert ticket.config.speedup == 3.0 and ticket.parts == wanted.parts
    assert all(torch.equal(mask, wanted.masks[name]) for name, mask in ticket.masks.items())
    assert all(torch.equal(mask, wanted.masks[name]) for name, mask in search.masks.items())
    for layer in search.layers:
        assert not layer.weight[~ticket.masks[layer.name]].any()


def test_a_search_without_a_speed_has_tickets_of_speeds(model: BertForSequenceClassification) -> None:
    plain = searched(model, speedup=None, prune_ratio=0.5, score="fisher", scope="global")
    asked = searched(model, score="fisher", scope="global")
    (one,), (other,) = plain.tickets(speedups=[2.0]), asked.tickets(speedups=[2.0])
    assert all(torch.equal(mask, other.masks[name]) for name, mask in one.masks.items())


def test_a_search_for_another_speed_goes_on_with_its_scores(model: BertForSequenceClassification) -> None:
    search = searched(model, score="fisher", scope="global")
    search.observe()
    (wanted,) = search.tickets(speedups=[3.0])
    other = TicketSearch(model, replace(search.config, speedup=3.0))
    other.load_state_dict(search.state_dict())
    assert other.history == [] and other.masks == {}
    assert other.observe().index == 0
    assert all(torch.equal(mask, wanted.masks[name]) for name, mask in other.masks.items())


def test_a_search_goes_on_with_a_speed_alone(model: BertForSequenceClassification) -> None:
    search = searched(model, score="fisher", scope="global")
    search.observe()
    again = TicketSearch(model, search.config)
    again.load_state_dict(search.state_dict())
    assert all(torch.equal(mask, again.masks[name]) for name, mask in search.masks.items())
    with pytest.raises(ValueError, match="speedup"):
        TicketSearch(model, replace(search.config, speedup=None)).load_state_dict(search.state_dict())


def test_the_ratio_rises_to_the_speed(model: BertForSequenceClassification) -> None:
    search = searched(model, schedule="cubic", score="fisher", sample_strategy="steps", sample_steps=1, ramp_epochs=1.0)
    search.attach(torch.optim.SGD(model.parameters(), lr=0.0), steps_per_epoch=4)
    seen = []
    for step in range(1, 5):
        search.observe(step)
        seen.append(search.sparsity)
    assert seen == sorted(seen)
    smaller = cut(model, search.draw())
    assert counts(model, ROW)["multiply_adds"] >= 2 * counts(smaller, ROW)["multiply_adds"]


@pytest.mark.parametrize("name", ZOO)
def test_families(name: str) -> None:
    """Neurons alone, where heads can't be cut; the count meets the factor for every family."""
    family = zoo_model(name)
    config = WormConfig.eb_train(layers=["neurons"], speedup=1.2)
    search = TicketSearch(family, config)
    search.observe()
    gone = sum(multiply_adds_of_unit(layer) * int((~search.masks[layer.name]).sum()) for layer in search.layers)
    assert multiply_adds(family) / (multiply_adds(family) - gone) >= 1.2
