"""Crops and flips: what they do to an image, and what they depend on."""

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from hf_worm.commands.image.augmentation import PadCropFlip
from hf_worm.commands.image.dataset import ImageDataset


def numbered(count: int, edge: int = 8) -> torch.Tensor:
    """Images in which no two pixels of a row or column are alike, and none is 0."""
    return torch.arange(1, edge * edge + 1, dtype=torch.uint8).view(1, 1, edge, edge).repeat(count, 2, 1, 1)


def naive(image: torch.Tensor, down: int, right: int, mirrored: bool) -> torch.Tensor:
    """The image with its content shifted, pixel by pixel, and then mirrored."""
    shifted = torch.zeros_like(image)
    height, width = image.shape[-2:]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                shifted[:, row, column] = image[:, row - down, column - right]
    return shifted.flip(-1) if mirrored else shifted


def move_of(image: torch.Tensor, augmented: torch.Tensor, padding: int) -> tuple[int, int, bool]:
    shifts = range(-padding, padding + 1)
    found = [
        (down, right, mirrored)
        for down in shifts
        for right in shifts
        for mirrored in (False, True)
        if torch.equal(naive(image, down, right, mirrored), augmented)
    ]
    assert len(found) == 1, "each image is one shift of the original, perhaps mirrored"
    return found[0]


def test_every_image_is_a_shift_and_all_shifts_and_flips_come() -> None:
    images = numbered(400, edge=3)
    augmented = PadCropFlip(400, padding=1, flip=True)(images, torch.arange(400))
    assert augmented.dtype == torch.uint8 and augmented.shape == images.shape
    moves = Counter(move_of(before, after, 1) for before, after in zip(images, augmented, strict=True))
    assert len(moves) == 3 * 3 * 2
    assert min(moves.values()) > 400 / 18 / 3, "about as often each"


def test_without_padding_and_flip_nothing_changes() -> None:
    images = numbered(50)
    assert torch.equal(PadCropFlip(50, padding=0, flip=False)(images, torch.arange(50)), images)
    only_flipped = PadCropFlip(50, padding=0, flip=True)(images, torch.arange(50))
    flipped = [torch.equal(after, before.flip(-1)) for before, after in zip(images, only_flipped, strict=True)]
    assert 10 < sum(flipped) < 40


def test_the_originals_stay_as_they_are() -> None:
    images = numbered(10)
    PadCropFlip(10, padding=2, flip=True)(images, torch.arange(10))
    assert torch.equal(images, numbered(10))


def test_what_happens_to_an_image_depends_on_seed_epoch_and_place_alone() -> None:
    images, places = numbered(60), torch.arange(60)
    augmentation = PadCropFlip(60, padding=3, flip=True, seed=7)
    whole = augmentation(images, places)
    parts = torch.cat([augmentation(images[chosen], chosen) for chosen in places.flip(0).split(7)]).flip(0)
    assert torch.equal(parts, whole)
    augmentation.set_epoch(1)
    assert not torch.equal(augmentation(images, places), whole)
    augmentation.set_epoch(0)
    assert torch.equal(augmentation(images, places), whole)
    assert torch.equal(PadCropFlip(60, 3, True, seed=7)(images, places), whole)
    assert not torch.equal(PadCropFlip(60, 3, True, seed=8)(images, places), whole)


def test_one_seed_in_the_next_epoch_is_not_the_next_seed() -> None:
    images, places = numbered(60), torch.arange(60)
    first, second = PadCropFlip(60, 3, True, seed=0), PadCropFlip(60, 3, True, seed=1)
    first.set_epoch(1)
    assert not torch.equal(first(images, places), second(images, places))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_that_live_on_hear_of_a_new_epoch(workers: int) -> None:
    images = numbered(16)
    data = ImageDataset(
        images, torch.zeros(16, dtype=torch.int64), [0.0] * 2, [1.0] * 2, augmentation=PadCropFlip(16, 2, True)
    )
    loader = DataLoader(data, batch_size=4, num_workers=workers, persistent_workers=workers > 0)
    epochs = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        epochs.append(torch.cat([batch["pixel_values"] for batch in loader]))
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


def test_a_negative_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="`padding` must be at least 0, got -1"):
        PadCropFlip(4, padding=-1, flip=False)
