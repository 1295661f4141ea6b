"""Images in memory, one byte a value; a batch at a time is made ready for a model."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_worm.commands.image.augmentation import PadCropFlip

Item = dict[str, torch.Tensor]


class ImageDataset(Dataset[Item]):
    """A data set for `Trainer`, or any `DataLoader`, that works on batches and not on single images.

    PyTorch asks for the items of a batch together (`__getitems__`): cropped, flipped, enlarged and normalized as one
    tensor, they cost a few microseconds each.

    Args:
        images (`torch.Tensor`): `uint8` of shape `(count, channels, height, width)`.
        labels (`torch.Tensor`): Class ids, `int64` of shape `(count,)`.
        mean, std (`Sequence[float]`): Of each channel, of values in [0, 1]: what is subtracted, and divided by.
        image_size (`int`, *optional*): Edge in pixels to enlarge images to; by default they stay as they are.
        augmentation (`PadCropFlip`, *optional*): For training.

    Raises:
        ValueError: The tensors don't fit together.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | None = None,
        augmentation: PadCropFlip | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                "`images` must be `uint8` of shape (count, channels, height, width), "
                f"got {images.dtype} of shape {tuple(images.shape)}."
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images need as many labels, got labels of shape {tuple(labels.shape)}.")
        if not len(mean) == len(std) == images.shape[1]:
            raise ValueError(
                f"Images of {images.shape[1]} channels need as many means and deviations, got {mean} and {std}."
            )
        if min(std) <= 0:
            raise ValueError(f"`std` must be greater than 0, got {std}.")
        self.images = images
        self.labels = labels
        self.image_size = image_size
        self.augmentation = augmentation
        # (value / 255 - mean) / std in one multiplication and one addition
        shift, scale = (torch.tensor(list(values)).view(1, -1, 1, 1) for values in (mean, std))
        self._scale, self._shift = 1 / (255 * scale), -shift / scale

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Make items by place: `pixel_values`, `float32` of shape `(channels, size, size)`, and `labels`, an id."""
        places = torch.tensor(indices)
        batch = {"pixel_values": self._pixels(places), "labels": self.labels[places]}
        return [dict(zip(batch, item, strict=True)) for item in zip(*batch.values(), strict=True)]

    def set_epoch(self, epoch: int) -> None:
        """Augment as in that epoch, from 0, from here on."""
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)

    def _pixels(self, places: torch.Tensor) -> torch.Tensor:
        images = self.images[places]
        if self.augmentation is not None:
            images = self.augmentation(images, places)
        pixels = images.float()
        if self.image_size is not None and images.shape[-2:] != (self.image_size, self.image_size):
            pixels = nn.functional.interpolate(pixels, size=(self.image_size, self.image_size), mode="bilinear")
        return pixels.mul_(self._scale).add_(self._shift)


class EpochCallback(TrainerCallback):
    """Tells a training set the number of the epoch that begins, in each phase from 0."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        # In the middle of an epoch after resuming; a sum of fractions may lie a little below a whole number.
        self.dataset.set_epoch(int((state.epoch or 0.0) + 1e-6))
