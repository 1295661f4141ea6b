"""Makes tensors of a data set: its columns, its rows, its pixels, and their mean and deviation."""

import logging
from io import BytesIO
from typing import Any

import numpy as np
import psutil
import torch
from datasets import ClassLabel, Dataset, Image
from PIL import Image as Pillow
from PIL import ImageOps

from hf_worm.commands.image.arguments import DataArguments
from hf_worm.commands.image.digits import NAME as DIGITS
from hf_worm.commands.image.digits import digits
from hf_worm.commands.job.labels import LABEL
from hf_worm.commands.job.loading import TRAIN, check_columns, listed, load_folder_or_hub, train_split

logger = logging.getLogger(__name__)

IMAGE = "image"
VALIDATION = "validation"
MODES = {1: "L", 3: "RGB"}
# What Pillow raises at damaged images, and at some made to fill the memory.
UNREADABLE = (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError)


def load_images(
    data: DataArguments, evaluate: bool, cache_dir: str | None = None, token: str | None = None
) -> dict[str, Dataset]:
    """Load the splits `train` and, to evaluate, `validation`, with the columns `image` and `label` alone.

    Args:
        data (`DataArguments`): Names the data, its columns and splits, and how many rows to take.
        evaluate (`bool`): Whether there has to be a split to evaluate on.
        cache_dir, token (`str`, *optional*): Passed on to `load_dataset`.

    Raises:
        ValueError: There is no such split or column, or more than one that it could be.
        OSError: The data isn't there.
    """
    if data.dataset_name == DIGITS:
        splits = digits()
    else:
        splits = load_folder_or_hub(data.dataset_name, data.dataset_config_name, cache_dir, token)
    chosen = {TRAIN: train_split(splits)}
    if evaluate:
        chosen[VALIDATION] = splits[_validation_split(splits, data.validation_split_name)]
    limits = {TRAIN: data.max_train_samples, VALIDATION: data.max_eval_samples}
    return {name: _rows(_columns(split, name, data), limits[name]) for name, split in chosen.items()}


def own_size(images: Dataset, split: str) -> int | None:
    """Measure the edge in pixels of images that are all squares of one size, else `None`.

    Reads no more than the beginning of each image.

    Raises:
        ValueError: A row holds no image, or a damaged one.
    """
    sizes = set()
    for row, stored in enumerate(images.cast_column(IMAGE, Image(decode=False))[IMAGE], start=1):
        if stored is None:
            raise ValueError(f"Row {row} of the {split} split has no image.")
        source = stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"])
        try:
            with Pillow.open(source) as image:
                sizes.add(image.size)
        except UNREADABLE as error:
            raise ValueError(f"The image of row {row} of the {split} split can't be read: {error}") from error
    width, height = sizes.pop()
    return width if not sizes and width == height else None


def decode(images: Dataset, split: str, channels: int, size: int) -> torch.Tensor:
    """Decode all images of a split to bytes; crop others than squares of that size to their middle, and resize them.

    Args:
        images (`Dataset`): With a column `image`.
        split (`str`): Its name, for messages.
        channels (`int`): 3 for colours, 1 for grey.
        size (`int`): Edge in pixels.

    Returns:
        `torch.Tensor`: `uint8` of shape `(rows, channels, size, size)`.

    Raises:
        ValueError: An image is damaged, or all of them together don't fit into memory.
    """
    if channels not in MODES:
        raise ValueError(f"The model takes images of {channels} channels: 1 (grey) or 3 (colours) can be given.")
    refuse_size(f"The {split} split", len(images) * channels * size**2, size)
    pixels = torch.empty(len(images), size, size, channels, dtype=torch.uint8)
    for row in range(len(images)):
        try:
            image = images[row][IMAGE]
            image.load()
        except UNREADABLE as error:
            raise ValueError(f"The image of row {row + 1} of the {split} split is damaged: {error}") from error
        try:
            image = eight_bit(image).convert(MODES[channels])
        except ValueError as error:
            raise ValueError(f"The image of row {row + 1} of the {split} split won't do: {error}") from error
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Pillow.Resampling.BILINEAR)
        pixels[row] = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, channels)
    return pixels.permute(0, 3, 1, 2).contiguous()


