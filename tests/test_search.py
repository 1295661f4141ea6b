"""The search: what it observes, when it truncates, when it has converged, what it draws, and how it goes on."""

import copy
import dataclasses
import gc
import io
import json
import pickle
import re
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import zoo_model

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.search import TicketSearch

NEVER, ALWAYS = {"stopping_point": 0.0, "margin": 0.0}, {"stopping_point": 1.0, "margin": 1.0}
NAMES = ["0.query.weight", "0.key.weight", "1.query.weight", "1.key.weight"]


def pair() -> nn.ModuleDict:
    """Eight query weights and eight key weights."""
    return nn.ModuleDict({"query": nn.Linear(4, 2, bias=False), "key": nn.Linear(4, 2, bias=False)})


def turn(model: nn.ModuleDict, place: int) -> None:
    """Make the four queries from `place` on (round the corner) the small ones, and the first four keys.

    Of 16 units, the masks of two places differ in twice as many as the places are apart, up to four apart.
    """
    with torch.no_grad():
        model["query"].weight.copy_(torch.tensor([0.1] * 4 + [1.0] * 4).roll(place).view(2, 4))
        model["key"].weight.copy_(torch.tensor([0.1] * 4 + [-1.0] * 4).view(2, 4))


def walk(places: list[int], **settings: Any) -> list[Observation]:
    model = pair()
    search = TicketSearch(model, WormConfig(**settings))
    for place in places:
        turn(model, place)
        search.observe()
    return search.history


def backward(model: nn.Module) -> None:
    model.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(16, 4, 8)), torch.arange(16) % 2).backward()


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def truncating_search(model: nn.Module, **settings: Any) -> TicketSearch:
    """A search that is past its trigger point."""
    search = TicketSearch(model, WormConfig(**{**ALWAYS, **settings}))
    search.observe()
    assert search.observe().truncating
    return search


# Observations.


def test_each_observation_measures_against_the_older_masks_of_the_window() -> None:
    history = walk([0, 1, 1, 3], window=3, **NEVER)
    assert history == [
        Observation(0, (), None, None, False, False),
        Observation(1, (2 / 16,), 2 / 16, 2 / 16, False, False),
        Observation(2, (2 / 16, 0.0), 2 / 16, 1 / 16, False, False),
        Observation(3, (4 / 16, 4 / 16), 4 / 16, 4 / 16, False, False),
    ]


def test_observe_returns_what_it_appends(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig())
    assert search.history == [] and search.masks == {} and search.sparsity == 0.0
    assert not search.truncating and not search.converged
    seen = [search.observe(), search.observe()]
    assert search.history == seen


def test_truncation_begins_strictly_below_the_trigger_point() -> None:
    at_trigger = walk([0, 1], stopping_point=0.0625, margin=0.0625)
    assert at_trigger[1].mean_distance == 0.125 and not at_trigger[1].truncating
    assert walk([0, 1], stopping_point=0.0625, margin=0.0626)[1].truncating


def test_truncation_needs_a_distance_but_no_full_window_and_stays_on() -> None:
    history = walk([0, 0, 4, 2, 6], window=4, stopping_point=0.1, margin=0.1)
    assert [seen.truncating for seen in history] == [False, True, True, True, True]
    assert all(seen.mean_distance > 0.2 for seen in history[2:])


def test_truncation_goes_by_the_mean_and_convergence_by_the_largest() -> None:
    history = walk([2, 0, 0, 0], window=4, stopping_point=0.1, margin=0.0)
    assert history[3].distances == (0.25, 0.0, 0.0)
    assert history[3].truncating and not history[3].converged  # mean 0.083, largest 0.25


def test_convergence_is_strictly_below_the_stopping_point() -> None:
    assert not walk([1, 0, 0], stopping_point=0.125)[2].converged
    assert walk([1, 0, 0], stopping_point=0.1251)[2].converged
    assert not walk([0, 0, 0], stopping_point=0.0, margin=0.5)[2].converged


@pytest.mark.parametrize("window", [2, 3, 5])
def test_convergence_needs_a_full_window(window: int) -> None:
    history = walk([0] * 6, window=window)
    assert [seen.converged for seen in history] == [index + 1 >= window for index in range(6)]


def test_only_the_newest_observation_says_whether_it_has_converged() -> None:
    model = pair()
    search = TicketSearch(model, WormConfig(window=2))
    seen = []
    for place in (0, 0, 3):
        turn(model, place)
        search.observe()
        seen.append((search.converged, search.truncating))
    assert seen == [(False, False), (True, True), (False, True)]


@given(
    places=st.lists(st.integers(0, 7), min_size=1, max_size=9),
    window=st.integers(2, 5),
    stop=st.integers(0, 16),
    margin=st.integers(0, 8),
)
def test_any_walk_goes_as_algorithm_1(places: list[int], window: int, stop: int, margin: int) -> None:
    stop, margin = stop / 16, margin / 16
    history = walk(places, window=window, stopping_point=stop, margin=margin)
    masks: list[set[int]] = []
    truncating = False
    for place, seen in zip(places, history, strict=True):
        masks.append({(place + i) % 8 for i in range(4)})
        distances = [len(masks[-1] ^ older) / 16 for older in masks[-window:-1]]
        truncating = truncating or (bool(distances) and sum(distances) / len(distances) < stop + margin)
        assert seen.distances == tuple(distances)
        assert seen.truncating == truncating
        assert seen.converged == (len(distances) == window - 1 and max(distances) < stop)


# Masks.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5])
def test_masks_by_parameter_name_as_torchs_pruning_has_them(model: nn.Module, ratio: float, dtype: torch.dtype) -> None:
    model.to(dtype)
    for name in NAMES:  # without ties
        magnitudes = torch.randperm(64).view(8, 8) + 1
        model.get_parameter(name).data.copy_(magnitudes * torch.tensor([1, -1] * 4))
    search = TicketSearch(model, WormConfig(prune_ratio=ratio))
    search.observe()
    assert list(search.masks) == NAMES
    for name, mask in search.masks.items():
        parameter = model.get_parameter(name)
        module = model.get_submodule(name.removesuffix(".weight"))
        assert mask.dtype == torch.bool and mask.shape == parameter.shape and mask.device == parameter.device
        expected = prune.l1_unstructured(copy.deepcopy(module), "weight", amount=ratio).weight_mask
        assert torch.equal(mask, expected.bool())
    assert search.sparsity == round(ratio * 64) / 64


