"""Whole CNNs of the zoo and of this project: searched, drawn and retrained, their pruned channels silent throughout."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    EfficientNetConfig,
    MobileNetV2Config,
    PreTrainedConfig,
    RegNetConfig,
    ResNetConfig,
)

from hf_worm import Ticket, TicketSearch, WormConfig
from hf_worm.models import CifarResNetConfig, VggBnConfig

CONFIGS = (
    ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="bottleneck"),
    RegNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], groups_width=4),
    MobileNetV2Config(depth_multiplier=0.05, depth_divisible_by=4, min_depth=4, image_size=32),
    EfficientNetConfig(width_coefficient=0.1, depth_coefficient=0.1, depth_divisor=4, image_size=32, hidden_dim=128),
    CifarResNetConfig(width=4),
    VggBnConfig(width=2, classifier_size=16),
)


@pytest.fixture(params=CONFIGS, ids=lambda config: config.model_type)
def network(request: pytest.FixtureRequest) -> nn.Module:
    config: PreTrainedConfig = request.param
    config.num_labels = 2
    return AutoModelForImageClassification.from_config(config)


def batch() -> dict[str, torch.Tensor]:
    labels = torch.arange(16) % 2
    return {"pixel_values": torch.randn(16, 3, 32, 32) + labels.view(-1, 1, 1, 1), "labels": labels}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, search: TicketSearch | None = None) -> None:
    model.train()
    for _ in range(3):
        model(**batch()).loss.backward()
        if search is not None:
            search.truncate_gradients()
        optimizer.step()
        optimizer.zero_grad()


@contextmanager
def outputs(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """A copy of what each BatchNorm gives, as an activation in place would change it."""
    given: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: given.update({name: output.clone()}))
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    yield given
    for hook in hooks:
        hook.remove()


def check_silence(model: nn.Module, ticket: Ticket) -> None:
    for training in (True, False):
        with outputs(model.train(training)) as given, torch.no_grad():
            model(**batch())
        assert {f"{name}.weight" for name in given} == set(ticket.masks)
        for name, output in given.items():
            kept = output.flatten(2).any(2).any(0)
            mask = ticket.masks[f"{name}.weight"]
            assert (output[:, ~mask] == 0).all(), name
            assert kept[mask].any() or not mask.any(), name


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def test_pruned_channels_are_silent_before_and_after_retraining(network: nn.Module) -> None:
    search = TicketSearch(network, WormConfig.cnn(window=2, stopping_point=1.0))
    optimizer = sgd(network)
    while not search.converged:
        train(network, optimizer, search)
        search.observe()
    assert search.history[-1].truncating and search.history[-1].max_distance is not None
    ticket = search.draw()
    assert 0.4 < ticket.sparsity < 0.6
    check_silence(network, ticket)
    ticket.hold(network, optimizer)  # with the momentum of the search still in it
    train(network, optimizer)
    check_silence(network, ticket)
