"""ResNet: its size, names, shapes and computation, its initialisation, its errors."""

import math
import re

import pytest
import torch
from torch import nn
from transformers import ResNetConfig
from transformers.models.resnet.modeling_resnet import ResNetEncoder

from hf_worm.models import CifarResNetConfig, CifarResNetForImageClassification
from hf_worm.units import representative_layers


def small(**changes: object) -> CifarResNetForImageClassification:
    return CifarResNetForImageClassification(CifarResNetConfig(**{"width": 4, "depths": (1, 1), **changes})).eval()


@pytest.fixture(scope="module")
def resnet18() -> CifarResNetForImageClassification:
    """The whole ResNet-18, without memory for its weights."""
    with torch.device("meta"):
        return CifarResNetForImageClassification(CifarResNetConfig())


def stirred(model: CifarResNetForImageClassification) -> CifarResNetForImageClassification:
    """With BatchNorms that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def test_resnet18_has_the_parameters_of_the_literature(resnet18: CifarResNetForImageClassification) -> None:
    assert sum(parameter.numel() for parameter in resnet18.parameters()) == 11_173_962


def test_a_hundred_classes_add_ninety_rows_and_biases() -> None:
    with torch.device("meta"):
        model = CifarResNetForImageClassification(CifarResNetConfig(num_labels=100))
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962 + 90 * (512 + 1)


def test_names_are_torchvisions() -> None:
    block = ["conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias"]
    shortcut = ["downsample.0.weight", "downsample.1.weight", "downsample.1.bias"]
    assert [name for name, _ in small(depths=[2, 1]).named_parameters()] == [
        *["conv1.weight", "bn1.weight", "bn1.bias"],
        *[f"layer1.0.{name}" for name in block],
        *[f"layer1.1.{name}" for name in block],
        *[f"layer2.0.{name}" for name in [*block, *shortcut]],
        *["fc.weight", "fc.bias"],
    ]


def test_shapes_of_resnet18_are_torchvisions_but_for_the_stem(resnet18: CifarResNetForImageClassification) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in resnet18.named_parameters()}
    assert len(shapes) == 62
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert shapes["layer1.1.conv2.weight"] == (64, 64, 3, 3)
    assert shapes["layer2.0.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["layer3.0.downsample.0.weight"] == (256, 128, 1, 1)
    assert shapes["layer4.1.bn2.bias"] == (512,)
    assert shapes["fc.weight"] == (10, 512)


def test_every_batchnorm_is_found(resnet18: CifarResNetForImageClassification) -> None:
    layers = representative_layers(resnet18, ["batchnorm"])
    # The stem and four; then four and one in the shortcut, thrice.
    assert [layer.shape[0] for layer in layers] == [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5
    assert layers[0].name == "bn1.weight" and layers[7].name == "layer2.0.downsample.1.weight"


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (32, 32, [(32, 32), (32, 32), (16, 16), (8, 8), (4, 4)]),
        (7, 20, [(7, 20), (7, 20), (4, 10), (2, 5), (1, 3)]),
        (1, 1, [(1, 1)] * 5),
    ],
)
def test_stages_after_the_first_halve_the_map(height: int, width: int, expected: list[tuple[int, int]]) -> None:
    model = small(depths=(1, 1, 1, 1), num_labels=5, num_channels=2)
    sizes = []
    for name in ("bn1", "layer1", "layer2", "layer3", "layer4"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape[1:])))
    assert model(torch.randn(3, 2, height, width)).logits.shape == (3, 5)
    assert [size[1:] for size in sizes] == expected
    assert [size[0] for size in sizes] == [4, 4, 8, 16, 32]


def test_the_stages_compute_what_transformers_resnet_does() -> None:
    model = stirred(small(depths=[2, 2]))
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[2, 2], layer_type="basic")
    encoder = ResNetEncoder(config).eval()
    names = {
        "shortcut.convolution": "downsample.0",
        "shortcut.normalization": "downsample.1",
        "layer.0.convolution": "conv1",
        "layer.0.normalization": "bn1",
        "layer.1.convolution": "conv2",
        "layer.1.normalization": "bn2",
    }

    def ours(name: str) -> str:
        _, stage, _, block, rest = name.split(".", 4)
        module, _, tensor = rest.rpartition(".")
        return f"layer{int(stage) + 1}.{block}.{names[module]}.{tensor}"

    state = model.state_dict()
    encoder.load_state_dict({name: state[ours(name)] for name in encoder.state_dict()})
    images = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        stem = torch.relu(model.bn1(nn.functional.conv2d(images, model.conv1.weight, padding=1)))
        features = encoder(stem).last_hidden_state.mean(dim=(2, 3))
        torch.testing.assert_close(model(images).logits, features @ model.fc.weight.T + model.fc.bias)


@torch.no_grad()
def test_initialisation() -> None:
    model = small(width=16, depths=(2, 2, 1), num_labels=50)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert abs(float(module.weight.mean())) < 5 * std / math.sqrt(module.weight.numel()), name
            assert float(module.weight.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * module.weight.numel())), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
            assert (module.running_mean == 0).all() and (module.running_var == 1).all(), name
    bound = 1 / math.sqrt(64)  # a linear layer's own, for weights and biases
    assert 0.95 * bound < float(model.fc.weight.abs().max()) <= bound
    assert 0.8 * bound < float(model.fc.bias.abs().max()) <= bound
    assert float(model.fc.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "`width` must be a whole number of at least 1, got 0."),
        ({"num_channels": 1.5}, "`num_channels` must be a whole number of at least 1, got 1.5."),
        ({"image_size": True}, "`image_size` must be a whole number of at least 1, got True."),
        ({"num_labels": 0}, "`num_labels` must be a whole number of at least 1, got 0."),
        ({"depths": ()}, "`depths` must be a list of whole numbers of at least 1"),
        ({"depths": [2, 0]}, "such as [2, 2, 2, 2] for ResNet-18, got [2, 0]."),
        ({"depths": 18}, "got 18."),
    ],
)
def test_a_wrong_setting_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CifarResNetConfig(**changes)


def test_a_setting_made_wrong_after_creation_is_refused() -> None:
    config = CifarResNetConfig()
    config.width = -1
    with pytest.raises(ValueError, match="`width` must be"):
        CifarResNetForImageClassification(config)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 8, 8, 3), (3, 8, 8), (2, 3, 0, 8)])
def test_wrong_images_are_refused(shape: tuple[int, ...]) -> None:
    message = (
        f"`pixel_values` must have shape (batch, 3, height, width), height and width at least 1, got {shape}. Put the "
        "channels first and convert the images to 3 of them, or make the model with "
        "`CifarResNetConfig(num_channels=...)`."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        small()(torch.zeros(shape))