def test_an_entry_may_have_a_ratio_of_its_own(model: nn.Module) -> None:
    config = WormConfig(layers=["query=0.25", "key"], prune_ratio=0.75)
    assert config.prune_ratios == {"p": 0.75, "query": 0.25}
    search = TicketSearch(model, config)
    search.observe()
    pruned = {name: int((~mask).sum()) for name, mask in search.masks.items()}
    assert pruned == {name: 16 if "query" in name else 48 for name in NAMES}
    again = TicketSearch(model, WormConfig(layers=["query=0.25", "key=0.75"], prune_ratio=0.75))
    again.load_state_dict(search.state_dict())  # the same ratios, otherwise said
    assert all(torch.equal(mask, again.masks[name]) for name, mask in search.masks.items())


def test_global_scope_is_one_choice_over_all_layers(model: nn.Module) -> None:
    for place, name in enumerate(NAMES):
        model.get_parameter(name).data.mul_(place + 1)  # the later, the larger
    search = TicketSearch(model, WormConfig(scope="global", prune_ratio=0.3))
    search.observe()
    modules = [(copy.deepcopy(model).get_submodule(name.removesuffix(".weight")), "weight") for name in NAMES]
    prune.global_unstructured(modules, prune.L1Unstructured, amount=0.3)
    kept = []
    for name, (module, _) in zip(NAMES, modules, strict=True):
        assert torch.equal(search.masks[name], module.weight_mask.bool())
        kept.append(int(search.masks[name].sum()))
    assert kept == sorted(kept) and kept[0] < kept[-1]
    assert search.sparsity == round(0.3 * 256) / 256


def test_masks_of_bert(bert: nn.Module) -> None:
    search = TicketSearch(bert, WormConfig(layers=["query", "key", "value"]))
    search.observe()
    assert list(search.masks) == [
        f"bert.encoder.layer.{block}.attention.self.{role}.weight"
        for block in range(2)
        for role in ("query", "key", "value")
    ]


def test_observing_changes_no_weight_and_no_random_number(model: nn.Module) -> None:
    before, state = weights_of(model), torch.get_rng_state()
    truncating_search(model).observe()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_masks_belong_to_the_caller(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig())
    search.observe()
    search.masks[NAMES[0]].fill_(False)
    assert search.masks[NAMES[0]].sum() == 32
    assert search.observe().max_distance == 0


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapped_model_is_searched_under_its_own_names(model: nn.Module, wrap: Callable[..., Any]) -> None:
    search, plain = TicketSearch(wrap(model), WormConfig()), TicketSearch(model, WormConfig())
    search.observe()
    plain.observe()
    assert list(search.masks) == NAMES
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in search.masks.items())
    plain.load_state_dict(search.state_dict())


# Truncation.


@pytest.mark.parametrize("truncation", [0.0, 0.003, 0.5])
def test_gradients_of_pruned_weights_are_multiplied_by_r_and_no_others(model: nn.Module, truncation: float) -> None:
    search = truncating_search(model, truncation=truncation)
    backward(model)
    before = gradients_of(model)
    search.truncate_gradients()
    for name, parameter in model.named_parameters():
        mask = search.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter.grad, torch.where(mask, before[name], before[name] * truncation))
    assert all((before[name] != 0).any() for name in NAMES)


def test_nothing_is_truncated_before_the_trigger_point(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(**NEVER))
    for _ in range(3):
        backward(model)
        before = gradients_of(model)
        search.truncate_gradients()
        assert all(torch.equal(parameter.grad, before[name]) for name, parameter in model.named_parameters())
        assert not search.observe().truncating


def test_the_newest_mask_is_the_one_truncated_by(model: nn.Module) -> None:
    search = truncating_search(model, truncation=0.0)
    older = search.masks
    backward(model)
    search.truncate_gradients()
    for name in NAMES:
        model.get_parameter(name).data.copy_(torch.randn(8, 8))
    search.observe()
    backward(model)
    search.truncate_gradients()
    for name, mask in search.masks.items():
        assert torch.equal(model.get_parameter(name).grad != 0, mask)
        assert not torch.equal(mask, older[name])


@pytest.mark.parametrize("target", ["gradient", "update"])
def test_with_r_1_training_is_untouched_bit_for_bit(model: nn.Module, target: str) -> None:
    twin = copy.deepcopy(model)
    search = truncating_search(model, truncation=1.0, truncation_target=target)
    optimizer, plain = (torch.optim.AdamW(m.parameters(), lr=0.01) for m in (model, twin))
    search.attach(optimizer)
    for step in range(5):
        for m, stepper in ((model, optimizer), (twin, plain)):
            torch.manual_seed(step)
            backward(m)
            if m is model:
                search.truncate_gradients()
            stepper.step()
        search.observe()
    assert same_weights(model, twin)


def test_a_layer_without_a_gradient_is_passed_over(model: nn.Module) -> None:
    search = truncating_search(model, truncation=0.0)
    model.zero_grad()
    search.truncate_gradients()  # no gradients at all
    assert all(parameter.grad is None for parameter in model.parameters())
    backward(model)
    model.get_parameter(NAMES[1]).grad = None
    search.truncate_gradients()
    assert model.get_parameter(NAMES[1]).grad is None
    for name in NAMES[:1] + NAMES[2:]:
        assert torch.equal(model.get_parameter(name).grad != 0, search.masks[name])


def test_a_step_is_one_fused_multiplication_after_the_first(model: nn.Module) -> None:
    """Nothing is allocated, rebuilt or read back from step to step."""
    names: list[str] = []

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    search = truncating_search(model)
    backward(model)
    search.truncate_gradients()
    with Operations():
        search.truncate_gradients()
    assert names == ["_foreach_mul_"]


# Truncation from the start.


