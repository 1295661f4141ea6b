"""From a data set to tensors: columns, splits, rows and pixels."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow
from sklearn.datasets import load_digits
from small_images import hub_folder, patch_set, patches

from hf_worm.commands.image import data as room
from hf_worm.commands.image.arguments import DataArguments
from hf_worm.commands.image.data import decode, label_tensor, load_images, mean_and_std, own_size

Splits = Callable[[dict[str, Dataset]], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Splits:
    """Makes `load_images` find these splits under any name."""
    return lambda splits: monkeypatch.setattr(room, "load_folder_or_hub", lambda *_: splits)


def encoded(image: Pillow.Image, form: str = "PNG") -> dict[str, Any]:
    buffer = BytesIO()
    image.save(buffer, form)
    return {"bytes": buffer.getvalue(), "path": None}


def stored(rows: list[dict[str, Any] | None]) -> Dataset:
    return Dataset.from_dict({"image": rows}, Features({"image": Image()}))


def test_digits_are_those_of_scikit_learn_and_every_row_comes_once() -> None:
    splits = load_images(DataArguments(), evaluate=True)
    assert {name: len(split) for name, split in splits.items()} == {"train": 1437, "validation": 360}
    source = load_digits()
    pixels = torch.cat([decode(split, name, 1, 8) for name, split in splits.items()]).view(-1, 64)
    labels = [label for split in splits.values() for label in split["label"]]
    expected = sorted(
        (*np.round(row * 255 / 16).astype(int), label) for row, label in zip(source.data, source.target, strict=True)
    )
    assert sorted((*row, label) for row, label in zip(pixels.tolist(), labels, strict=True)) == expected
    shares = np.bincount(splits["validation"]["label"][:]) / 360
    assert shares.min() > 0.09 and shares.max() < 0.11
    again = load_images(DataArguments(), evaluate=True)["train"]
    assert torch.equal(decode(again, "train", 1, 8), decode(splits["train"], "train", 1, 8))


def test_a_folder_laid_out_as_cifar_10_on_the_hub(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path)
    splits = load_images(DataArguments(dataset_name=str(folder)), evaluate=True)
    assert {name: len(split) for name, split in splits.items()} == {"train": 64, "validation": 16}
    images, labels = patches(64)
    expected = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    assert torch.equal(decode(splits["train"], "train", 3, 8), expected)
    assert splits["train"]["label"][:] == labels
    assert list(load_images(DataArguments(dataset_name=str(folder)), evaluate=False)) == ["train"]


def test_a_folder_of_images_for_each_class(tmp_path: Path) -> None:
    images, labels = patches(12)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        for split in ("train", "test"):
            path = tmp_path / split / ("dark", "bright")[label] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(image).save(path)
    train = load_images(DataArguments(dataset_name=str(tmp_path)), evaluate=True)["train"]
    assert sorted(train.features["label"].names) == ["bright", "dark"] and len(train) == 12


@pytest.mark.parametrize(
    ("features", "options", "columns"),
    [
        ({"img": Image(), "label": ClassLabel(names=["a", "b"])}, {}, ("img", "label")),
        ({"image": Image(), "labels": Value("int64")}, {}, ("image", "labels")),
        ({"pic": Image(), "digit": ClassLabel(names=["a", "b"])}, {}, ("pic", "digit")),
        (
            {"img": Image(), "fine": ClassLabel(names=["a", "b"]), "coarse": ClassLabel(names=["c", "d"])},
            {"label_column_name": "coarse"},
            ("img", "coarse"),
        ),
        (
            {"label": Image(), "image": ClassLabel(names=["a", "b"]), "mask": Image()},
            {"image_column_name": "label", "label_column_name": "image"},
            ("label", "image"),
        ),
    ],
    ids=["cifar10", "labels", "by type", "cifar100", "crosswise"],
)
def test_columns_are_found_or_named(
    serve: Splits, features: dict[str, Any], options: dict[str, str], columns: tuple[str, str]
) -> None:
    images, labels = patches(4)
    rows = {
        name: images if isinstance(feature, Image) else [1 - x for x in labels] for name, feature in features.items()
    }
    rows[columns[1]] = labels
    serve({"train": Dataset.from_dict(rows, Features(features))})
    found = load_images(DataArguments(dataset_name="x", **options), evaluate=False)["train"]
    assert found.column_names == ["image", "label"]
    assert found["label"][:] == labels and torch.equal(
        decode(found, "train", 3, 8), torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    )


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ({"label": Value("int64")}, {}, "no column of images. Name it by `--image_column_name`, one of `label`"),
        ({"a": Image(), "b": Image(), "label": Value("int64")}, {}, "more than one column of images: `a`, `b`"),
        ({"a": Image(), "x": ClassLabel(names=["1"]), "y": ClassLabel(names=["1"])}, {}, "of classes: `x`, `y`"),
        ({"a": Image(), "kind": Value("string")}, {}, "no column of classes. Name it by `--label_column_name`"),
        ({"a": Image(), "label": Value("int64")}, {"image_column_name": "b"}, "has no column `b`, only `a`, `label`"),
        (
            {"a": Image(), "label": Value("int64")},
            {"image_column_name": "label"},
            "`label` of the train split must hold",
        ),
    ],
)
def test_columns_that_are_not_clear_are_refused(
    serve: Splits, features: dict[str, Any], options: dict[str, str], message: str
) -> None:
    rows = {
        name: patches(2)[0] if isinstance(feature, Image) else ["0", "0"] if feature == Value("string") else [0, 0]
        for name, feature in features.items()
    }
    serve({"train": Dataset.from_dict(rows, Features(features))})
    with pytest.raises(ValueError, match=message):
        load_images(DataArguments(dataset_name="x", **options), evaluate=False)


def test_the_split_to_evaluate_on(serve: Splits) -> None:
    sizes = {"train": 8, "validation": 6, "test": 4, "extra": 2}
    splits = {name: patch_set(size) for name, size in sizes.items()}
    serve(splits)
    assert len(load_images(DataArguments(dataset_name="x"), True)["validation"]) == 6
    named = DataArguments(dataset_name="x", validation_split_name="extra")
    assert len(load_images(named, True)["validation"]) == 2
    del splits["validation"]
    assert len(load_images(DataArguments(dataset_name="x"), True)["validation"]) == 4
    del splits["test"]
    with pytest.raises(ValueError, match="no split `validation` or `test` to evaluate on, only `train`, `extra`"):
        load_images(DataArguments(dataset_name="x"), True)
    del splits["extra"]
    with pytest.raises(ValueError, match="no split `extra` to evaluate on, only `train`"):
        load_images(named, True)


def test_a_limit_takes_rows_at_random_and_always_the_same(serve: Splits) -> None:
    sorted_by_class = patch_set(100).sort("label")
    serve({"train": sorted_by_class, "test": patch_set(20)})
    data = DataArguments(dataset_name="x", max_train_samples=40, max_eval_samples=1000)
    first, second = load_images(data, True), load_images(data, True)
    assert len(first["train"]) == 40 and len(first["validation"]) == 20
    assert 10 < sum(first["train"]["label"]) < 30, "both classes, though the first rows are all of one"
    assert torch.equal(decode(first["train"], "train", 3, 8), decode(second["train"], "train", 3, 8))


def test_own_size_is_that_of_squares_of_one_size() -> None:
    square, other, wide = (encoded(Pillow.new("RGB", size)) for size in ((6, 6), (7, 7), (6, 5)))
    assert own_size(stored([square, square]), "train") == 6
    assert own_size(stored([square, other]), "train") is None
    assert own_size(stored([wide, wide]), "train") is None


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode_become_colours_or_grey(mode: str, channels: int) -> None:
    image = Pillow.new("I;16", (6, 6)) if mode == "I;16" else Pillow.new("RGB", (6, 6), (200, 100, 50)).convert(mode)
    pixels = decode(stored([encoded(image, "TIFF" if mode == "CMYK" else "PNG")]), "train", channels, 6)
    expected = image.convert("RGB" if channels == 3 else "L")
    assert pixels.shape == (1, channels, 6, 6)
    values = np.asarray(expected)[0, 0]
    assert pixels[0, :, 0, 0].tolist() == np.atleast_1d(values).tolist()


def test_sixteen_bits_become_eight() -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (6, 6))
    grey = Pillow.fromarray(values.astype(np.uint16))
    assert grey.mode == "I;16"
    for image in (grey, Pillow.fromarray(values.astype(np.int32))):
        pixels = decode(stored([encoded(image, "TIFF")]), "train", 1, 6)
        assert np.array_equal(pixels[0, 0].numpy(), values // 257)
    for image in (Pillow.fromarray(np.full((6, 6), 0.5, np.float32)), Pillow.fromarray(np.full((6, 6), -1, np.int32))):
        with pytest.raises(ValueError, match=r"row 1 of the train split won't do: its pixels are of mode [FI], of unk"):
            decode(stored([encoded(image, "TIFF")]), "train", 1, 6)


def test_other_sizes_are_cropped_to_the_middle_and_resized() -> None:
    wide = Pillow.new("RGB", (30, 10), (255, 0, 0))
    wide.paste((0, 255, 0), (10, 0, 20, 10))  # the middle third
    pixels = decode(stored([encoded(wide), encoded(Pillow.new("RGB", (2, 2), (0, 0, 255)))]), "train", 3, 5)
    assert pixels[0, :, :, 1:-1].flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 0]
    assert pixels[0, 1].min() > 200, "at the edges the filter takes in a little of what is beside"
    assert pixels[1].flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 255]


def test_damaged_and_missing_images_are_named_by_row() -> None:
    good = encoded(Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)))
    junk = {"bytes": b"no image", "path": None}
    cut = {"bytes": good["bytes"][: len(good["bytes"]) // 2], "path": None}
    with pytest.raises(ValueError, match="image of row 2 of the train split can't be read"):
        own_size(stored([good, junk]), "train")
    with pytest.raises(ValueError, match="image of row 1 of the test split can't be read"):
        own_size(stored([{"bytes": None, "path": "/nowhere/1.png"}]), "test")
    with pytest.raises(ValueError, match="Row 2 of the train split has no image"):
        own_size(stored([good, None]), "train")
    assert own_size(stored([good, cut]), "train") == 64, "the beginning of the file is there"
    with pytest.raises(ValueError, match="image of row 2 of the train split is damaged"):
        decode(stored([good, cut]), "train", 3, 64)


def test_images_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(ValueError, match=r"more than the .* GiB of memory that are free"):
        decode(patch_set(10), "train", 3, 8)


def test_a_model_of_two_channels_gets_no_images() -> None:
    with pytest.raises(ValueError, match=r"takes images of 2 channels: 1 .grey. or 3"):
        decode(patch_set(2), "train", 2, 8)


def test_mean_and_std_equal_numpys() -> None:
    images = torch.randint(0, 256, (20, 3, 7, 5), dtype=torch.uint8)
    mean, std = mean_and_std(images)
    values = images.numpy().transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(1), rtol=1e-12)
    with pytest.raises(ValueError, match="of one colour"):
        mean_and_std(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8))


def test_labels_go_by_the_models_ids() -> None:
    assert label_tensor([0, 2, 1, 0], (2, 0, 1)).tolist() == [2, 1, 0, 2]


@pytest.mark.parametrize(("name", "value"), [("max_train_samples", 0), ("max_eval_samples", -1), ("crop_padding", -1)])
def test_counts_that_are_none_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least"):
        DataArguments(**{name: value})
