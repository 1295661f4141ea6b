"""Which units go: in each layer, over all layers, or of each few neighbours; the last neuron or head stays."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)
from zoo import zoo_model

from hf_worm.config import WormConfig
from hf_worm.core.masks import unpack
from hf_worm.scores import Magnitude
from hf_worm.search import TicketSearch
from hf_worm.select import NOfM, OverAll, PerLayer, Selection, selection_of, take_masks
from hf_worm.ticket import Ticket
from hf_worm.units import RepresentativeLayer, representative_layers


def naive_mask(scores: torch.Tensor, pruned: int) -> torch.Tensor:
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort(stable=True)[:pruned]] = False
    return mask.view(scores.shape)


def taken(selection: Selection, layers: list[RepresentativeLayer], ratios: list[float]) -> list[torch.Tensor]:
    packed = take_masks(selection, Magnitude(), layers, ratios)
    return [unpack(packed[layer.name], layer.shape) for layer in layers]


def matrices(*shapes: tuple[int, ...]) -> list[RepresentativeLayer]:
    generator = torch.Generator().manual_seed(2)
    model = nn.ParameterList([torch.randint(-3, 4, shape, generator=generator).float() for shape in shapes])
    return representative_layers(model, ["*"])


@pytest.mark.parametrize("threads", [1, 3])
def test_each_layer_loses_its_own_share(threads: int) -> None:
    layers, ratios = matrices((5, 7), (4,), (3, 2, 2), (9, 1)), [0.3, 0.5, 0.0, 0.9]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        masks = taken(PerLayer(), layers, ratios)
    finally:
        torch.set_num_threads(before)
    for layer, mask, ratio in zip(layers, masks, ratios, strict=True):
        assert torch.equal(mask, naive_mask(layer.weight.abs(), round(ratio * layer.shape.numel())))


def test_one_share_of_all_layers() -> None:
    layers = matrices((5, 7), (4,), (3, 2, 2))
    together = naive_mask(torch.cat([layer.weight.abs().flatten() for layer in layers]), round(0.4 * 51))
    masks = taken(OverAll(), layers, [0.4] * 3)
    assert torch.equal(torch.cat([mask.flatten() for mask in masks]), together)
    with pytest.raises(ValueError, match=r"`scope='global'` has one ratio for all layers, got \[0\.3, 0\.4\]"):
        taken(OverAll(), layers, [0.4, 0.3, 0.4])


@pytest.mark.parametrize("selection", [PerLayer(), OverAll()])
def test_the_last_neuron_or_head_stays_whatever_the_score(selection: Selection) -> None:
    class LastIsBest(Magnitude):
        def of(self, layer: RepresentativeLayer) -> torch.Tensor:
            return torch.arange(layer.shape.numel()).float() + (1000 if layer is layers[0] else 0)

    layers = representative_layers(zoo_model("bert"), ["heads"])
    packed = take_masks(selection, LastIsBest(), layers, [0.95] * 2)
    assert [unpack(packed[layer.name], layer.shape).tolist() for layer in layers] == [[False] * 5 + [True]] * 2


def test_a_single_weight_or_channel_may_be_the_last_that_goes() -> None:
    masks = taken(OverAll(), matrices((2,), (50,)), [0.98, 0.98])
    assert not masks[0].any() and masks[1].sum() == 1


# N of M.


@given(groups=st.integers(1, 5), rows=st.integers(1, 5), seed=st.integers(0, 1000))
def test_2_of_4_keeps_exactly_two_of_each_four_neighbours_in_a_row(groups: int, rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    layers = representative_layers(nn.ParameterList([torch.randint(-2, 3, (rows, 4 * groups)).float()]), ["*"])
    (mask,) = taken(NOfM(2, 4), layers, [0.5])
    assert (mask.view(rows, groups, 4).sum(-1) == 2).all()
    scores = layers[0].weight.abs().view(rows, groups, 4)
    for group, kept in zip(scores.view(-1, 4).tolist(), mask.view(-1, 4).tolist(), strict=True):
        assert [place for place in range(4) if not kept[place]] == sorted(
            sorted(range(4), key=lambda place: (group[place], place))[:2]
        ), "of equal scores the lower index goes"


def semi_structured(weight: torch.Tensor) -> bool:
    """The rule of `torch.sparse.to_sparse_semi_structured` for dense weights: at most two of four are not 0."""
    return bool(((weight.view(-1, 4) != 0).sum(1) <= 2).all())


def test_drawn_weights_have_the_layout_that_sparse_kernels_take() -> None:
    """`to_sparse_semi_structured` and back gives the same weights where torch can compress them."""
    model = nn.ModuleDict({"query": nn.Linear(64, 64), "key": nn.Linear(128, 64)})
    search = TicketSearch(model, WormConfig(scope="2:4"))
    search.observe()
    assert not any(semi_structured(layer.weight) for layer in search.layers)
    ticket = search.draw()
    assert ticket.sparsity == 0.5 and ticket.parts["select"] == "2:4"
    for layer in search.layers:
        weight = layer.weight.to(torch.float16)
        assert semi_structured(weight) and weight.count_nonzero() == weight.numel() / 2
        packed, metadata = sparse_semi_structured_from_dense_cutlass(weight)
        assert packed.shape == (64, weight.shape[1] // 2)
        assert torch.equal(sparse_semi_structured_to_dense_cutlass(packed, metadata), weight)


def test_2_of_4_goes_through_a_whole_search_and_is_held(model: nn.Module) -> None:
    search = TicketSearch(model, WormConfig(scope="2:4", window=2, stopping_point=1.0, score="fisher"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        nn.functional.cross_entropy(model(torch.randn(16, 4, 8)), torch.arange(16) % 2).backward()
        search.truncate_gradients()
        optimizer.step()
        search.observe()
    ticket: Ticket = search.draw()
    ticket.hold(model, optimizer)
    nn.functional.cross_entropy(model(torch.randn(16, 4, 8)), torch.arange(16) % 2).backward()
    optimizer.step()
    assert all(semi_structured(layer.weight) for layer in search.layers)
    assert all((mask.view(-1, 4).sum(1) == 2).all() for mask in ticket.masks.values())


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (["0.weight"], "weights of shape (6, 3, 2, 2)"),
        (["1.weight"], "weights of shape (6,)"),
        (["2.weight"], "(8, 6)"),
    ],
)
def test_units_that_come_in_no_groups_of_m_are_refused(layers: list[str], shape: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 2), nn.BatchNorm2d(6), nn.Linear(6, 8))
    with pytest.raises(ValueError, match=rf"`scope='2:4'` prunes single weights .*{re.escape(shape)}.*Name other"):
        TicketSearch(model, WormConfig(scope="2:4", layers=layers))


def test_neurons_and_channels_come_in_no_groups() -> None:
    with pytest.raises(ValueError, match=r"`encoder.layer.0.intermediate.dense.weight` has neurons of shape \(20,\)"):
        TicketSearch(zoo_model("bert"), WormConfig(scope="2:4", layers=["neurons"]))


@pytest.mark.parametrize(("scope", "kind"), [("layer", PerLayer), ("global", OverAll), ("2:4", NOfM)])
def test_the_settings_name_the_selection(scope: str, kind: Any) -> None:
    selection = selection_of(WormConfig(scope=scope))
    assert type(selection) is kind and selection.name == scope and isinstance(selection, Selection)