def naive_half(weight: torch.Tensor) -> torch.Tensor:
    """The mask of the larger half, where no two magnitudes are the same."""
    return weight.detach().abs() > weight.detach().abs().flatten().sort().values[weight.numel() // 2 - 1]


def gradients_kept(model: nn.Module, search: TicketSearch) -> dict[str, torch.Tensor]:
    """Where the gradients of queries and keys are not 0 once they are truncated (r = 0)."""
    backward(model)
    assert all((model.get_parameter(name).grad != 0).all() for name in NAMES)
    search.truncate_gradients()
    return {name: model.get_parameter(name).grad != 0 for name in NAMES}


def from_start(model: nn.Module, **settings: Any) -> TicketSearch:
    return TicketSearch(model, WormConfig(**{**NEVER, "truncation": 0.0, "truncate_from": "start", **settings}))


def test_from_the_start_the_first_steps_mask_serves_until_the_first_observation(model: nn.Module) -> None:
    search = from_start(model)
    for name in NAMES:  # the weights that count are those of the first step, not of the search's construction
        model.get_parameter(name).data.copy_(torch.randn(8, 8))
    first = {name: naive_half(model.get_parameter(name)) for name in NAMES}
    for _ in range(3):
        kept = gradients_kept(model, search)
        assert all(torch.equal(kept[name], first[name]) for name in NAMES)
        for name in NAMES:
            model.get_parameter(name).data.copy_(torch.randn(8, 8))
        assert search.truncating and search.masks == {} and search.sparsity == 0.0 and search.history == []
    search.observe()
    kept = gradients_kept(model, search)
    for name in NAMES:
        assert torch.equal(kept[name], naive_half(model.get_parameter(name)))
        assert not torch.equal(kept[name], first[name])


def test_from_the_start_the_gradients_of_the_others_keep_every_bit(model: nn.Module) -> None:
    search = from_start(model, truncation=0.25)
    backward(model)
    before = gradients_of(model)
    search.truncate_gradients()
    for name, parameter in model.named_parameters():
        mask = naive_half(parameter) if name in NAMES else torch.ones_like(parameter, dtype=torch.bool)
        assert torch.equal(parameter.grad, torch.where(mask, before[name], before[name] / 4))


@pytest.mark.parametrize("start", [True, False])
def test_from_the_start_every_observation_says_truncating_and_nothing_else_changes(start: bool) -> None:
    history = walk([0, 4, 0, 4, 4, 4], **{"truncate_from": "start"} if start else {})
    plain = walk([0, 4, 0, 4, 4, 4])
    assert [seen.truncating for seen in history] == [start] * 4 + [start or seen.truncating for seen in plain[4:]]
    assert [dataclasses.replace(seen, truncating=False) for seen in history] == [
        dataclasses.replace(seen, truncating=False) for seen in plain
    ]
    assert plain[-1].converged


@pytest.mark.parametrize("target", ["gradient", "update"])
def test_from_the_start_with_r_1_nothing_is_touched_nor_even_ranked(model: nn.Module, target: str) -> None:
    search = from_start(model, truncation=1.0, truncation_target=target)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search.attach(optimizer)
    backward(model)
    before = gradients_of(model)
    model.get_parameter(NAMES[0]).data.fill_(torch.nan)  # no mask can be made of these
    search.truncate_gradients()
    optimizer.step()
    assert all(torch.equal(parameter.grad, before[name]) for name, parameter in model.named_parameters())
    assert search.state_dict()["start"] == {}


def test_from_the_start_the_updates_are_truncated_by_the_first_steps_mask(model: nn.Module) -> None:
    search = from_start(model, truncation_target="update")
    with pytest.raises(RuntimeError, match=re.escape("call `search.attach(optimizer)` first")):
        search.truncate_gradients()
    search = from_start(model, truncation_target="update")
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)  # so large that the next mask would be another
    search.attach(optimizer)
    first = {name: naive_half(model.get_parameter(name)) for name in NAMES}
    for _ in range(2):
        before = weights_of(model)
        backward(model)
        search.truncate_gradients()
        optimizer.step()
        for name, parameter in model.named_parameters():
            mask = first.get(name, torch.ones_like(parameter, dtype=torch.bool))
            assert torch.equal(parameter[~mask], before[name][~mask])
            assert (parameter[mask] != before[name][mask]).any()
    assert any(not torch.equal(first[name], naive_half(model.get_parameter(name))) for name in NAMES)


def test_from_the_start_the_channels_that_tie_first_are_truncated_with_their_shift() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    search = from_start(model, layers=["batchnorm"], window=5)
    model(torch.randn(16, 6)).square().sum().backward()
    search.truncate_gradients()
    for parameter in (model[1].weight, model[1].bias):
        assert (parameter.grad != 0).tolist() == [False] * 4 + [True] * 4


def test_from_the_start_weights_that_are_not_finite_are_named(model: nn.Module) -> None:
    search = from_start(model)
    backward(model)
    model.get_parameter(NAMES[1]).data[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"`0\.key\.weight` holds NaN or infinite weights"):
        search.truncate_gradients()


def batchnorm_model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    return model


def test_scale_and_shift_of_a_batchnorm_channel_go_together() -> None:
    model = batchnorm_model()
    search = truncating_search(model, layers=["batchnorm"])
    (mask,) = search.masks.values()
    assert torch.equal(mask, model[1].weight.abs() > model[1].weight.abs().sort().values[3])  # scored by γ alone
    model(torch.randn(16, 6)).square().sum().backward()
    before = gradients_of(model)
    search.truncate_gradients()
    for name, parameter in model.named_parameters():
        factor = torch.where(mask, 1.0, 0.003) if name in ("1.weight", "1.bias") else 1.0
        assert torch.equal(parameter.grad, before[name] * factor)
    weights = weights_of(model)
    ticket = search.draw()
    assert list(ticket.masks) == ["1.weight"] and ticket.sparsity == 0.5
    for name, parameter in model.named_parameters():
        pruned = ~mask if name in ("1.weight", "1.bias") else torch.zeros_like(parameter, dtype=torch.bool)
        assert torch.equal(parameter, weights[name].masked_fill(pruned, 0))


def test_at_initialisation_every_batchnorm_score_ties_and_the_lower_channels_go() -> None:
    search = TicketSearch(nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)), WormConfig.cnn())
    search.observe()
    assert search.masks["1.weight"].tolist() == [False] * 3 + [True] * 3


# Truncation of the optimizer's step.


def test_attached_the_update_is_multiplied_by_r_and_the_gradient_is_not(model: nn.Module) -> None:
    search = truncating_search(model, truncation=0.25, truncation_target="update")
    twin = copy.deepcopy(model)
    optimizer, plain = (torch.optim.AdamW(m.parameters(), lr=0.1, weight_decay=0.1) for m in (model, twin))
    search.attach(optimizer)
    start = weights_of(model)
    for m in (model, twin):
        torch.manual_seed(1)
        backward(m)
    gradients = gradients_of(model)
    search.truncate_gradients()
    assert all(torch.equal(parameter.grad, gradients[name]) for name, parameter in model.named_parameters())
    optimizer.step()
    plain.step()
    for name, parameter in model.named_parameters():
        mask = search.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        full = twin.get_parameter(name)
        assert torch.equal(parameter[mask], full[mask])
        pruned = (start[name] + 0.25 * (full - start[name]))[~mask]
        torch.testing.assert_close(parameter[~mask], pruned)


