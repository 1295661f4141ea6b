"""Which model a run gets, and what it takes its images to be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as Pillow
from transformers import AutoImageProcessor, PreTrainedConfig, ResNetConfig, ResNetForImageClassification, ViTConfig

from hf_worm.commands.image.arguments import ModelArguments
from hf_worm.commands.image.data import decode
from hf_worm.commands.image.dataset import ImageDataset
from hf_worm.commands.image.model import (
    load_config,
    load_model,
    load_processor,
    new_processor,
    normalization,
    size_of_images,
)
from hf_worm.models import CifarResNetConfig, CifarResNetForImageClassification, VggBnForImageClassification

TINY = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=2)


def size(own: int | None, config: PreTrainedConfig | None = None, **arguments: Any) -> int:
    chosen = ModelArguments(**arguments)
    return size_of_images(chosen, config if config is not None else load_config(chosen), None, own)


def test_the_two_models_of_the_paper() -> None:
    resnet = ModelArguments(config_overrides="width=4")
    vgg = ModelArguments(model="vgg11_bn", config_overrides="width=4,classifier=slim,dropout=0.25")
    assert isinstance(load_model(resnet, load_config(resnet)), CifarResNetForImageClassification)
    small = load_model(vgg, load_config(vgg))
    assert isinstance(small, VggBnForImageClassification)
    assert (small.config.width, small.config.classifier, small.config.dropout) == (4, "slim", 0.25)
    assert load_config(ModelArguments()) == CifarResNetConfig()


@pytest.mark.parametrize("overrides", ["widht=4", "width", "width=x", "depths=1", "width=0"])
def test_settings_that_the_model_lacks_are_refused(overrides: str) -> None:
    arguments = ModelArguments(config_overrides=overrides)
    with pytest.raises(ValueError, match=f"width|`config_overrides` '{overrides}' won't do"):
        load_model(arguments, load_config(arguments))


def test_a_pretrained_models_configuration_may_come_with_new_weights(tmp_path: Path) -> None:
    pretrained = ResNetForImageClassification(TINY)
    pretrained.save_pretrained(tmp_path)
    arguments = ModelArguments(model=str(tmp_path))
    assert_same(load_model(arguments, load_config(arguments)), pretrained, same=True)
    fresh = ModelArguments(model=str(tmp_path), from_scratch=True)
    assert_same(load_model(fresh, load_config(fresh)), pretrained, same=False)


def assert_same(one: torch.nn.Module, other: torch.nn.Module, same: bool) -> None:
    name = "resnet.embedder.embedder.convolution.weight"
    assert torch.equal(one.get_parameter(name), other.get_parameter(name)) == same


def test_images_keep_their_size_where_the_model_can_take_it() -> None:
    assert size(8) == 8 and size(32) == 32 and size(40) == 40
    assert size(8, model="vgg11_bn") == 32 and size(48, model="vgg11_bn") == 48
    assert size(8, image_size=16) == 16 and size(None, image_size=16) == 16
    with pytest.raises(ValueError, match="not squares of one size: pass `--image_size`"):
        size(None)


def test_other_new_models_get_the_size_that_they_are_meant_for() -> None:
    assert size(32, ViTConfig(image_size=48), model="a/vit", from_scratch=True) == 48
    assert size(40, ResNetConfig(), model="a/resnet", from_scratch=True) == 40


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}}, 24),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}, 384),
        (
            {
                "image_processor_type": "BitImageProcessor",
                "size": {"shortest_edge": 32},
                "crop_size": {"height": 28, "width": 28},
            },
            28,
        ),
    ],
)
def test_pretrained_models_get_what_their_processor_makes(tmp_path: Path, settings: Any, expected: int) -> None:
    import json

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    arguments = ModelArguments(model=str(tmp_path))
    assert size_of_images(arguments, TINY, load_processor(arguments), 8) == expected


def test_a_pretrained_model_without_a_processor_is_refused(tmp_path: Path) -> None:
    ResNetForImageClassification(TINY).save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"image processor|preprocessor_config"):
        load_processor(ModelArguments(model=str(tmp_path)))
    assert load_processor(ModelArguments(model=str(tmp_path), from_scratch=True)) is None


def test_a_saved_processor_prepares_an_image_as_training_did(tmp_path: Path) -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    new_processor(6, mean, std).save_pretrained(tmp_path)
    pixels = torch.randint(0, 256, (1, 3, 6, 6), dtype=torch.uint8)
    trained_on = ImageDataset(pixels, torch.zeros(1).long(), mean, std)[0]["pixel_values"]
    image = Pillow.fromarray(pixels[0].permute(1, 2, 0).numpy())
    prepared = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(prepared, trained_on, atol=1e-5, rtol=1e-5)


def test_a_saved_processor_takes_the_middle_as_training_did(tmp_path: Path) -> None:
    mean, std = [0.5] * 3, [0.25] * 3
    new_processor(8, mean, std).save_pretrained(tmp_path)
    smooth = np.add.outer(np.arange(8), 5 * np.arange(32))[..., None] * np.array([1, 0.5, 0.8])
    smooth[:, :8], smooth[:, -8:] = 255, 0  # beside the middle
    image = Pillow.fromarray(smooth.astype(np.uint8)).resize((64, 16), Pillow.Resampling.BILINEAR)
    rows = Dataset.from_dict({"image": [image]}, Features({"image": Image()}))
    trained_on = ImageDataset(decode(rows, "train", 3, 8), torch.zeros(1).long(), mean, std)[0]["pixel_values"]
    prepared = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(prepared, trained_on, atol=0.05, rtol=0)


def test_values_are_scaled_as_the_processor_scales_them(tmp_path: Path) -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    pixels = torch.randint(0, 256, (1, 3, 6, 6), dtype=torch.uint8)
    image = Pillow.fromarray(pixels[0].permute(1, 2, 0).numpy())
    for changes in ({"do_rescale": False}, {"rescale_factor": 1 / 127.5}):
        processor = new_processor(6, mean, std)
        for name, value in changes.items():
            setattr(processor, name, value)
        trained_on = ImageDataset(pixels, torch.zeros(1).long(), *normalization(processor, 3))[0]["pixel_values"]
        prepared = processor(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(trained_on, prepared, atol=1e-3, rtol=1e-4)


def test_normalization_is_the_processors() -> None:
    processor = new_processor(6, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    assert normalization(processor, 3) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    processor.do_normalize = False
    assert normalization(processor, 3) == ([0.0] * 3, [1.0] * 3)
    processor.do_flip_channel_order = True
    with pytest.raises(ValueError, match="`do_flip_channel_order` on"):
        normalization(processor, 3)
