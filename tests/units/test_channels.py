"""BatchNorm scales of the model zoo and of plain networks."""

import pytest
from torch import nn
from transformers import AutoModel, EfficientNetConfig, MobileNetV2Config, RegNetConfig, ResNetConfig

from hf_worm.scores import Magnitude
from hf_worm.units import representative_layers

# Basic block: two convolutions each, with a BatchNorm after each; the second stage's first block has a shortcut.
RESNET = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
REGNET = RegNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], groups_width=4)
MOBILENET = MobileNetV2Config(depth_multiplier=0.05, depth_divisible_by=4, min_depth=4)
EFFICIENTNET = EfficientNetConfig(
    width_coefficient=0.1, depth_coefficient=0.1, depth_divisor=4, image_size=32, hidden_dim=16
)


@pytest.mark.parametrize("config", [RESNET, REGNET, MOBILENET, EFFICIENTNET], ids=lambda config: config.model_type)
def test_every_batchnorm_of_the_zoo(config: ResNetConfig) -> None:
    model = AutoModel.from_config(config)
    # By another way: a running mean is what only a BatchNorm has.
    names = [name.removesuffix(".running_mean") for name, _ in model.named_buffers() if name.endswith(".running_mean")]
    layers = representative_layers(model, ["batchnorm"])
    assert [layer.name for layer in layers] == [f"{name}.weight" for name in names]
    for name, layer in zip(names, layers, strict=True):
        module = model.get_submodule(name)
        gamma, beta = layer.views
        assert gamma.parameter is module.weight and beta.parameter is module.bias
        assert layer.shape == (module.num_features,)


def test_resnet_has_as_many_as_convolutions() -> None:
    layers = representative_layers(AutoModel.from_config(RESNET), ["batchnorm"])
    assert [tuple(layer.shape) for layer in layers] == [(4,), (4,), (4,), (8,), (8,), (8,)]


@pytest.fixture
def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.BatchNorm1d(6),
        nn.SyncBatchNorm(6),
        nn.LayerNorm(6),
        nn.Sequential(nn.BatchNorm3d(2), nn.InstanceNorm2d(2, affine=True), nn.GroupNorm(1, 2)),
    )


def test_a_plain_cnn(cnn: nn.Sequential) -> None:
    layers = representative_layers(cnn, ["batchnorm"])
    assert [layer.name for layer in layers] == ["1.weight", "5.weight", "6.weight", "8.0.weight"]


def test_views_are_gamma_then_beta_and_alias_them(cnn: nn.Sequential) -> None:
    gamma, beta = representative_layers(cnn, ["batchnorm"])[0].views
    gamma.weight[2] = -5.0
    beta.weight[1] = 3.0
    assert cnn[1].weight.tolist() == [1.0, 1.0, -5.0, 1.0]
    assert cnn[1].bias.tolist() == [0.0, 3.0, 0.0, 0.0]
    layer = representative_layers(cnn, ["batchnorm"])[0]
    assert layer.weight.tolist() == [1.0, 1.0, -5.0, 1.0]
    assert Magnitude().of(layer).tolist() == [1.0, 1.0, 5.0, 1.0]


def test_a_batchnorm_in_two_places_counts_once() -> None:
    norm = nn.BatchNorm1d(4)
    layers = representative_layers(nn.Sequential(norm, nn.Linear(4, 4), norm), ["batchnorm"])
    assert [layer.name for layer in layers] == ["0.weight"]


def test_a_beta_that_goes_with_its_gamma_is_no_layer_of_its_own(cnn: nn.Sequential) -> None:
    for entries in (["batchnorm", "1.*"], ["1.*", "batchnorm"]):
        assert representative_layers(cnn, entries) == representative_layers(cnn, ["batchnorm"])
    assert [(layer.name, len(layer.views)) for layer in representative_layers(cnn, ["1.*"])] == [
        ("1.weight", 1),
        ("1.bias", 1),
    ]


def test_a_batchnorm_without_beta_has_gamma_alone() -> None:
    norm = nn.BatchNorm1d(4)
    norm.register_parameter("bias", None)
    assert [len(layer.views) for layer in representative_layers(norm, ["batchnorm"])] == [1]