def eight_bit(image: Pillow.Image) -> Pillow.Image:
    """Bring values up to 65,535, which Pillow would cut off at 255, down to values up to 255.

    Raises:
        ValueError: It has values of which nobody knows the largest: fractions, or integers of 32 bits.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise ValueError(f"its pixels are of mode {image.mode}, of unknown range: save it with 8 or 16 bits.")
    return Pillow.fromarray((values // 257).astype(np.uint8))


def refuse_size(what: str, needed: int, size: int) -> None:
    """Refuse images that don't fit into memory.

    Args:
        what (`str`): Which ones, for the message.
        needed (`int`): The bytes that they take.
        size (`int`): Their edge in pixels.

    Raises:
        ValueError: They don't fit.
    """
    free = psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"{what} takes {needed / 2**30:.1f} GiB at {size} × {size} pixels, more than the "
            f"{free / 2**30:.1f} GiB of memory that are free. Pass a smaller `--image_size` or fewer samples."
        )


def mean_and_std(images: torch.Tensor) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel, of values in [0, 1], from exact counts.

    Args:
        images (`torch.Tensor`): `uint8` of shape `(count, channels, height, width)`.

    Raises:
        ValueError: A channel has the same value everywhere.
    """
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(mean.item())
        deviations.append((share * (values - mean) ** 2).sum().sqrt().item())
    if min(deviations) == 0:
        raise ValueError("All training images are of one colour: there is nothing to learn from.")
    return means, deviations


def _validation_split(splits: dict[str, Dataset], name: str | None) -> str:
    for wanted in (VALIDATION, "test") if name is None else (name,):
        if wanted in splits:
            logger.info("Evaluating on the split `%s`.", wanted)
            return wanted
    missing = "`validation` or `test`" if name is None else f"`{name}`"
    raise ValueError(
        f"The data has no split {missing} to evaluate on, only {listed(splits)}. Name one by "
        "`--validation_split_name`, or pass `--do_eval false`."
    )


def _columns(dataset: Dataset, split: str, data: DataArguments) -> Dataset:
    """Keep the columns of the image and of the label, under their usual names."""
    labels = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    known = [name for name in (LABEL, "labels") if name in dataset.features]
    pictures = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    image = data.image_column_name or _only(pictures, "images", "image_column_name", dataset)
    label = data.label_column_name or _only(known[:1] or labels, "classes", "label_column_name", dataset)
    for name in (image, label):
        if name not in dataset.features:
            raise ValueError(f"The {split} split has no column `{name}`, only {listed(dataset.column_names)}.")
    if image not in pictures:
        raise ValueError(f"The column `{image}` of the {split} split must hold images, got {dataset.features[image]}.")
    # Renamed by way of names that no data has: `image` and `label` may be taken, by each other even.
    chosen = dataset.select_columns([image, label]).rename_columns({image: "\0image", label: "\0label"})
    chosen = chosen.rename_columns({"\0image": IMAGE, "\0label": LABEL})
    check_columns(chosen, (IMAGE,), split)
    return chosen


def _only(names: list[str], content: str, argument: str, dataset: Dataset) -> str:
    if len(names) == 1:
        return names[0]
    found = f"more than one column of {content}: {listed(names)}" if names else f"no column of {content}"
    raise ValueError(f"The data has {found}. Name it by `--{argument}`, one of {listed(dataset.column_names)}.")


def _rows(dataset: Dataset, limit: int | None) -> Dataset:
    # Not the first rows, which may be all of one class; not by the run's seed, or runs would differ in their data.
    return dataset if limit is None else dataset.shuffle(seed=0).select(range(min(limit, len(dataset))))


def label_tensor(labels: list[Any], order: tuple[int, ...]) -> torch.Tensor:
    """Turn class ids of the task into those of the model, `int64` of shape `(count,)`."""
    return torch.tensor(order)[torch.tensor(labels)]