def test_update_without_an_optimizer_is_refused_at_the_first_step(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(truncation_target="update", **ALWAYS))
    backward(model)
    with pytest.raises(RuntimeError, match=re.escape("call `search.attach(optimizer)` first")):
        search.truncate_gradients()
    search.attach(torch.optim.SGD(model.parameters(), lr=0.1)).remove()
    with pytest.raises(RuntimeError, match=re.escape("call `search.attach(optimizer)` first")):
        search.truncate_gradients()
    TicketSearch(model, WormConfig.eb_train(truncation_target="update")).truncate_gradients()  # there is nothing to do


def test_the_factors_of_the_truncation_go_with_the_draw() -> None:
    search = TicketSearch(zoo_model("bert"), WormConfig(truncate_from="start"))
    search.observe()
    without = len(pickle.dumps(search))
    for layer in search.layers:
        layer.parameter.grad = torch.ones_like(layer.parameter)
    search.truncate_gradients()
    factors = sum(4 * layer.parameter.numel() for layer in search.layers)
    assert len(pickle.dumps(search)) > without + factors
    search.draw()
    assert len(pickle.dumps(search)) < without + factors / 2


@pytest.mark.parametrize("config", [None, {"prune_ratio": 0.5}])
def test_settings_of_another_type_are_refused(config: Any, model: nn.Module) -> None:
    with pytest.raises(TypeError, match=f"`config` must be a `WormConfig`, got a `{type(config).__name__}`"):
        TicketSearch(model, config)


def test_what_is_no_optimizer_is_refused(model: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"`list` is no `torch\.optim\.Optimizer`"):
        TicketSearch(model, WormConfig()).attach(list(model.parameters()))  # type: ignore[arg-type]


def test_an_optimizer_of_another_model_is_refused(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(truncation_target="update"))
    other = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="4 of 4 representative layers are not among the parameters of this `SGD`"):
        search.attach(other)
    with pytest.raises(ValueError, match=r"1 of 4 .*: `0\.query\.weight`\. Its steps"):
        search.attach(torch.optim.SGD(list(model.parameters())[1:], lr=0.1))
    search.observe()
    ticket = search.draw()
    with pytest.raises(ValueError, match="Its steps don't train them"):
        ticket.hold(model, other)
    ticket.hold(model, torch.optim.SGD(list(model.parameters())[1:], lr=0.1))  # one of several that step
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    ticket.hold(model, other)  # what is frozen stays as it is


def test_attaching_does_nothing_for_gradients(model: nn.Module) -> None:
    twin = copy.deepcopy(model)
    search = truncating_search(model, truncation=0.0)
    optimizer, plain = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin))
    search.attach(optimizer)
    for m, stepper in ((model, optimizer), (twin, plain)):
        torch.manual_seed(1)
        backward(m)  # and no `truncate_gradients`
        stepper.step()
    assert same_weights(model, twin)


def test_removing_the_handle_ends_it(model: nn.Module) -> None:
    search = truncating_search(model, truncation=0.0, truncation_target="update")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = search.attach(optimizer)
    for moves in (False, True):
        before = weights_of(model)
        backward(model)
        optimizer.step()
        for name, mask in search.masks.items():
            assert (model.get_parameter(name)[~mask] != before[name][~mask]).any() == moves
        handle.remove()


def test_update_without_its_handle_is_refused_again(model: nn.Module) -> None:
    search = truncating_search(model, truncation_target="update")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = search.attach(optimizer)
    backward(model)
    search.truncate_gradients()
    handle.remove()
    with pytest.raises(RuntimeError, match=re.escape("call `search.attach(optimizer)` first")):
        search.truncate_gradients()


# Fading.


def fading_search(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, **settings: Any) -> TicketSearch:
    search = truncating_search(model, truncation_target="fade", **settings)
    search.attach(optimizer, steps_per_epoch=steps)
    return search


def step(model: nn.Module, search: TicketSearch, optimizer: torch.optim.Optimizer) -> None:
    backward(model)
    search.truncate_gradients()
    optimizer.step()


