"""Images in memory: what a batch holds, and what is refused."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState, TrainingArguments, default_data_collator

from hf_worm.commands.image.augmentation import PadCropFlip
from hf_worm.commands.image.dataset import EpochCallback, ImageDataset

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def make(count: int = 10, edge: int = 6, **options: Any) -> ImageDataset:
    images = torch.randint(0, 256, (count, 3, edge, edge), dtype=torch.uint8)
    return ImageDataset(images, torch.arange(count) % 4, MEAN, STD, **options)


def test_an_item_is_the_normalized_image_and_its_label() -> None:
    data = make()
    item = data[3]
    assert set(item) == {"pixel_values", "labels"} and len(data) == 10
    naive = (data.images[3].double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(item["pixel_values"].double(), naive.double(), atol=1e-5, rtol=1e-5)
    assert item["pixel_values"].dtype == torch.float32 and item["labels"].item() == 3


def test_a_batch_is_its_items() -> None:
    data = make(augmentation=PadCropFlip(10, 2, True))
    batch = default_data_collator(data.__getitems__([7, 2, 2]))
    assert batch["labels"].tolist() == [3, 2, 2]
    for row, place in enumerate([7, 2, 2]):
        assert torch.equal(batch["pixel_values"][row], data[place]["pixel_values"])


def test_a_loader_asks_for_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = ImageDataset.__getitems__
    monkeypatch.setattr(ImageDataset, "__getitems__", lambda self, places: asked.append(places) or real(self, places))
    shapes = [batch["pixel_values"].shape for batch in DataLoader(make(), batch_size=4)]
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and shapes[-1] == (2, 3, 6, 6)


def test_small_images_are_enlarged_in_the_batch() -> None:
    data = make(image_size=12)
    assert data[0]["pixel_values"].shape == (3, 12, 12) and data.images.shape[-1] == 6
    flat = ImageDataset(torch.full((1, 3, 6, 6), 51, dtype=torch.uint8), torch.zeros(1).long(), MEAN, STD, 12)
    expected = (0.2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(flat[0]["pixel_values"], expected.expand(3, 12, 12))


def test_the_epoch_reaches_the_augmentation() -> None:
    data = make(augmentation=PadCropFlip(10, 2, True))
    expected = []
    for epoch in range(3):
        data.set_epoch(epoch)
        expected.append(data[5]["pixel_values"])
    callback = EpochCallback(data)
    for reached, epoch in ((None, 0), (0.0, 0), (1.0, 1), (1.5, 1), (2 - 1e-12, 2), (2.75, 2)):
        state = TrainerState(epoch=reached)
        callback.on_epoch_begin(TrainingArguments("unused", use_cpu=True), state, TrainerControl())
        assert torch.equal(data[5]["pixel_values"], expected[epoch]), reached


PIXELS = torch.zeros(4, 3, 6, 6, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "mean", "std", "message"),
    [
        (PIXELS.float(), torch.arange(4), MEAN, STD, "must be `uint8` of shape"),
        (PIXELS[0], torch.arange(4), MEAN, STD, "must be `uint8` of shape"),
        (PIXELS, torch.arange(3), MEAN, STD, "4 images need as many labels"),
        (PIXELS, torch.arange(4), [0.5], STD, "Images of 3 channels need as many means"),
        (PIXELS, torch.arange(4), MEAN, [0.5], "Images of 3 channels need as many means"),
        (PIXELS, torch.arange(4), MEAN, [0.5, 0.0, 0.5], "`std` must be greater than 0"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    images: torch.Tensor, labels: torch.Tensor, mean: list[float], std: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImageDataset(images, labels, mean, std)
