"""Neurons and heads: which parts of which parameters they own in every family, and how they are scored."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, BartConfig, DiffLlamaConfig, MambaConfig, PreTrainedConfig, T5Config
from zoo import HEADS, HIDDEN, NEURONS, SIZE, ZOO, zoo_model

from hf_worm import TicketSearch, WormConfig
from hf_worm.scores import Magnitude
from hf_worm.units import RepresentativeLayer, representative_layers


@pytest.fixture(params=ZOO)
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, str, str, str, int]:
    return (zoo_model(request.param), *ZOO[request.param][1:])


def block_of(layer: RepresentativeLayer, first: str) -> str:
    """The path of the block that a layer belongs to, from the name of its first projection."""
    assert layer.name.endswith(f"{first}.weight")
    return layer.name.removesuffix(f"{first}.weight")


def rows(model: nn.Module, path: str, unit: int, size: int) -> list[torch.Tensor]:
    """The part of a projection that leads into a unit."""
    module = model.get_submodule(path)
    mine = slice(unit * size, (unit + 1) * size)
    return [module.weight[mine]] + ([] if module.bias is None else [module.bias[mine]])


def columns(model: nn.Module, path: str, unit: int, size: int) -> list[torch.Tensor]:
    return [model.get_submodule(path).weight[:, unit * size : (unit + 1) * size]]


def parts_of_neuron(family: tuple[nn.Module, str, str, str, int], layer: RepresentativeLayer, unit: int) -> list[Any]:
    model, names, _, _, _ = family
    *leading_in, leading_out = names.split()
    block = block_of(layer, leading_in[0])
    parts = [part for name in leading_in for part in rows(model, block + name, unit, 1)]
    return parts + columns(model, block + leading_out, unit, 1)


def parts_of_head(family: tuple[nn.Module, str, str, str, int], layer: RepresentativeLayer, unit: int) -> list[Any]:
    model, _, names, output, groups = family
    query, key, value = names.split()
    block, sharing = block_of(layer, query), HEADS // groups
    parts = rows(model, block + query, unit, SIZE * sharing)
    parts += rows(model, block + key, unit, SIZE) + rows(model, block + value, unit, SIZE)
    return parts + columns(model, block + output, unit, SIZE * sharing)


PARTS: dict[str, Callable[..., list[Any]]] = {"neurons": parts_of_neuron, "heads": parts_of_head}


def test_a_weight_that_a_unit_has_as_query_and_as_key_is_one_of_its_weights() -> None:
    model = zoo_model("bert")
    for block in model.encoder.layer:
        block.attention.self.key.weight = block.attention.self.query.weight
    search = TicketSearch(model, WormConfig(layers=["heads"], truncation=0.1, truncate_from="start"))
    layer = search.layers[0]
    attention = model.encoder.layer[0].attention
    own = [*attention.self.query.parameters(), attention.self.key.bias, *attention.self.value.parameters()]
    own.append(attention.output.dense.weight)
    assert Magnitude().of(layer).sum().item() == pytest.approx(sum(parameter.abs().sum().item() for parameter in own))
    search.observe()
    for parameter in own:
        parameter.grad = torch.ones_like(parameter)
    search.truncate_gradients()
    for parameter in own:
        assert parameter.grad is not None and parameter.grad.unique().tolist() == pytest.approx([0.1, 1.0])


def test_layers_that_share_some_of_their_weights_are_told() -> None:
    model = zoo_model("bert")
    first, second = (block.intermediate.dense for block in model.encoder.layer)
    second.weight = first.weight
    with pytest.warns(UserWarning, match="share some of their weights with others") as told:
        assert len(representative_layers(model, ["neurons"])) == 1
    assert len(told) == 1
    block = "encoder.layer.1"
    assert f"not watched: `{block}.intermediate.dense.bias`, `{block}.output.dense.weight`." in str(told[0].message)


def test_heads_of_differential_attention_are_not_told_apart() -> None:
    """Half of the values go to all heads."""
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": 4, "intermediate_size": NEURONS, "vocab_size": 40}
    model = AutoModel.from_config(DiffLlamaConfig(**sizes, num_hidden_layers=1, num_key_value_heads=4))
    with pytest.raises(ValueError, match="Found no attention with separate query, key, value and output projections"):
        representative_layers(model, ["heads"])
    assert len(representative_layers(model, ["query", "neurons"])) == 2


@pytest.mark.parametrize("word", PARTS)
def test_a_units_score_is_the_l1_norm_of_all_that_it_owns(family: Any, word: str) -> None:
    model = family[0]
    layers = representative_layers(model, [word])
    blocks = 1 if "Albert" in type(model).__name__ else 2
    assert [tuple(layer.shape) for layer in layers] == [(NEURONS if word == "neurons" else family[4],)] * blocks
    for layer in layers:
        scores = Magnitude().of(layer)
        expected = [sum(part.abs().sum() for part in PARTS[word](family, layer, i)) for i in range(len(scores))]
        torch.testing.assert_close(scores, torch.stack(expected))


@pytest.mark.parametrize("word", PARTS)
def test_the_draw_zeroes_all_of_a_pruned_unit_and_nothing_else(family: Any, word: str) -> None:
    model = family[0]
    search = TicketSearch(model, WormConfig(layers=[word], prune_ratio=0.4))
    search.observe()
    ticket = search.draw()
    zeros = 0
    for layer in search.layers:
        mask = ticket.masks[layer.name]
        assert int((~mask).sum()) == round(0.4 * len(mask)) > 0
        for unit, kept in enumerate(mask.tolist()):
            parts = PARTS[word](family, layer, unit)
            assert all(bool((part != 0).all() if kept else (part == 0).all()) for part in parts)
            zeros += 0 if kept else sum(part.numel() for part in parts)
    assert zeros == sum(int((parameter == 0).sum()) for parameter in model.parameters())


def test_a_pruned_unit_changes_nothing_that_the_others_do() -> None:
    """A head's or neuron's part of the sum that the block puts out is missing, and no more."""
    model = zoo_model("bert")
    search = TicketSearch(model, WormConfig(layers=["neurons", "heads"], prune_ratio=0.5))
    search.observe()
    masks = search.masks
    block = model.encoder.layer[0]
    x = torch.randn(2, 5, HIDDEN)
    hidden = block.intermediate(x) * masks["encoder.layer.0.intermediate.dense.weight"]
    context = block.attention.self(x)[0].unflatten(-1, (HEADS, SIZE))
    context = (context * masks["encoder.layer.0.attention.self.query.weight"][:, None]).flatten(-2)
    expected = block.output.dense(hidden), block.attention.output.dense(context)
    search.draw()
    found = block.output.dense(block.intermediate(x)), block.attention.output.dense(block.attention.self(x)[0])
    torch.testing.assert_close(found, expected)


def test_neurons_and_heads_together_are_layers_of_their_own() -> None:
    layers = representative_layers(zoo_model("bert"), ["neurons", "heads"])
    assert [(layer.granularity, layer.name.rpartition(".")[0]) for layer in layers[:2]] == [
        ("head", "encoder.layer.0.attention.self.query"),
        ("neuron", "encoder.layer.0.intermediate.dense"),
    ]
    owned = [view.parameter for layer in layers for view in layer.views]
    assert len(owned) == len(set(owned))


@pytest.mark.parametrize("config", [BartConfig, T5Config])
def test_encoder_and_decoder_have_heads_and_neurons(config: type[PreTrainedConfig]) -> None:
    sizes = {"d_model": 24, "encoder_attention_heads": 6, "decoder_attention_heads": 6, "num_heads": 6, "d_kv": 4}
    sizes |= {"encoder_layers": 1, "decoder_layers": 1, "num_layers": 1, "d_ff": 20}
    sizes |= {"encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "vocab_size": 40}
    model = AutoModel.from_config(config(**sizes))
    assert [tuple(layer.shape) for layer in representative_layers(model, ["heads"])] == [(6,)] * 3
    assert [tuple(layer.shape) for layer in representative_layers(model, ["neurons"])] == [(20,)] * 2


@pytest.mark.parametrize(
    ("other", "name"),
    [("query", "self.query"), ("value", "self.value"), ("*.attention.output.dense.weight", "output.dense")],
)
def test_heads_beside_a_part_of_them_are_refused(other: str, name: str) -> None:
    message = rf"both own `encoder.layer.0.attention.{name}.weight`, as units of two kinds: .* Leave one of them out."
    for layers in (["heads", other], [other, "heads"]):
        with pytest.raises(ValueError, match=message):
            representative_layers(zoo_model("bert"), layers)


def test_a_word_in_some_places_finds_the_layers_there() -> None:
    bert = zoo_model("bert")
    neurons, heads = "encoder.layer.1.intermediate.dense.weight", "encoder.layer.0.attention.self.query.weight"
    found = representative_layers(bert, ["neurons@*.layer.1.*", "heads@encoder.layer.0.*=0.34"])
    assert [(layer.name, layer.granularity, layer.prune_ratio) for layer in found] == [
        (heads, "head", 0.34),
        (neurons, "neuron", None),
    ]
    found = representative_layers(bert, ["query@*.1.*", "value"])
    assert [layer.name.split(".")[2] + layer.name.split(".")[5] for layer in found] == ["0value", "1query", "1value"]
    apart = representative_layers(bert, ["neurons@*.0.*=0.25", "neurons@*.1.*=0.75"])
    assert [layer.prune_ratio for layer in apart] == [0.25, 0.75]
    with pytest.raises(ValueError, match=r"`neurons@\*.7.\*` in `layers` finds nothing: .* `encoder.layer.0.interm"):
        representative_layers(bert, ["neurons@*.7.*"])
    with pytest.raises(ValueError, match="`other@here` in `layers` matches no parameter"):
        representative_layers(bert, ["other@here"])
    with pytest.raises(ValueError, match="which ratio is it to have"):
        representative_layers(bert, ["neurons", "neurons@*.1.*=0.75"])


def test_a_model_whose_neurons_or_heads_are_unknown_says_what_was_looked_for() -> None:
    model = AutoModel.from_config(MambaConfig(vocab_size=40, hidden_size=8, num_hidden_layers=2, state_size=2))
    with pytest.raises(ValueError, match=r"Found no feed-forward block of `nn\.Linear`"):
        representative_layers(model, ["neurons"])
    with pytest.raises(ValueError, match="Found no attention with separate query, key, value and output projections"):
        representative_layers(model, ["heads"])


@pytest.mark.parametrize("path", ["attention.self.query", "attention.output.dense"])
def test_heads_of_parametrized_projections_are_none(path: str) -> None:
    """Their weight is made anew from others at each step: there is no column of it to own."""
    model = zoo_model("bert")
    torch.nn.utils.parametrizations.weight_norm(model.get_submodule(f"encoder.layer.0.{path}"))
    found = representative_layers(model, ["heads"])
    assert found and not any("layer.0." in layer.name for layer in found)


def test_neurons_of_doubles_are_scored_in_doubles() -> None:
    model = nn.ModuleDict({"fc1": nn.Linear(1, 3, bias=False), "fc2": nn.Linear(3, 1, bias=False)}).double()
    weights = torch.tensor([1.0 + 2e-12, 1.0, 1.0 + 1e-12], dtype=torch.float64)
    with torch.no_grad():
        model["fc1"].weight.copy_(weights[:, None])
        model["fc2"].weight.fill_(0)
    search = TicketSearch(model, WormConfig(layers=["neurons"], prune_ratio=0.67))
    search.observe()
    assert search.masks["fc1.weight"].tolist() == [True, False, False]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_last_head_stays(scope: str) -> None:
    model = zoo_model("bert")
    with torch.no_grad():  # the first block's are all smaller than the second's, and the fourth is its largest
        first = representative_layers(model, ["heads"])[0]
        for view in first.views:
            view.weight.mul_(0.01)
            view.weight[3] *= 2
    search = TicketSearch(
        model, WormConfig(layers=["heads"], prune_ratio=0.95 if scope == "layer" else 0.5, scope=scope)
    )
    search.observe()
    first, second = search.masks.values()
    assert first.tolist() == [False, False, False, True, False, False]
    assert int(second.sum()) == (1 if scope == "layer" else HEADS)


def test_of_equal_heads_the_last_stays() -> None:
    model = zoo_model("bert")
    with torch.no_grad():
        for layer in representative_layers(model, ["heads"]):
            for view in layer.views:
                view.weight.fill_(1.0)
    search = TicketSearch(model, WormConfig(layers=["heads"], prune_ratio=0.99))
    search.observe()
    assert all(mask.tolist() == [False] * 5 + [True] for mask in search.masks.values())


def test_fading_and_truncation_work_on_units() -> None:
    model = zoo_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search = TicketSearch(model, WormConfig.fade(layers=["heads", "neurons"], stopping_point=1.0, fade_epochs=2.0))
    search.attach(optimizer, steps_per_epoch=2)
    search.observe()
    first = search.observe()
    before = {layer.name: [view.weight.clone() for view in layer.views] for layer in search.layers}
    for _ in range(4):
        optimizer.step()
    for layer in search.layers:
        factor = torch.where(search.masks[layer.name], 1.0, 0.01)
        for view, old in zip(layer.views, before[layer.name], strict=True):
            torch.testing.assert_close(view.weight, old * factor.view(-1, *[1] * (old.dim() - 1)))
    share = first.doomed_share
    assert search.observe().doomed_share == pytest.approx(0.01 * share / (1 - share + 0.01 * share), rel=1e-3)


def test_gradients_of_a_doomed_unit_are_truncated_in_all_its_parts() -> None:
    model = zoo_model("llama")
    search = TicketSearch(model, WormConfig(layers=["heads", "neurons"], stopping_point=1.0, truncation=0.25))
    search.observe()
    search.observe()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    search.truncate_gradients()
    for layer in search.layers:
        factor = torch.where(search.masks[layer.name], 1.0, 0.25)
        for view in layer.views:
            expected = factor.view(-1, *[1] * (view.gradient.dim() - 1)).expand_as(view.gradient)
            assert torch.equal(view.gradient, expected)
