"""Tickets of BatchNorm channels: γ scored, β masked with it, and a pruned channel is silent."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import default_collate
from training import BATCHNORMS, checkpoints, images, worm_trainer
from transformers import TrainerCallback

from hf_worm import Ticket, TicketSearch, WormConfig

GAMMAS = [f"{norm}.weight" for norm in BATCHNORMS]
OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
}


def norms(*channels: int) -> nn.Sequential:
    return nn.Sequential(*(nn.BatchNorm2d(size) for size in channels))


def scatter(model: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """γ and β of every BatchNorm drawn anew, no two |γ| the same."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data.normal_(generator=generator)
    return model


def masks_of(model: nn.Module, **settings: Any) -> dict[str, torch.Tensor]:
    search = TicketSearch(model, WormConfig.cnn(**settings))
    search.observe()
    return search.masks


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, search: TicketSearch | None = None) -> None:
    rows = images()
    model.train()
    for start in range(0, len(rows), 8):
        model(**default_collate(rows[start : start + 8]))["loss"].backward()
        if search is not None:
            search.truncate_gradients()
        optimizer.step()
        optimizer.zero_grad()


# Masks.


@given(
    ratio=st.floats(0.0, 0.99),
    channels=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_masks_are_those_of_torchs_pruning_in_each_layer_and_over_all(
    ratio: float, channels: list[int], seed: int
) -> None:
    model = scatter(norms(*channels), torch.Generator().manual_seed(seed))
    layerwise, together = copy.deepcopy(model), copy.deepcopy(model)
    for module in layerwise:
        prune.l1_unstructured(module, "weight", amount=ratio)
    prune.global_unstructured([(module, "weight") for module in together], prune.L1Unstructured, amount=ratio)
    for scope, pruned in (("layer", layerwise), ("global", together)):
        masks = masks_of(model, scope=scope, prune_ratio=ratio)
        assert list(masks) == [f"{place}.weight" for place in range(len(channels))]
        for mask, module in zip(masks.values(), pruned, strict=True):
            assert torch.equal(mask, module.weight_mask.bool())


def test_the_shift_has_no_say_in_the_mask() -> None:
    model = scatter(norms(16))
    before = masks_of(model)["0.weight"]
    model[0].bias.data.mul_(torch.linspace(-100, 100, 16))
    assert torch.equal(masks_of(model)["0.weight"], before)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_as_they_come_all_scales_tie_and_the_lower_channels_go_first(ratio: float) -> None:
    channels = (7, 1, 16)
    for size, mask in zip(channels, masks_of(norms(*channels), prune_ratio=ratio).values(), strict=True):
        pruned = round(ratio * size)
        assert mask.tolist() == [False] * pruned + [True] * (size - pruned)
    together = torch.cat(list(masks_of(norms(*channels), prune_ratio=ratio, scope="global").values()))
    pruned = round(ratio * 24)
    assert together.tolist() == [False] * pruned + [True] * (24 - pruned)


# Convergence.


def test_an_untrained_network_converges_once_its_window_is_full_of_the_same_mask_and_never_before(
    cnn: nn.Module,
) -> None:
    search = TicketSearch(cnn, WormConfig.cnn())
    seen = [search.observe() for _ in range(6)]
    assert [observation.converged for observation in seen] == [False] * 4 + [True] * 2
    assert all(observation.max_distance == 0 for observation in seen[1:])


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_mask_of_ties_before_training_is_not_taken_for_convergence(
    cnn: nn.Module, optimizer: str, scope: str
) -> None:
    search, stepper = TicketSearch(cnn, WormConfig.cnn(scope=scope)), OPTIMIZERS[optimizer](cnn)
    search.observe()
    ties = search.masks
    assert all(layer.weight.eq(1).all() for layer in search.layers)
    while not search.converged and len(search.history) < 15:
        train_epoch(cnn, stepper, search)
        search.observe()
    assert search.converged and len(search.history) > 5  # the mask of ties has left the window
    for seen in search.history[1:5]:
        assert seen.distances[0] > 0.2 and not seen.converged  # it is still there
    assert any(not torch.equal(mask, ties[name]) for name, mask in search.masks.items())


def early_bird(
    trajectory: list[torch.Tensor], percent: float, stop: float, window: int = 5
) -> tuple[list[torch.Tensor], list[tuple[float, ...]], int | None]:
    """EB Train's detector: keep what is above the sorted |γ| at index `int(percent * n)`; masks of all layers as one.

    Gives its masks, the distances of the newest to each older one wherever the window is full, and when it stops.
    """
    masks: list[torch.Tensor] = []
    distances: list[tuple[float, ...]] = []
    stopped = None
    for epoch, scales in enumerate(trajectory):
        threshold = scales.abs().sort().values[int(len(scales) * percent)]
        masks.append(scales.abs() > threshold)
        if len(masks) >= window:
            same = [int((masks[-1] == older).sum()) for older in masks[-window:-1]]
            distances.append(tuple((len(scales) - count) / len(scales) for count in same))
            if max(distances[-1]) < stop and stopped is None:
                stopped = epoch
    return masks, distances, stopped


@given(seed=st.integers(0, 2**31), ratio=st.sampled_from([0.25, 0.5, 0.75]))
def test_eb_trains_detector_finds_the_same_but_for_the_one_unit_more_that_it_prunes(seed: int, ratio: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    channels, units = [12, 20, 16], 48
    aim = torch.randn(units, generator=generator)
    trajectory = [aim + 2 * 0.4**epoch * torch.randn(units, generator=generator) for epoch in range(12)]
    model = norms(*channels)
    search = TicketSearch(model, WormConfig.cnn(truncation=1.0, scope="global", prune_ratio=ratio))
    ours: list[torch.Tensor] = []
    for scales in trajectory:
        for module, part in zip(model, scales.split(channels), strict=True):
            module.weight.data.copy_(part)
        search.observe()
        ours.append(torch.cat(list(search.masks.values())))
    full = [seen.distances for seen in search.history[4:]]
    stopped = next(seen.index for seen in search.history if seen.converged)

    masks, distances, _ = early_bird(trajectory, ratio, 0.1)
    for our, their in zip(ours, masks, strict=True):
        assert int((our & ~their).sum()) == 1 and not (their & ~our).any()
    for our_distances, their_distances in zip(full, distances, strict=True):  # one unit in either of two masks
        assert their_distances == pytest.approx(our_distances, abs=2 / units + 1e-9)

    # Asked for one unit fewer it prunes what we prune: the same masks, the same distances, the same epoch to stop at.
    masks, distances, their_stop = early_bird(trajectory, ratio - 0.5 / units, 0.1)
    assert all(torch.equal(our, their) for our, their in zip(ours, masks, strict=True))
    assert distances == full
    assert stopped == their_stop > 3


# The draw, and retraining.


@contextmanager
def outputs_of_batchnorms(model: nn.Module) -> Iterator[dict[str, list[torch.Tensor]]]:
    """What every BatchNorm gives while the context lasts."""
    given: dict[str, list[torch.Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: given.setdefault(name, []).append(output))
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    yield given
    for hook in hooks:
        hook.remove()


def check_silence(model: nn.Module, ticket: Ticket) -> None:
    """Pruned channels are exactly 0 at every place of every image, in train and eval mode; kept ones are not."""
    model = copy.deepcopy(model)  # train mode moves the running statistics
    pixels = default_collate(images())["pixel_values"]
    with outputs_of_batchnorms(model) as given, torch.no_grad():
        model.train()(pixels)
        model.eval()(pixels)
    assert [f"{name}.weight" for name in given] == list(ticket.masks)
    for name, outputs in given.items():
        mask = ticket.masks[f"{name}.weight"]
        assert len(outputs) == 2
        for output in outputs:
            assert (output[:, ~mask] == 0).all()
            assert (output[:, mask] != 0).flatten(2).any(2).any(0).all()  # every kept channel somewhere
    assert 0 < ticket.sparsity < 1


class SilentAfterEveryStep(TrainerCallback):
    """A checkpoint is saved with the ticket applied once more: what holds between them shows after each step."""

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self.steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        if self.ticket is not None:
            check_silence(model, self.ticket)
            self.steps += 1


def check_saved(folder: Path, ticket: Ticket) -> None:
    saved = load_file(folder / "model.safetensors")
    for norm in BATCHNORMS:
        mask = ticket.masks[f"{norm}.weight"]
        for part in ("weight", "bias"):
            assert (saved[f"{norm}.{part}"][~mask] == 0).all()
            assert (saved[f"{norm}.{part}"][mask] != 0).all()


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_channels_are_silent_through_the_trainer_and_in_its_checkpoints(
    cnn: nn.Module, tmp_path: Path, optimizer: str, scope: str
) -> None:
    trainer = worm_trainer(
        cnn,
        tmp_path,
        WormConfig.cnn(window=3, stopping_point=0.9, scope=scope),
        train_dataset=images(),
        optimizers=(OPTIMIZERS[optimizer](cnn), None),
        callbacks=[check := SilentAfterEveryStep()],
        save_strategy="epoch",
    )
    trainer.search_ticket()
    ticket = check.ticket = trainer.draw_ticket()
    check_silence(cnn, ticket)
    drawn = copy.deepcopy(cnn)
    trainer.retrain()
    assert check.steps == 8
    check_silence(cnn, ticket)
    for name, mask in ticket.masks.items():  # kept channels have trained
        assert (cnn.get_parameter(name)[mask] != drawn.get_parameter(name)[mask]).any()
    trainer.save_model(str(tmp_path / "saved"))
    check_saved(tmp_path / "saved", ticket)
    check_saved(checkpoints(tmp_path)[-1], ticket)
    assert (load_file(checkpoints(tmp_path)[-2] / "model.safetensors")[GAMMAS[0]] != 0).all()  # of the search


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_channels_are_silent_in_a_plain_loop_that_keeps_its_optimizer(
    cnn: nn.Module, optimizer: str, scope: str
) -> None:
    search, stepper = TicketSearch(cnn, WormConfig.cnn(scope=scope)), OPTIMIZERS[optimizer](cnn)
    for _ in range(2):
        train_epoch(cnn, stepper, search)
        search.observe()
    ticket = search.draw()
    check_silence(cnn, ticket)
    handle = ticket.hold(cnn, stepper)  # momentum of pruned channels and all
    train_epoch(cnn, stepper)
    check_silence(cnn, ticket)
    handle.remove()
    train_epoch(cnn, stepper)
    assert any((cnn.get_parameter(name)[~mask] != 0).any() for name, mask in ticket.masks.items())


def test_the_draw_warns_of_a_layer_that_it_empties_and_names_it() -> None:
    model = scatter(norms(8, 8, 8))
    model[1].weight.data.mul_(1e-6)
    search = TicketSearch(model, WormConfig.cnn(scope="global", prune_ratio=0.4))
    search.observe()
    with pytest.warns(
        UserWarning, match=r"The ticket prunes all of `1\.weight`: the outputs of such a layer don't depend"
    ):
        search.draw()
    assert not model[1].weight.any() and not model[1].bias.any()


@pytest.mark.parametrize(("scope", "scale"), [("global", 1.0), ("layer", 1e-6)])
def test_the_draw_does_not_warn_where_each_layer_keeps_something(scope: str, scale: float) -> None:
    model = scatter(norms(8, 8, 8))
    model[1].weight.data.mul_(scale)
    search = TicketSearch(model, WormConfig.cnn(scope=scope, prune_ratio=0.4, window=2))
    assert [search.observe().converged for _ in range(2)] == [False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ticket = search.draw()
    assert all(mask.any() for mask in ticket.masks.values())


# Other kinds.


def without_shift(module: nn.BatchNorm2d) -> nn.BatchNorm2d:
    module.register_parameter("bias", None)
    return module


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(6), (5, 6)),
        (nn.BatchNorm1d(6), (5, 6, 3)),
        (nn.BatchNorm3d(6), (2, 6, 2, 3, 2)),
        (without_shift(nn.BatchNorm2d(6)), (3, 6, 2, 2)),
        (nn.SyncBatchNorm(6), None),
    ],
    ids=["1d", "1d of sequences", "3d", "without β", "sync"],
)
def test_any_batchnorm_is_searched_truncated_drawn_and_held(norm: nn.Module, shape: tuple[int, ...] | None) -> None:
    model = scatter(nn.Sequential(copy.deepcopy(norm)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    search = TicketSearch(model, WormConfig.cnn(window=2, truncation=0.5))
    search.observe()
    assert search.observe().converged
    (mask,) = search.masks.values()
    assert torch.equal(mask, model[0].weight.abs() > model[0].weight.abs().sort().values[2])

    def backward() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if shape is not None:  # a SyncBatchNorm runs on GPUs alone
            model.zero_grad()
            (model(torch.randn(shape)) * torch.randn(shape)).sum().backward()

    backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    search.truncate_gradients()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, torch.where(mask, gradient, gradient / 2))
        assert gradient.any()
    optimizer.step()
    ticket = search.draw()
    ticket.hold(model, optimizer)
    kept = [parameter[mask].clone() for parameter in model.parameters()]
    backward()
    optimizer.step()
    for parameter, before in zip(model.parameters(), kept, strict=True):
        assert (parameter[~mask] == 0).all() and (parameter[mask] != before).all()
    if shape is not None:
        for mode in (True, False):
            assert (model.train(mode)(torch.randn(shape))[:, ~mask] == 0).all()


class Both(nn.Module):
    """A query beside a BatchNorm, of 48 and 10 units."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(6, 8), nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(10)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_channels_and_weights_are_searched_together(scope: str) -> None:
    model = scatter(Both())
    model.norm.weight.data.mul_(0.1)
    before = copy.deepcopy(model.state_dict())
    search = TicketSearch(model, WormConfig(layers=["batchnorm", "query"], scope=scope))
    search.observe()
    ticket = search.draw()
    assert {name: tuple(mask.shape) for name, mask in ticket.masks.items()} == {
        "query.weight": (8, 6),
        "norm.weight": (10,),
    }
    scores = {name: before[name].abs().flatten() for name in ticket.masks}
    if scope == "layer":
        expected = {name: score > score.sort().values[len(score) // 2 - 1] for name, score in scores.items()}
    else:
        threshold = torch.cat(list(scores.values())).sort().values[58 // 2 - 1]
        expected = {name: score > threshold for name, score in scores.items()}
    for name, mask in ticket.masks.items():
        assert torch.equal(mask.flatten(), expected[name])
    pruned = {**{name: ~mask for name, mask in ticket.masks.items()}, "norm.bias": ~ticket.masks["norm.weight"]}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name].masked_fill(pruned.get(name, torch.tensor(False)), 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ticket.hold(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter != 0, ~pruned.get(name, torch.zeros_like(parameter, dtype=torch.bool)))
