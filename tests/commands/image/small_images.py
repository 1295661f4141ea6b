"""A few images in data sets and folders."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image

NAMES = ("dark", "bright")


def patches(count: int, edge: int = 8, channels: int = 3, seed: int = 0) -> tuple[list[np.ndarray], list[int]]:
    """Noise whose class is its brightness, by turns."""
    random = np.random.default_rng(seed)
    labels = [index % 2 for index in range(count)]
    shape = (edge, edge, 3) if channels == 3 else (edge, edge)
    return [random.integers(100 * label, 100 * label + 140, shape).astype(np.uint8) for label in labels], labels


def patch_set(count: int, image: str = "image", label: str = "label", edge: int = 8, seed: int = 0) -> Dataset:
    """A data set of [`patches`] with columns of these names."""
    images, labels = patches(count, edge, seed=seed)
    return Dataset.from_dict(
        {image: images, label: labels}, Features({image: Image(), label: ClassLabel(names=list(NAMES))})
    )


def hub_folder(parent: Path, train: int = 64, test: int = 16, edge: int = 8) -> Path:
    """A folder laid out as CIFAR-10 is on the Hub: columns `img`, `label`, splits `train` and `test`."""
    folder = parent / "patches"
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        patch_set(count, image="img", edge=edge, seed=seed).to_parquet(
            folder / "plain" / f"{split}-00000-of-00001.parquet"
        )
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: plain\n  data_files:\n"
        "  - split: train\n    path: plain/train-*\n  - split: test\n    path: plain/test-*\n---\n"
    )
    return folder
