"""Pad-crop and flip, on a batch of images at a time."""

import numpy as np
import torch
from torch import nn


class PadCropFlip:
    """Shifts each image by up to `padding` pixels and mirrors half of them, anew in every epoch.

    The augmentation of small images that He et al. (2015, arXiv:1512.03385, section 4.2) use on CIFAR-10: a random crop
    of the image with `padding` black pixels on each side, and a horizontal flip with probability ½. What happens to an
    image depends on the seed, the epoch and its place in the data set alone: not on the batch it is in, on the number
    of workers or processes, or on where a run was interrupted.

    Args:
        count (`int`): Images in the data set.
        padding (`int`): Pixels of the largest shift, at least 0.
        flip (`bool`): Whether to mirror.
        seed (`int`, *optional*, defaults to 0): Seed of it all.
    """

    def __init__(self, count: int, padding: int, flip: bool, seed: int = 0) -> None:
        if padding < 0:
            raise ValueError(f"`padding` must be at least 0, got {padding}.")
        self.padding = padding
        self.flip = flip
        self.seed = seed
        # Row and column of each crop's corner, and whether it is mirrored: shared with workers that live on from epoch
        # to epoch, whose copy of the data set nobody could tell of a new one.
        self._moves = torch.zeros(count, 3, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the crops and flips of an epoch, from 0."""
        random = np.random.default_rng([self.seed, epoch])
        self._moves[:, :2] = torch.from_numpy(random.integers(0, 2 * self.padding + 1, (len(self._moves), 2)))
        self._moves[:, 2] = torch.from_numpy(random.integers(0, 1 + self.flip, len(self._moves)))

    def __call__(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Augment images.

        Args:
            images (`torch.Tensor`): Of any dtype and shape `(batch, channels, height, width)`.
            indices (`torch.Tensor`): `int64` of shape `(batch,)`, their places in the data set.

        Returns:
            `torch.Tensor`: New images of the same dtype and shape.
        """
        height, width = images.shape[-2:]
        row, column, mirrored = self._moves[indices].unbind(1)
        padded = nn.functional.pad(images, (self.padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # every crop there is, as a view
        crops = windows[torch.arange(len(images)), :, row, column]
        return torch.where(mirrored.bool()[:, None, None, None], crops.flip(-1), crops)
