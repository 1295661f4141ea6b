"""ResNet-18 and VGG-11 without the channels that a ticket prunes compute what they did with them silent."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import checkpoints, report, same_weights, weights, worm_trainer

from hf_worm import Ticket, TicketSearch, WormConfig, load_compact
from hf_worm.models import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    VggBnConfig,
    VggBnForImageClassification,
)


def resnet() -> nn.Module:
    return CifarResNetForImageClassification(CifarResNetConfig(width=8, depths=(2, 1, 2), num_labels=4))


def vgg(classifier: str = "slim") -> nn.Module:
    config = VggBnConfig(width=4, classifier=classifier, classifier_size=16, num_labels=4, dropout=0.0)
    return VggBnForImageClassification(config)


MODELS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "slim vgg": vgg, "classic vgg": lambda: vgg("classic")}


def trained(name: str) -> nn.Module:
    """With scales, shifts and running statistics as if it had been trained."""
    model = MODELS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def drawn(model: nn.Module, **settings: Any) -> tuple[Ticket, nn.Module]:
    zeroed = copy.deepcopy(model)
    search = TicketSearch(zeroed, WormConfig.cnn(**settings))
    search.observe()
    return search.draw(), zeroed


def logits(model: nn.Module, training: bool = False) -> torch.Tensor:
    torch.manual_seed(1)
    return model.train(training)(torch.randn(3, 3, 32, 32)).logits.detach()


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", MODELS)
def test_compact_equals_drawn_and_comes_back(name: str, ratio: float, scope: str, tmp_path: Path) -> None:
    model = trained(name)
    ticket, zeroed = drawn(model, prune_ratio=ratio, scope=scope)
    compact = ticket.compact(model)
    for training in (False, True):
        torch.testing.assert_close(logits(compact, training), logits(zeroed, training), rtol=1e-4, atol=1e-5)
    compact.save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(plain), logits(compact)), "its configuration says the widths"
    assert torch.equal(logits(load_compact(tmp_path)), logits(compact))
    size, dense = (sum(p.numel() for p in one.parameters()) for one in (compact, model))
    assert size < (1 - 0.8 * ratio) * dense


@pytest.mark.parametrize("name", MODELS)
def test_a_batchnorm_that_lost_all_channels_keeps_a_silent_one(name: str) -> None:
    model = trained(name)
    with torch.no_grad():
        norm = next(m for path, m in model.named_modules() if path in ("layer2.0.bn1", "features.9"))
        norm.weight.mul_(1e-3)
    ticket, zeroed = drawn(model, prune_ratio=0.3, scope="global")
    assert any(not mask.any() for mask in ticket.masks.values())
    compact = ticket.compact(model)
    torch.testing.assert_close(logits(compact), logits(zeroed), rtol=1e-4, atol=1e-5)
    rest = ticket.rest(compact)
    assert sum(mask.tolist() == [False] for mask in rest.masks.values()) == 1
    before = logits(compact)
    rest.apply_(compact)
    assert torch.equal(logits(compact), before), "what is left of the ticket is 0 already"


def test_the_stem_keeps_its_silent_channels() -> None:
    model = trained("resnet")
    ticket, _ = drawn(model)
    rest = ticket.rest(ticket.compact(model))
    assert torch.equal(rest.masks["bn1.weight"], ticket.masks["bn1.weight"])
    assert all(mask.all() for name, mask in rest.masks.items() if name != "bn1.weight")


def rows(count: int = 32) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": place % 4} for place in range(count)
    ]


@pytest.mark.parametrize("name", ["resnet", "slim vgg"])
def test_a_compact_run_trains_resumes_and_loads(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    config = WormConfig.cnn(stopping_point=1.0, window=2, compact=True, retrain_epochs=2.0)
    settings = {"train_dataset": rows(), "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    whole = worm_trainer(copy.deepcopy(model), tmp_path / "whole", config, **settings)
    whole.train()
    whole.save_model()
    for checkpoint in checkpoints(tmp_path / "whole"):
        resumed = worm_trainer(copy.deepcopy(model), tmp_path / "resumed", config, **settings)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(resumed.model), weights(whole.model)), checkpoint.name
    if name == "resnet":
        silent = ~whole.ticket.masks["bn1.weight"]
        assert silent.any()
        assert (whole.model.bn1.weight[silent] == 0).all() and (whole.model.bn1.bias[silent] == 0).all(), "held"
    loaded = type(model).from_pretrained(tmp_path / "whole")
    assert torch.equal(logits(loaded), logits(whole.model))
    account = report(tmp_path / "whole")["account"]
    assert account["compact_weights"] < 0.7 * account["model_weights"]


def test_channels_of_another_model_are_refused(cnn: nn.Module, tmp_path: Path) -> None:
    ticket, _ = drawn(cnn)
    message = "`SmallCNN` does not say where its channels come from and go to: .* `VggBnForImageClassification`"
    with pytest.raises(ValueError, match=message):
        ticket.compact(cnn)
    with pytest.raises(ValueError, match=message):
        worm_trainer(cnn, tmp_path, WormConfig.cnn(compact=True), train_dataset=rows())


@pytest.mark.parametrize(
    ("config", "channels"),
    [
        (VggBnConfig, [4] * 7),
        (VggBnConfig, [4] * 7 + [0]),
        (VggBnConfig, "8"),
        (CifarResNetConfig, [[8, 8, 0]]),
        (CifarResNetConfig, [[8, 8, -1]] * 8),
        (CifarResNetConfig, [[8, 8]] * 8),
    ],
)
def test_wrong_channels_are_refused(config: Any, channels: Any) -> None:
    with pytest.raises(ValueError, match="`channels` must be a list of 8 "):
        config(channels=channels)
