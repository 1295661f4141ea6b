"""Real images that need no download: scikit-learn's handwritten digits."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

NAME = "digits"
VALIDATION_ROWS = 360


def digits() -> dict[str, Dataset]:
    """Load 1,437 training and 360 validation images of 8 × 8 grey pixels in ten classes, always split the same.

    The test set of the UCI "Optical Recognition of Handwritten Digits" data, as scikit-learn ships it: values 0 to 16,
    spread to 0 to 255 here.
    """
    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(np.arange(len(images)), test_size=VALIDATION_ROWS, random_state=0, stratify=source.target)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in source.target_names])})
    return {
        split: Dataset.from_dict({"image": list(images[rows]), "label": source.target[rows].tolist()}, features)
        for split, rows in zip(("train", "validation"), parts, strict=True)
    }