def test_doomed_weights_fade_to_one_hundredth_in_fade_epochs_and_the_others_train_on(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = fading_search(model, optimizer, 4, truncation=0.0, fade_epochs=2.5)
    before = weights_of(model)
    for _ in range(10):
        step(model, search, optimizer)
    for name, mask in search.masks.items():
        weight = model.get_parameter(name)
        torch.testing.assert_close(weight[~mask], 0.01 * before[name][~mask])
        assert (weight[mask] != before[name][mask]).all()


def test_both_weights_of_a_channel_fade() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0]))
        model[1].bias.copy_(torch.tensor([4.0, 5.0, 6.0, 7.0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search = fading_search(model, optimizer, 5, layers=["batchnorm"])
    for _ in range(5):
        optimizer.step()
    torch.testing.assert_close(model[1].weight.detach(), torch.tensor([0.005, 2.0, 0.01, 3.0]))
    torch.testing.assert_close(model[1].bias.detach(), torch.tensor([0.04, 5.0, 0.06, 7.0]))
    assert search.observe().doomed_share == pytest.approx(0.015 / 5.015)


def test_a_weight_that_leaves_the_mask_stops_fading_and_one_that_enters_begins() -> None:
    model = pair()
    turn(model, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search = fading_search(model, optimizer, 4, layers=["query"])
    optimizer.step()
    half = model["query"].weight.detach().clone()
    assert half.flatten().tolist() == pytest.approx([0.1 * 0.01**0.25] * 4 + [1.0] * 4)
    turn(model, 4)
    search.observe()
    optimizer.step()
    assert model["query"].weight.flatten().tolist() == pytest.approx([1.0] * 4 + [0.1 * 0.01**0.25] * 4)


def test_the_ticket_is_not_drawn_before_the_doomed_weights_have_faded() -> None:
    model = pair()
    turn(model, 0)  # the small ones are a tenth: they hold 1/11 of the norm
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search = TicketSearch(model, WormConfig.fade(window=2, fade_epochs=2.0))
    search.attach(optimizer, steps_per_epoch=3)
    seen = []
    for _ in range(4):
        seen.append(search.observe())
        for _ in range(3):
            optimizer.step()
    assert [one.max_distance for one in seen] == [None, 0, 0, 0], "the masks never moved"
    shares = [0.1 * factor / (1 + 0.1 * factor) for factor in (1, 1, 0.1, 0.01)]
    assert [one.doomed_share for one in seen] == pytest.approx(shares)
    assert [one.converged for one in seen] == [False, False, True, True]  # 1 % is below 3 %
    assert [one.truncating for one in seen] == [False, True, True, True]


@pytest.mark.parametrize("target", ["gradient", "update"])
def test_where_nothing_fades_no_share_is_taken(model: nn.Module, target: str) -> None:
    search = TicketSearch(model, WormConfig(truncation_target=target))
    assert search.observe().doomed_share is None


def test_weights_that_are_all_zero_hold_no_share(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert TicketSearch(model, WormConfig.fade()).observe().doomed_share == 0


@pytest.mark.parametrize("steps", [None, 0, -3])
def test_fading_needs_the_steps_of_an_epoch(model: nn.Module, steps: int | None) -> None:
    search = TicketSearch(model, WormConfig.fade())
    with pytest.raises(ValueError, match=re.escape(f"the optimizer's steps in an epoch, got {steps!r}.")):
        search.attach(torch.optim.SGD(model.parameters(), lr=0.1), steps)


@pytest.mark.parametrize("truncation", [0.003, 1.0])
def test_fading_without_an_optimizer_is_refused_once_it_would_fade(model: nn.Module, truncation: float) -> None:
    search = truncating_search(model, truncation_target="fade", truncation=truncation)
    with pytest.raises(RuntimeError, match=re.escape("`truncation_target='fade'` scales the optimizer's step")):
        search.truncate_gradients()


def test_another_optimizer_with_other_epochs_fades_at_its_own_pace(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    search = fading_search(model, optimizer, 1)
    optimizer.step()
    search.attach(optimizer, steps_per_epoch=4)
    before = weights_of(model)
    optimizer.step()
    for name, mask in search.masks.items():
        torch.testing.assert_close(model.get_parameter(name)[~mask], 0.01**0.25 * before[name][~mask])


def test_fading_that_rounding_would_undo_is_refused(model: nn.Module) -> None:
    model.to(torch.bfloat16)
    search = TicketSearch(model, WormConfig.fade())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    message = "is of torch.bfloat16: the 0.0046 of a weight by which it fades in a step .* Keep the weights in float32"
    with pytest.raises(ValueError, match=message):
        search.attach(optimizer, steps_per_epoch=1000)
    search = fading_search(model, optimizer, 500)  # 0.92 %: every weight moves
    before = weights_of(model)
    for _ in range(500):
        optimizer.step()
    for name, mask in search.masks.items():
        ratio = (model.get_parameter(name) / before[name])[~mask]
        assert (ratio.abs() < 0.05).all(), "not the one hundredth of exact arithmetic, and faded all the same"


# The draw.


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_draw_zeroes_what_the_newest_mask_prunes_and_nothing_else(model: nn.Module, scope: str) -> None:
    search = TicketSearch(model, WormConfig(scope=scope, window=2))
    search.observe()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    search.observe()
    masks, before = search.masks, weights_of(model)
    with torch.no_grad():  # the mask is that of the observation, the values are those of this moment
        for parameter in model.parameters():
            parameter.add_(1.0)
    ticket = search.draw()
    for name, parameter in model.named_parameters():
        mask = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, torch.where(mask, before[name] + 1.0, 0))
    assert list(ticket.masks) == NAMES
    assert all(torch.equal(ticket.masks[name], masks[name]) for name in NAMES)
    assert all(mask.device.type == "cpu" for mask in ticket.masks.values())
    assert ticket.sparsity == search.sparsity == 0.5


def test_the_ticket_says_how_it_was_found(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig())
    search.observe()
    early = search.draw()
    assert not early.converged and early.history == search.history and len(early.history) == 1
    search.observe()
    search.observe()
    ticket = search.draw()
    assert ticket.converged and ticket.config == search.config
    assert ticket.history == search.history and len(ticket.history) == 3
    assert len(early.history) == 1  # a copy


def doubts(model: nn.Module, **settings: Any) -> list[str]:
    """What a search is warned of as it is made."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        TicketSearch(model, WormConfig(**settings))
    return [str(one.message) for one in caught]


def test_a_ratio_that_prunes_nothing_is_warned_of() -> None:
    llama = zoo_model("llama")
    (doubt,) = doubts(llama, layers=["heads"], prune_ratio=0.2)
    assert doubt.startswith("Nothing is pruned of 2 of 2 layers, `layers.0.self_attn.q_proj.weight`, ")
    assert "with 2 heads, this ratio rounds to 0 pruned. Heads that share a key and a value are one unit." in doubt
    (doubt,) = doubts(llama, layers=["heads=0.2", "neurons=0.5"])
    assert doubt.startswith("Nothing is pruned of 2 of 4 layers")
    assert doubts(llama, layers=["heads"], prune_ratio=0.25) == doubts(llama, layers=["heads"], prune_ratio=0.2), "0.5"
    assert doubts(llama, layers=["heads"], prune_ratio=0.3) == doubts(llama, layers=["heads"], prune_ratio=0.0) == []
    assert doubts(llama, layers=["heads"], prune_ratio=0.2, scope="global") == [], "one of four"
    assert len(doubts(llama, layers=["heads"], prune_ratio=0.1, scope="global")) == 1


def test_units_of_unequal_sizes_that_are_ranked_together_are_warned_of() -> None:
    bert = zoo_model("bert")
    (doubt,) = doubts(bert, layers=["neurons", "heads"], scope="global")
    assert "a head has 8 times as many as a neuron: each neuron goes before the first head" in doubt
    (doubt,) = doubts(bert, layers=["neurons", "query"], scope="global")
    assert "a neuron has 49 times as many as a weight" in doubt
    assert doubts(bert, layers=["neurons", "heads"]) == doubts(bert, layers=["neurons"], scope="global") == []
    assert doubts(bert, layers=["neurons", "heads"], scope="global", score="fisher") == [], "comparable"
    assert doubts(bert, layers=["neurons", "heads"], scope="global", score="fisher", speedup=1.2) == []
    (doubt,) = doubts(bert, layers=["neurons", "heads"], speedup=1.2)
    assert "score='fisher'" in doubt


def test_units_with_frozen_parts_are_refused() -> None:
    bert = zoo_model("bert")
    bert.encoder.layer[0].attention.self.value.requires_grad_(False)
    with pytest.raises(ValueError, match=r"Units of `encoder.layer.0.attention.self.query.weight` own frozen weights"):
        TicketSearch(bert, WormConfig(layers=["heads"]))
    TicketSearch(bert, WormConfig(layers=["neurons"]))
    bert.encoder.layer[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"1 of 2 .* frozen.*name the places that train"):
        TicketSearch(bert, WormConfig(layers=["neurons"]))
    assert len(TicketSearch(bert, WormConfig(layers=["neurons@*.layer.1.*"])).layers) == 1


def test_a_draw_before_convergence_is_warned_of(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(window=2))
    search.observe()
    message = (
        r"takes 2 observations .* there was 1 and no distance yet\. .* sample more often \(`sample_strategy='steps'"
    )
    with pytest.warns(UserWarning, match=message):
        assert not search.draw().converged
    search.observe()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert search.draw().converged


def test_there_is_nothing_to_draw_before_the_first_observation(model: nn.Module) -> None:
    before = weights_of(model)
    with pytest.raises(RuntimeError, match=re.escape("call `observe()` at least once")):
        TicketSearch(model, WormConfig()).draw()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("settings", [{}, {"scope": "global"}, {"score": "fisher"}, {"layers": ["query=0.25", "key"]}])
def test_tickets_of_several_ratios_by_one_search_draw_nothing(model: nn.Module, settings: dict[str, Any]) -> None:
    search = TicketSearch(model, WormConfig(**settings))
    backward(model)
    search.truncate_gradients()
    search.observe()
    before, masks = weights_of(model), search.masks
    tickets = search.tickets([0.0, 0.3, 0.5, 0.9])
    assert [ticket.config.prune_ratio for ticket in tickets] == [0.0, 0.3, 0.5, 0.9]
    for ticket in tickets:
        alone = TicketSearch(model, ticket.config)
        alone.score.load_state_dict(search.score.state_dict())
        alone.observe()
        assert all(torch.equal(mask, alone.masks[name]) for name, mask in ticket.masks.items())
        assert ticket.parts == alone.draw().parts and not ticket.converged and ticket.history == search.history
        model.load_state_dict(before, strict=False)
    assert all(torch.equal(mask, tickets[2].masks[name]) for name, mask in masks.items())
    assert len(search.history) == 1 and all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_tickets_of_a_ratio_that_the_pattern_does_not_have_are_refused(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(scope="2:4"))
    assert search.tickets([0.5])[0].sparsity == 0.5
    with pytest.raises(ValueError, match=r"`scope='2:4'` prunes 0\.5 of the weights, got `prune_ratio=0\.25`"):
        search.tickets([0.25])


@pytest.mark.parametrize("target", ["gradient", "update", "fade"])
def test_a_closed_search_has_let_go_of_the_model_and_can_be_read_and_saved(model: nn.Module, target: str) -> None:
    model = copy.deepcopy(model)  # which nothing else holds
    search = TicketSearch(model, WormConfig(truncation_target=target, score="fisher", **ALWAYS))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search.attach(optimizer, steps_per_epoch=2)
    for _ in range(3):
        backward(model)
        search.truncate_gradients()
        optimizer.step()
        search.observe()
    masks, state, sparsity = search.masks, copy.deepcopy(search.state_dict()), search.sparsity
    let_go = [weakref.ref(one) for one in (*search.layers, *model.parameters(), optimizer)]
    twin = copy.deepcopy(model)
    search.close()
    search.close()  # once more does nothing
    backward(model)
    before = weights_of(model)
    optimizer.step()
    assert all((model.get_parameter(name)[~mask] != before[name][~mask]).any() for name, mask in masks.items())
    del model, optimizer
    gc.collect()
    assert not any(reference() is not None for reference in let_go)
    assert search.layers == [] and search.sparsity == sparsity and len(search.history) == 3 and search.config
    assert all(torch.equal(mask, masks[name]) for name, mask in search.masks.items())
    again = TicketSearch(twin, search.config)
    again.load_state_dict(search.state_dict())
    assert json.dumps(search.state_dict()["history"]) == json.dumps(state["history"])
    assert all(torch.equal(mask, masks[name]) for name, mask in again.masks.items())
    for act in (search.observe, search.draw, search.truncate_gradients, lambda: search.load_state_dict(state)):
        with pytest.raises(RuntimeError, match="The search is closed"):
            act()


def test_in_a_loop_of_ones_own_the_calls_of_truncate_gradients_are_the_steps(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(sample_strategy="steps", sample_steps=3))
    observed = []
    for step in range(1, 8):
        search.truncate_gradients()
        if search.due(step, epoch_end=False):
            search.observe()
            observed.append(search.state_dict()["observed"])
    assert observed == [3, 6] and search.state_dict()["step"] == 7
    search.observe(step=12)
    assert search.state_dict()["step"] == search.state_dict()["observed"] == 12


# What it refuses.


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named_and_leave_the_search_as_it_was(
    model: nn.Module, value: float, scope: str
) -> None:
    search = TicketSearch(model, WormConfig(scope=scope))
    search.observe()
    masks = search.masks
    model.get_parameter("1.query.weight").data[2, 3] = value
    with pytest.raises(ValueError, match=r"`1\.query\.weight` holds NaN or infinite weights"):
        search.observe()
    assert len(search.history) == 1
    assert all(torch.equal(mask, masks[name]) for name, mask in search.masks.items())
    model.get_parameter("1.query.weight").data[2, 3] = 0.0
    assert search.observe().index == 1


def test_frozen_layers_are_refused_by_name(model: nn.Module) -> None:
    model.get_parameter("1.key.weight").requires_grad_(False)
    with pytest.raises(ValueError, match="frozen") as error:
        TicketSearch(model, WormConfig())
    assert "`1.key.weight`" in str(error.value) and "`1.query.weight`" not in str(error.value)


def test_a_model_without_the_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Found no query or key projection in `Linear`"):
        TicketSearch(nn.Linear(4, 4), WormConfig())


# Saved, and gone on with.


def through_memory(state: dict[str, Any]) -> dict[str, Any]:
    return state


def through_torch_save(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """All but the tensors as JSON, as a checkpoint folder has it."""
    rest = {name: part for name, part in state.items() if name not in ("window", "start")}
    return {**json.loads(json.dumps(rest)), "window": state["window"], "start": state["start"]}


def train_epochs(
    model: nn.Module, optimizer: torch.optim.Optimizer, search: TicketSearch, epochs: range
) -> TicketSearch:
    handle = search.attach(optimizer)
    for epoch in epochs:
        for step in range(4):
            torch.manual_seed(100 * epoch + step)
            backward(model)
            search.truncate_gradients()
            optimizer.step()
        search.observe()
    handle.remove()
    return search


@pytest.mark.parametrize("target", ["gradient", "update"])
@pytest.mark.parametrize("after", [0, 1, 2, 4])
@pytest.mark.parametrize("carry", [through_memory, through_torch_save, through_json])
def test_a_search_goes_on_as_if_it_had_not_been_interrupted(
    model: nn.Module, carry: Callable[[dict[str, Any]], dict[str, Any]], after: int, target: str
) -> None:
    def adamw(m: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(m.parameters(), lr=0.02)

    config = WormConfig(stopping_point=0.05, margin=0.12, truncation_target=target)
    twin, optimizer = copy.deepcopy(model), adamw(model)
    whole = train_epochs(model, optimizer, TicketSearch(model, config), range(6))

    first = train_epochs(twin, stepper := adamw(twin), TicketSearch(twin, config), range(after))
    resumed_model = copy.deepcopy(twin)
    resumed_optimizer = adamw(resumed_model)
    resumed_optimizer.load_state_dict(stepper.state_dict())
    resumed = TicketSearch(resumed_model, config)
    resumed.load_state_dict(carry(first.state_dict()))
    assert resumed.history == first.history and resumed.truncating == first.truncating
    train_epochs(resumed_model, resumed_optimizer, resumed, range(after, 6))

    assert resumed.history == whole.history
    assert same_weights(resumed_model, model)
    assert all(torch.equal(mask, resumed.masks[name]) for name, mask in whole.masks.items())
    # The run that this compares with goes through all of it: before the trigger point and past it.
    assert {seen.truncating for seen in whole.history} == {False, True}


def test_a_search_from_the_start_carries_its_first_mask_through_the_first_epoch(model: nn.Module) -> None:
    search = from_start(model)
    first = gradients_kept(model, search)
    for name in NAMES:
        model.get_parameter(name).data.copy_(torch.randn(8, 8))
    for carry in (through_memory, through_torch_save, through_json):
        resumed, fresh = from_start(model), from_start(model)
        resumed.load_state_dict(carry(search.state_dict()))
        kept, elsewhere = gradients_kept(model, resumed), gradients_kept(model, fresh)
        for name in NAMES:
            assert torch.equal(kept[name], first[name])
            assert not torch.equal(elsewhere[name], first[name])  # without the state
    assert resumed.history == [] and resumed.masks == {}
    resumed.observe()
    assert resumed.state_dict()["start"] == {}  # it has served


def test_a_search_without_a_first_mask_takes_it_at_its_own_first_step(model: nn.Module) -> None:
    search, other = from_start(model), from_start(model)
    gradients_kept(model, other)
    other.load_state_dict(search.state_dict())  # of before the first step
    for name in NAMES:
        model.get_parameter(name).data.copy_(torch.randn(8, 8))
    kept = gradients_kept(model, other)
    assert all(torch.equal(kept[name], naive_half(model.get_parameter(name))) for name in NAMES)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("start"),
        lambda state: state["start"].pop(NAMES[2]),
        lambda state: state["start"].update({NAMES[0]: torch.zeros(7, dtype=torch.uint8)}),
        lambda state: state["start"].update({NAMES[0]: torch.zeros(8)}),
        lambda state: state.update(start=3),
        lambda state: state["start"].update({NAMES[0]: [1, 2]}),
    ],
    ids=["none", "lacks a layer", "too short", "not packed", "no masks", "no tensor"],
)
def test_a_damaged_first_mask_is_refused(model: nn.Module, damage: Callable[[dict[str, Any]], Any]) -> None:
    search = from_start(model)
    first = gradients_kept(model, search)
    state = copy.deepcopy(search.state_dict())
    damage(state)
    for name in NAMES:
        model.get_parameter(name).data.copy_(torch.randn(8, 8))
    refused(search, state)
    kept = gradients_kept(model, search)
    assert all(torch.equal(kept[name], first[name]) for name in NAMES)


def test_going_on_without_the_state_is_not_the_same(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(**ALWAYS, truncation=0.0))
    search.observe()
    search.observe()
    fresh = TicketSearch(model, search.config)
    backward(model)
    before = gradients_of(model)
    fresh.truncate_gradients()
    assert all(torch.equal(parameter.grad, before[name]) for name, parameter in model.named_parameters())
    fresh.load_state_dict(search.state_dict())
    fresh.truncate_gradients()
    assert all(not torch.equal(model.get_parameter(name).grad, before[name]) for name in NAMES)


def test_the_state_is_a_snapshot(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig())
    search.observe()
    state = search.state_dict()
    kept = copy.deepcopy(state)
    for name in NAMES:
        model.get_parameter(name).data.copy_(torch.randn(8, 8))
    search.observe()
    assert len(state["window"]) == 1 and state["history"] == kept["history"]
    assert all(torch.equal(mask, kept["window"][0][name]) for name, mask in state["window"][0].items())


def test_the_state_holds_one_bit_per_unit_and_mask(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(window=2))
    for _ in range(4):
        search.observe()
    state = search.state_dict()
    assert len(state["window"]) == 2
    for masks in state["window"]:
        assert {name: mask.untyped_storage().nbytes() for name, mask in masks.items()} == dict.fromkeys(NAMES, 64 // 8)
    assert state["shapes"] == {name: [8, 8] for name in NAMES}


def test_loading_replaces_all_that_was_there(model: nn.Module) -> None:
    empty = TicketSearch(model, WormConfig()).state_dict()
    search = truncating_search(model, truncation=0.0)
    search.load_state_dict({**empty, "config": dataclasses.asdict(search.config)})
    assert search.history == [] and search.masks == {} and not search.truncating
    backward(model)
    before = gradients_of(model)
    search.truncate_gradients()
    assert all(torch.equal(parameter.grad, before[name]) for name, parameter in model.named_parameters())


def refused(search: TicketSearch, state: dict[str, Any], message: str | None = None) -> None:
    """Loading raises, and the search is as it was."""
    history, masks = list(search.history), search.masks
    with pytest.raises(ValueError, match=message):
        search.load_state_dict(state)
    assert search.history == history
    assert search.masks.keys() == masks.keys()
    assert all(torch.equal(mask, masks[name]) for name, mask in search.masks.items())


@pytest.mark.parametrize(
    ("name", "value"), [("prune_ratio", 0.25), ("scope", "global"), ("window", 4)], ids=lambda value: str(value)
)
def test_a_search_whose_masks_do_not_compare_is_refused(model: nn.Module, name: str, value: Any) -> None:
    state = truncating_search(model).state_dict()
    search = TicketSearch(model, WormConfig(**{name: value}))
    default = getattr(WormConfig(), name)
    refused(search, state, re.escape(f"The saved search ran with `{name}={default!r}`, this one has {value!r}"))


def test_other_settings_may_change_on_the_way(model: nn.Module) -> None:
    state = truncating_search(model, truncation=0.003).state_dict()
    search = TicketSearch(model, WormConfig(truncation=0.0, stopping_point=0.02, margin=0.01))
    search.load_state_dict(state)
    backward(model)
    search.truncate_gradients()
    assert all(torch.equal(model.get_parameter(name).grad != 0, mask) for name, mask in search.masks.items())


def test_the_search_of_another_model_is_refused_by_names_and_shapes(model: nn.Module) -> None:
    other = TicketSearch(pair(), WormConfig())
    other.observe()
    search = TicketSearch(model, WormConfig())
    search.observe()
    refused(search, other.state_dict(), re.escape("the saved search has `query.weight` (2, 4), `key.weight` (2, 4)"))
    refused(other, search.state_dict(), re.escape("this model has `query.weight` (2, 4), `key.weight` (2, 4)"))
    fewer = TicketSearch(model, WormConfig(layers=["query"]))
    refused(fewer, search.state_dict(), re.escape("the saved search has `0.key.weight` (8, 8)"))


def lacks(*path: Any) -> Callable[[dict[str, Any]], None]:
    def take(state: Any) -> None:
        for step in path[:-1]:
            state = state[step]
        del state[path[-1]]

    return take


@pytest.mark.parametrize(
    "damage",
    [
        *(lacks(part) for part in ("window", "shapes", "history", "config")),
        lacks("window", 1, NAMES[2]),
        lacks("window", 0, NAMES[2]),
        lacks("window", slice(None)),
        lacks("history", 1, "distances"),
        lacks("config", "scope"),
        lambda state: state["window"][1].update({NAMES[0]: torch.zeros(7, dtype=torch.uint8)}),
        lambda state: state["window"][0].update({NAMES[0]: torch.zeros(7, dtype=torch.uint8)}),
    ],
    ids=[
        "no window",
        "no shapes",
        "no history",
        "no config",
        "newest mask lacks a layer",
        "older mask lacks a layer",
        "no masks",
        "observation lacks its distances",
        "config lacks the scope",
        "newest mask too short",
        "older mask too short",
    ],
)
def test_an_incomplete_state_is_refused(model: nn.Module, damage: Callable[[dict[str, Any]], None]) -> None:
    state = copy.deepcopy(truncating_search(model, window=2).state_dict())
    damage(state)
    search = TicketSearch(model, WormConfig(window=2))
    search.observe()
    refused(search, state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_state_that_was_loaded_onto_the_gpu_goes_on(model: nn.Module) -> None:
    search = truncating_search(model.cuda())
    state = search.state_dict()
    state["window"] = [{name: mask.cuda() for name, mask in masks.items()} for masks in state["window"]]
    other = TicketSearch(model, search.config)
    other.load_state_dict(state)
    assert other.observe().distances == search.observe().distances
    assert all(mask.is_cuda and torch.equal(mask, other.masks[name]) for name, mask in search.masks.items())


def old_state() -> dict[str, Any]:
    """As version 0.1.0 wrote it into the second checkpoint of a run."""
    with safe_open(Path(__file__).parent / "v0_1_0" / "weights" / "search_state.safetensors", framework="pt") as file:
        masks = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        rest = json.loads(file.metadata()["search"])
    window = [{} for _ in rest["history"]]
    for key, mask in masks.items():
        place, _, name = key.partition("/")
        window[int(place)][name] = mask
    return {**rest, "window": window, "start": {}}


def test_a_state_that_version_0_1_0_wrote_is_gone_on_with(bert: nn.Module) -> None:
    state = old_state()
    assert not {"score", "step", "parts"} & set(state) and "score" not in state["config"]
    search = TicketSearch(bert, WormConfig(stopping_point=0.5))
    search.load_state_dict(state)
    assert len(search.history) == 2 and search.truncating
    seen = search.observe(step=24)
    assert seen.index == 2 and len(seen.distances) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": "fisher"}, "The saved search ran with `score='magnitude'`, this one has 'fisher'"),
        ({"scope": "2:4"}, "The saved search ran with `scope='layer'`, this one has '2:4'"),
        ({"schedule": "cubic"}, "The saved search ran with `schedule='early_bird'`, this one has 'cubic'"),
    ],
)
def test_a_state_that_version_0_1_0_wrote_is_refused_by_other_parts(
    bert: nn.Module, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TicketSearch(bert, WormConfig(**settings)).load_state_dict(old_state())


@pytest.mark.parametrize("name", ["step", "observed"])
def test_a_state_with_damaged_steps_is_refused(model: nn.Module, name: str) -> None:
    state = truncating_search(model).state_dict() | {name: "8"}
    search = TicketSearch(model, WormConfig())
    search.observe()
    refused(search, state, r"is damaged: .*`step` and `observed` must be whole numbers")


def test_loss_scaling_and_truncation_do_not_get_in_each_others_way(model: nn.Sequential) -> None:
    """As in fp16: the gradients are truncated while they are scaled, and unscaled before the step."""
    search = TicketSearch(model, WormConfig(**ALWAYS))
    search.observe()
    search.observe()
    inputs, labels = torch.randn(16, 4, 8), torch.arange(16) % 2
    nn.functional.cross_entropy(model(inputs), labels).backward()
    search.truncate_gradients()
    expected = gradients_of(model)

    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(nn.functional.cross_entropy(model(inputs), labels)).backward()
    search.truncate_gradients()
    scaler.unscale_(optimizer)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=0)


def test_a_single_weight_is_a_layer() -> None:
    """CLIP's `logit_scale` is of no dimension."""
    model = nn.Linear(4, 4)
    model.scale = nn.Parameter(torch.tensor(2.0))
    search = TicketSearch(model, WormConfig(layers=["*"], prune_ratio=0.75, truncate_from="start"))
    (model(torch.ones(4)).sum() * model.scale).backward()
    before = model.scale.grad.clone()
    search.truncate_gradients()
    search.observe()
    ticket = search.draw()
    assert ticket.masks["scale"].shape == () and not ticket.masks["scale"] and model.scale.item() == 0
    torch.testing.assert_close(model.scale.grad, before * 0.003)
