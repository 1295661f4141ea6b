"""VGG-11: its size, names, shapes and computation, its initialisation, its errors."""

import math
import re

import pytest
import torch
from torch import nn

from hf_worm.models import VggBnConfig, VggBnForImageClassification
from hf_worm.units import representative_layers

# Where torchvision's vgg11_bn has its convolutions and its BatchNorms.
CONVOLUTIONS = (0, 4, 8, 11, 15, 18, 22, 25)
BATCHNORMS = (1, 5, 9, 12, 16, 19, 23, 26)
POOLED = (True, True, False, True, False, True, False, True)  # after which convolutions the map is halved


def small(**changes: object) -> VggBnForImageClassification:
    return VggBnForImageClassification(VggBnConfig(**{"width": 2, "classifier_size": 16, **changes})).eval()


def whole(**changes: object) -> VggBnForImageClassification:
    """VGG-11 in full, without memory for its weights."""
    with torch.device("meta"):
        return VggBnForImageClassification(VggBnConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 128_812_810),
        ({"num_labels": 1000}, 132_868_840),  # torchvision's vgg11_bn
        ({"classifier": "slim"}, 9_231_114),
    ],
)
def test_vgg11_has_the_parameters_of_the_literature(changes: dict[str, object], count: int) -> None:
    assert sum(parameter.numel() for parameter in whole(**changes).parameters()) == count


@pytest.mark.parametrize(
    ("classifier", "linear"),
    [("classic", ["classifier.0", "classifier.3", "classifier.6"]), ("slim", ["classifier"])],
)
def test_names_are_torchvisions(classifier: str, linear: list[str]) -> None:
    features = [f"features.{place}" for place in sorted(CONVOLUTIONS + BATCHNORMS)]
    names = [name for name, _ in small(classifier=classifier).named_parameters()]
    assert names == [f"{module}.{tensor}" for module in features + linear for tensor in ("weight", "bias")]


def test_shapes_are_torchvisions() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in whole(num_labels=1000).named_parameters()}
    channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    for place, before, after in zip(CONVOLUTIONS, channels[:-1], channels[1:], strict=True):
        assert shapes[f"features.{place}.weight"] == (after, before, 3, 3)
    assert [shapes[f"classifier.{place}.weight"] for place in (0, 3, 6)] == [(4096, 25088), (4096, 4096), (1000, 4096)]
    assert whole(classifier="slim").classifier.weight.shape == (10, 512)


def test_every_batchnorm_is_found() -> None:
    layers = representative_layers(whole(), ["batchnorm"])
    assert [layer.name for layer in layers] == [f"features.{place}.weight" for place in BATCHNORMS]
    assert [layer.shape[0] for layer in layers] == [64, 128, 256, 256, 512, 512, 512, 512]


def by_hand(model: VggBnForImageClassification, images: torch.Tensor) -> torch.Tensor:
    """The features in evaluation, from the weights by their names."""
    x, state = images, model.state_dict()
    for convolution, norm, pooled in zip(CONVOLUTIONS, BATCHNORMS, POOLED, strict=True):
        x = nn.functional.conv2d(
            x, state[f"features.{convolution}.weight"], state[f"features.{convolution}.bias"], padding=1
        )
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, gamma, beta = (state[f"features.{norm}.{name}"][:, None, None] for name in names)
        x = torch.relu((x - mean) / torch.sqrt(var + 1e-5) * gamma + beta)
        if pooled:
            height, width = x.shape[2] // 2, x.shape[3] // 2
            quarters = [x[:, :, i::2, j::2][:, :, :height, :width] for i in (0, 1) for j in (0, 1)]
            x = torch.stack(quarters).amax(0)
    return x


def stirred(model: VggBnForImageClassification) -> VggBnForImageClassification:
    """With BatchNorms and biases that do something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


@pytest.mark.parametrize(("height", "width", "left"), [(32, 32, (1, 1)), (64, 97, (2, 3))])
def test_slim_averages_the_features(height: int, width: int, left: tuple[int, int]) -> None:
    model = stirred(small(classifier="slim", num_labels=5, num_channels=1))
    images = torch.randn(3, 1, height, width)
    features = by_hand(model, images)
    assert features.shape == (3, 16, *left)
    logits = features.mean(dim=(2, 3)) @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(images).logits, logits)


def test_classic_takes_the_one_pixel_of_a_cifar_image_49_times() -> None:
    model = stirred(small(num_labels=5))
    images = torch.randn(3, 3, 32, 32)
    hidden = by_hand(model, images).expand(-1, -1, 7, 7).flatten(1)
    for place in (0, 3, 6):
        layer = model.classifier[place]
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = torch.relu(hidden) if place < 6 else hidden
    torch.testing.assert_close(model(images).logits, hidden)


def test_dropout_is_the_configured_share_and_off_in_evaluation() -> None:
    model = small(dropout=0.25)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.25, 0.25]
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images).logits, model(images).logits)
    for module in model.modules():
        module.train(isinstance(module, nn.Dropout))
    assert not torch.equal(model(images).logits, model(images).logits)


@torch.no_grad()
def test_initialisation() -> None:
    model = small(width=8, classifier_size=64)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            std = 0.01 if isinstance(module, nn.Linear) else math.sqrt(2 / (module.out_channels * 9))
            assert abs(float(module.weight.mean())) < 5 * std / math.sqrt(module.weight.numel()), name
            assert float(module.weight.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * module.weight.numel())), name
            assert (module.bias == 0).all(), name
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
            assert (module.running_mean == 0).all() and (module.running_var == 1).all(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": "64"}, "`width` must be a whole number of at least 1, got '64'."),
        ({"num_channels": 0}, "`num_channels` must be a whole number of at least 1, got 0."),
        ({"image_size": 28}, "`image_size` must be a whole number of at least 32, got 28."),
        ({"classifier_size": False}, "`classifier_size` must be a whole number of at least 1, got False."),
        ({"num_labels": 0}, "`num_labels` must be a whole number of at least 1, got 0."),
        ({"classifier": "fat"}, "`classifier` must be one of ('classic', 'slim'), got 'fat'."),
        ({"dropout": 1}, "`dropout` must be a number in [0, 1), got 1."),
        ({"dropout": float("nan")}, "`dropout` must be a number in [0, 1), got nan."),
        ({"dropout": None}, "`dropout` must be a number in [0, 1), got None."),
    ],
)
def test_a_wrong_setting_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        VggBnConfig(**changes)


def test_a_setting_made_wrong_after_creation_is_refused() -> None:
    config = VggBnConfig()
    config.classifier = "fat"
    with pytest.raises(ValueError, match="`classifier` must be"):
        VggBnForImageClassification(config)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 32, 32, 3), (3, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = (
        f"`pixel_values` must have shape (batch, 3, height, width), got {shape}. Put the channels first and convert "
        "the images to 3 of them, or make the model with `VggBnConfig(num_channels=...)`."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        small()(torch.zeros(shape))


@pytest.mark.parametrize(("height", "width"), [(31, 32), (32, 31), (0, 0)])
def test_images_too_small_are_refused(height: int, width: int) -> None:
    message = (
        f"`pixel_values` must be images of at least 32×32, got {height}×{width}: the five max pools leave nothing of a "
        "smaller one. Resize or pad the images."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        small()(torch.zeros(2, 3, height, width))
