"""Scores: gate gradients against autograd's derivative by a gate, their means, and what does not enter them."""

import copy
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, BertForSequenceClassification, Phi3Config
from zoo import HIDDEN, NEURONS, USUAL, ZOO, zoo_model

from hf_worm.config import WormConfig
from hf_worm.core.masks import NotFiniteError
from hf_worm.models import VggBnConfig, VggBnForImageClassification
from hf_worm.scores import Fisher, GateGradient, Magnitude, Score, Taylor, gate_gradients, score_of
from hf_worm.search import TicketSearch
from hf_worm.units import RepresentativeLayer, representative_layers

KINDS = [Taylor, Fisher]
FUNCTIONS: dict[type[GateGradient], Callable[[torch.Tensor], torch.Tensor]] = {Taylor: torch.abs, Fisher: torch.square}


def phi3() -> nn.Module:
    """Its gate and what it gates are in one projection, and query, key and value in another."""
    model = AutoModel.from_config(Phi3Config(**USUAL, num_key_value_heads=2, pad_token_id=0)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def vgg() -> nn.Module:
    model = VggBnForImageClassification(VggBnConfig(width=2, classifier="slim", num_labels=3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0)
            nn.init.normal_(module.bias)
    return model


def outputs(model: nn.Module) -> torch.Tensor:
    """What a model makes of one fixed batch."""
    generator = torch.Generator().manual_seed(5)
    if isinstance(model, VggBnForImageClassification):
        images = torch.randn(4, 3, 32, 32, generator=generator, dtype=next(model.parameters()).dtype)
        return model(pixel_values=images).logits
    ids = torch.randint(1, 40, (3, 7), generator=generator)
    return model(input_ids=ids)[0]


def loss_of(outputs: torch.Tensor) -> torch.Tensor:
    weights = torch.linspace(-1, 2, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    return (outputs * weights).sum() / 10 + outputs.sigmoid().square().mean()


@contextmanager
def gated(model: nn.Module, layer: RepresentativeLayer) -> Iterator[torch.Tensor]:
    """A factor of 1 on what each unit puts out, by which the loss can be derived."""
    gate = torch.ones(layer.shape, dtype=layer.weight.dtype, requires_grad=True)
    owner = layer.views[-1 if layer.summed else 0].parameter
    module = next(module for module in model.modules() if getattr(module, "weight", None) is owner)

    def on_inputs(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        width = inputs[0].shape[-1] // len(gate)
        return (inputs[0] * gate.repeat_interleave(width), *inputs[1:])

    def on_outputs(module: nn.Module, inputs: Any, outputs: torch.Tensor) -> torch.Tensor:
        return outputs * gate.view(1, -1, 1, 1)

    hook = module.register_forward_pre_hook if layer.summed else module.register_forward_hook
    handle = hook(on_inputs if layer.summed else on_outputs)
    yield gate
    handle.remove()


MODELS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "plain neurons and heads": (lambda: zoo_model("bert"), ["neurons", "heads"]),
    "gated neurons, grouped heads": (lambda: zoo_model("llama"), ["neurons", "heads"]),
    "neurons of a fused gate": (phi3, ["neurons"]),
    "channels": (vgg, ["batchnorm"]),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gate_gradient_is_autograds_derivative_by_a_gate(name: str, dtype: torch.dtype) -> None:
    make, words = MODELS[name]
    model = make().to(dtype)
    layers = representative_layers(model, words)
    loss_of(outputs(model)).backward()
    for layer in layers:
        with gated(model, layer) as gate:
            (expected,) = torch.autograd.grad(loss_of(outputs(model)), gate)
        found = gate_gradients(layer)
        assert found is not None and found.shape == layer.shape and 2 * expected.count_nonzero() > len(expected)
        tolerance = 1e-6 if dtype == torch.float64 else 2e-5  # float32 rounds the forward pass itself
        assert (found - expected).abs().max() < tolerance * expected.abs().max(), layer.name
    assert len(layers) >= 2


def test_the_gate_gradient_of_a_single_weight_is_the_derivative_by_a_factor_on_it() -> None:
    model = zoo_model("bert").double()
    layers = representative_layers(model, ["query", "key"])
    loss_of(outputs(model)).backward()
    gates = {layer.name: torch.ones(layer.shape, dtype=torch.double, requires_grad=True) for layer in layers}
    ids = torch.randint(1, 40, (3, 7), generator=torch.Generator().manual_seed(5))
    scaled = {layer.name: layer.parameter.detach() * gates[layer.name] for layer in layers}
    expected = torch.autograd.grad(
        loss_of(functional_call(model, scaled, kwargs={"input_ids": ids})[0]), list(gates.values())
    )
    for layer, derivative in zip(layers, expected, strict=True):
        torch.testing.assert_close(gate_gradients(layer), derivative, rtol=1e-6, atol=1e-12)


def test_the_zoo_has_grouped_heads_and_its_own_widths() -> None:
    """Or the cases above would show less than they say."""
    (layer, _) = representative_layers(zoo_model("llama"), ["heads"])
    assert ZOO["llama"][-1] == layer.shape.numel() == 2 and layer.views[-1].weight.shape == (2, 12, HIDDEN)
    fused = representative_layers(phi3(), ["neurons"])[0]
    assert fused.shape.numel() == NEURONS and fused.views[0].weight.shape[:2] == (NEURONS, 2)


def put_gradients(layers: list[RepresentativeLayer], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for layer in layers:
        for view in layer.views:
            parameter = view.parameter
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def bert_layers(*words: str) -> list[RepresentativeLayer]:
    return representative_layers(zoo_model("bert"), words or ("neurons", "heads"))


@pytest.mark.parametrize("words", [("neurons", "heads"), ("query",)])
@pytest.mark.parametrize("kind", KINDS)
def test_without_decay_all_steps_count_alike(kind: type[GateGradient], words: tuple[str, ...]) -> None:
    layers, score = bert_layers(*words), kind()
    of_steps: list[list[torch.Tensor]] = []
    for step in range(5):
        put_gradients(layers, step)
        of_steps.append([FUNCTIONS[kind](gate_gradients(layer)) for layer in layers])
        score.accumulate(layers)
    for place, layer in enumerate(layers):
        mean = torch.stack([gates[place] for gates in of_steps]).mean(0)
        torch.testing.assert_close(score.of(layer), mean)


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_with_decay_the_newest_step_counts_most_and_the_weights_sum_to_one(
    kind: type[GateGradient], decay: float
) -> None:
    layers, score = bert_layers(), kind(decay)
    expected: list[Any] = [0.0] * len(layers)
    for step in range(5):
        put_gradients(layers, step)
        for place, layer in enumerate(layers):
            expected[place] = decay * expected[place] + (1 - decay) * FUNCTIONS[kind](gate_gradients(layer))
        score.accumulate(layers)
    for place, layer in enumerate(layers):
        torch.testing.assert_close(score.of(layer), expected[place] / (1 - decay**5))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("words", [("neurons", "heads"), ("query",)])
def test_a_step_with_nan_or_infinite_gradients_does_not_enter(
    words: tuple[str, ...], place: int, decay: float | None, value: float
) -> None:
    layers, score, without = bert_layers(*words), Fisher(decay), Fisher(decay)
    for step in range(6):
        put_gradients(layers, step)
        if step in (0, 3):
            layers[-1].views[place].parameter.grad[1, 2] = value  # of one layer, and no layer's step enters
        else:
            without.accumulate(layers)
        score.accumulate(layers)
    assert all(torch.equal(score.of(layer), without.of(layer)) for layer in layers)


def test_where_no_step_was_finite_the_score_says_so() -> None:
    layers, score = bert_layers(), Fisher()
    put_gradients(layers, 0)
    layers[0].views[-1].parameter.grad[0, 0] = torch.nan
    score.accumulate(layers)
    with pytest.raises(RuntimeError, match="In all 1 steps so far the gradients were NaN or infinite"):
        score.of(layers[0])


@pytest.mark.parametrize("score", ["taylor", "fisher"])
def test_before_anything_was_gathered_there_is_no_score(model: nn.Module, score: str) -> None:
    search = TicketSearch(model, WormConfig(score=score))
    message = f"The score `{score}` of `0.query.weight` has no gradients to go by yet: call `search.truncate_gradients"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        search.observe()
    search.truncate_gradients()  # of no gradients
    with pytest.raises(RuntimeError, match=re.escape(message)):
        search.observe()


def test_weights_that_are_not_finite_are_named_though_their_steps_do_not_enter(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(score="fisher"))
    put_gradients(search.layers, 0)
    search.truncate_gradients()
    with pytest.raises(NotFiniteError):
        model.get_parameter("1.key.weight").data[0, 0] = torch.nan
        search.score.of(search.layers[3])
    with pytest.raises(ValueError, match=r"`1\.key\.weight` holds NaN or infinite weights \(1 of 4 layers do\)"):
        search.observe()


def test_a_layer_without_a_gradient_gets_nothing_from_the_step() -> None:
    layers, score = bert_layers("query"), Fisher()
    put_gradients(layers, 0)
    score.accumulate(layers)
    first = [score.of(layer) for layer in layers]
    layers[0].parameter.grad = None
    score.accumulate(layers)
    assert torch.equal(score.of(layers[0]), first[0] / 2) and torch.equal(score.of(layers[1]), first[1])


def test_every_few_steps_by_the_count_of_steps_that_goes_with_the_state() -> None:
    layers, score, chosen = bert_layers(), Fisher(every=3), Fisher()
    for step in range(8):
        put_gradients(layers, step)
        if step in (0, 3, 6):
            chosen.accumulate(layers)
        if step == 4:
            resumed = Fisher(every=3)
            resumed.load_state_dict(score.state_dict())
            score = resumed
        score.accumulate(layers)
    assert all(torch.equal(score.of(layer), chosen.of(layer)) for layer in layers)


@pytest.mark.parametrize("words", [("neurons", "heads"), ("query",)])
@pytest.mark.parametrize("decay", [None, 0.7])
def test_the_state_goes_on_to_the_same_bits(words: tuple[str, ...], decay: float | None) -> None:
    layers, score = bert_layers(*words), Taylor(decay)
    for step in range(6):
        put_gradients(layers, step)
        score.accumulate(layers)
        if step == 2:
            state = score.state_dict()
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            resumed = Taylor(decay)
            resumed.load_state_dict(torch.load(file, weights_only=True))
            assert all(torch.equal(resumed.of(layer), score.of(layer)) for layer in layers)
            kept = copy.deepcopy(state)
        elif step > 2:
            resumed.accumulate(layers)
    assert all(torch.equal(resumed.of(layer), score.of(layer)) for layer in layers)
    assert all(torch.equal(state["totals"][name], total) for name, total in kept["totals"].items()), "a snapshot"


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("totals"),
        lambda state: state.update(count=-1),
        lambda state: state.update(step="3"),
        lambda state: state.update(totals=[1.0]),
        lambda state: state.update(decay=0.5),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_the_score_stays(damage: Callable[[dict[str, Any]], Any]) -> None:
    layers, score = bert_layers(), Fisher()
    put_gradients(layers, 0)
    score.accumulate(layers)
    state, before = score.state_dict(), [score.of(layer) for layer in layers]
    damage(state)
    with pytest.raises(ValueError, match=r"of the score `fisher` is damaged|`score_decay=0\.5`, this one has None"):
        score.load_state_dict(state)
    assert all(torch.equal(score.of(layer), old) for layer, old in zip(layers, before, strict=True))


class Operations(TorchDispatchMode):
    """Names of the tensor operations under it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("words", [("neurons", "heads"), ("query",)])
@pytest.mark.parametrize("decay", [None, 0.7])
def test_gathering_reads_nothing_back_and_keeps_one_number_a_unit(words: tuple[str, ...], decay: float | None) -> None:
    layers, score = bert_layers(*words), Fisher(decay)
    put_gradients(layers, 0)
    score.accumulate(layers)
    kept = {name: total.data_ptr() for name, total in score._totals.items()}
    with Operations() as operations:
        score.accumulate(layers)
    reading = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_to_copy"}
    assert not reading & set(operations.names)
    assert {name: total.data_ptr() for name, total in score._totals.items()} == kept
    sizes = {name: total.untyped_storage().nbytes() for name, total in score._totals.items()}
    assert sizes == {layer.name: 4 * layer.shape.numel() for layer in layers}


def test_weights_of_16_bits_are_gathered_in_32() -> None:
    layers, score = representative_layers(zoo_model("bert").to(torch.bfloat16), ["neurons"]), Fisher()
    put_gradients(layers, 0)
    score.accumulate(layers)
    for layer in layers:
        view = layer.views[-1]
        exact = (view.weight.double() * view.gradient.double()).sum((1, 2)).square()
        assert score.of(layer).dtype == torch.float32
        torch.testing.assert_close(score.of(layer).double(), exact, rtol=1e-4, atol=1e-6)


def test_sparse_gradients_are_gathered_too() -> None:
    model = nn.Embedding(5, 4, sparse=True)
    (layer,) = representative_layers(model, ["weight"])
    model(torch.tensor([1, 1, 3])).square().sum().backward()
    score = Taylor()
    score.accumulate([layer])
    assert torch.equal(score.of(layer), (layer.weight * model.weight.grad.to_dense()).abs())


def test_the_score_sees_gradients_unscaled_and_before_truncation_and_they_are_put_back(model: nn.Module) -> None:
    def gathered(scale: float | torch.Tensor | None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        twin = copy.deepcopy(model)
        search = TicketSearch(twin, WormConfig(score="fisher", stopping_point=1.0, window=2, truncation=0.5))
        for step in range(3):
            put_gradients(search.layers, step)
            if scale is not None:
                for layer in search.layers:
                    layer.parameter.grad.mul_(scale)
            search.truncate_gradients(scale)
            search.observe()
        gradients = [layer.parameter.grad / (1 if scale is None else scale) for layer in search.layers]
        return [search.score.of(layer) for layer in search.layers], gradients

    scores, gradients = gathered(None)
    for scale in (2.0**16, torch.tensor(2.0**12), 2.0**-3):
        scaled, divided = gathered(scale)
        assert all(map(torch.equal, scaled, scores)) and all(map(torch.equal, divided, gradients))
    plain = Fisher()
    layers = representative_layers(model)
    for step in range(3):
        put_gradients(layers, step)
        plain.accumulate(layers)
    assert all(torch.equal(plain.of(layer), found) for layer, found in zip(layers, scores, strict=True))
    assert any(not torch.equal(layer.parameter.grad, g) for layer, g in zip(layers, gradients, strict=True))


@pytest.mark.parametrize("layers", [["neurons", "heads"], ["query"]])
def test_accumulated_micro_batches_count_as_the_batch(bert: BertForSequenceClassification, layers: list[str]) -> None:
    found = []
    for parts in (1, 2, 4):
        model = copy.deepcopy(bert).eval()
        search = TicketSearch(model, WormConfig(score="fisher", layers=layers))
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            ids, labels = torch.randint(64, (8, 12), generator=generator), torch.arange(8) % 2
            model.zero_grad()
            for rows, own in zip(ids.chunk(parts), labels.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model(input_ids=rows).logits, own) / parts).backward()
            search.truncate_gradients()
        found.append([search.score.of(layer) for layer in search.layers])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert (one - other).abs().max() < 1e-5 * one.abs().max()


@pytest.mark.parametrize("words", [["neurons", "heads"], ["query", "key"], ["batchnorm"]])
def test_magnitudes_are_absolute_values_or_l1_norms(words: list[str]) -> None:
    layers = representative_layers(vgg() if words == ["batchnorm"] else zoo_model("bert"), words)
    for layer in layers:
        if layer.summed:
            units = range(layer.shape.numel())
            expected = torch.stack([sum(view.weight[unit].abs().sum() for view in layer.views) for unit in units])
            torch.testing.assert_close(Magnitude().of(layer), expected)
        else:
            assert torch.equal(Magnitude().of(layer), layer.weight.abs())


def test_the_settings_name_the_score() -> None:
    assert type(score_of(WormConfig())) is Magnitude
    for name, kind in (("taylor", Taylor), ("fisher", Fisher)):
        score = score_of(WormConfig(score=name, score_decay=0.9))
        assert type(score) is kind and score.name == name and score.decay == 0.9
        assert isinstance(score, Score)


def test_the_score_says_whether_gradients_are_needed_at_every_step(model: nn.Module) -> None:
    def needs(**settings: Any) -> tuple[bool, bool]:
        search = TicketSearch(model, WormConfig(**settings))
        return search.needs_gradients, search.scales_gradients

    assert needs() == (True, True)
    assert needs(truncation=1.0) == (False, False)
    assert needs(truncation_target="update") == (False, False)
    assert needs(truncation=1.0, score="fisher") == (True, False)
    assert needs(truncation_target="fade", score="taylor") == (True, False)
