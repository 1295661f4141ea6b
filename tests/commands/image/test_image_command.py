"""`hf-worm image` from end to end: what it leaves, what it refuses, and how it goes on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file
from small_images import hub_folder, patches
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from hf_worm import Ticket
from hf_worm.commands.image import command
from hf_worm.commands.image.model import new_processor

Flags = Callable[..., list[str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def flags(out: Path) -> Flags:
    """Makes the flags of a short run on some digits into `out`; keywords change or add flags, `None` drops one."""

    def make(**changes: object) -> list[str]:
        settings: dict[str, object] = {
            "config_overrides": "width=4",
            "max_train_samples": 128,
            "max_eval_samples": 64,
            "output_dir": out,
            "num_train_epochs": 3,
            "window": 2,
            "stopping_point": 1,
            "per_device_train_batch_size": 32,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            **changes,
        }
        return [f"--{name}={value}" for name, value in settings.items() if value is not None]

    return make


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "worm_report.json").read_text())


def test_digits_end_with_a_table_a_report_a_card_and_silent_channels(
    flags: Flags, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(flags()) == 0
    printed = capsys.readouterr().out
    assert "WORM (p 0.5, r 0.003, s 1, δ 0.05, l 2): 2 observations, converged" in printed
    assert set(report(out)["metrics"]) == {"before_draw", "drawn", "retrained"}
    assert report(out)["config"]["layers"] == ["batchnorm"]
    ticket = Ticket.from_pretrained(out)
    weights = load_file(out / "model.safetensors")
    assert len(ticket.masks) == 20
    for name, mask in ticket.masks.items():
        assert torch.equal(weights[name] == 0, ~mask)
        assert (weights[name.replace("weight", "bias")][~mask] == 0).all()
    card = (out / "README.md").read_text()
    assert "weights, 50.0% of batchnorm and" in card
    assert 'AutoModelForImageClassification.from_pretrained("out", trust_remote_code=True)' in card


def test_what_is_saved_classifies_images_in_a_pipeline(flags: Flags, out: Path) -> None:
    assert command.main(flags(max_train_samples=None, num_train_epochs=4, retrain_epochs=4)) == 0
    from hf_worm.commands.image.arguments import DataArguments
    from hf_worm.commands.image.data import load_images

    rows = load_images(DataArguments(max_eval_samples=64), evaluate=True)["validation"]
    classify = pipeline("image-classification", model=str(out))
    found = [classify(image, top_k=1)[0]["label"] for image in rows["image"]]
    right = sum(label == str(wanted) for label, wanted in zip(found, rows["label"], strict=True)) / 64
    assert right == pytest.approx(report(out)["metrics"]["retrained"]["accuracy"], abs=1e-6)
    assert right > 0.3, "it has learned something"


def test_the_papers_settings_are_the_defaults(flags: Flags, out: Path) -> None:
    changes = {"window": None, "stopping_point": None, "num_train_epochs": 1, "retrain_epochs": 0}
    assert command.main(flags(**changes)) == 0
    config = report(out)["config"]
    assert (config["stopping_point"], config["margin"], config["window"], config["scope"]) == (0.1, 0.05, 5, "layer")
    arguments = torch.load(out / "training_args.bin", weights_only=False)
    assert (arguments.optim, arguments.learning_rate, arguments.lr_scheduler_type) == ("sgd", 0.01, "constant")
    assert arguments.max_grad_norm == 0


def test_a_local_folder_and_vgg(flags: Flags, out: Path, tmp_path: Path) -> None:
    folder = hub_folder(tmp_path)
    overrides = "width=2,classifier=slim"
    assert command.main(flags(model="vgg11_bn", dataset_name=folder, config_overrides=overrides)) == 0
    model = AutoModelForImageClassification.from_pretrained(out)
    assert model.config.id2label == {0: "dark", 1: "bright"}
    assert len(Ticket.from_pretrained(out).masks) == 8
    assert json.loads((out / "preprocessor_config.json").read_text())["crop_size"] == {"height": 32, "width": 32}
    card = (out / "README.md").read_text()
    assert str(folder) not in card and "This model was trained from scratch on the patches dataset" in card


def test_a_pretrained_resnet_of_the_hub_is_fine_tuned_with_its_own_normalization(
    flags: Flags, out: Path, tmp_path: Path
) -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "pretrained")
    new_processor(16, [0.1, 0.2, 0.3], [0.5] * 3).save_pretrained(tmp_path / "pretrained")
    changes = {"model": tmp_path / "pretrained", "config_overrides": None, "dataset_name": hub_folder(tmp_path)}
    assert command.main(flags(**changes)) == 2, "its head is of five classes"
    assert command.main(flags(**changes, ignore_mismatched_sizes=True)) == 0
    saved = json.loads((out / "preprocessor_config.json").read_text())
    assert saved["image_mean"] == [0.1, 0.2, 0.3] and saved["crop_size"] == {"height": 16, "width": 16}
    assert all("normalization" in name or "shortcut" in name for name in Ticket.from_pretrained(out).masks)


def test_a_transformer_is_watched_by_its_queries_and_keys(
    flags: Flags, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8)
    config.patch_size = 4
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    changes = {"model": tmp_path / "vit", "from_scratch": True, "config_overrides": None}
    assert command.main(flags(**changes)) == 2
    assert "Found no BatchNorm with affine parameters in `ViTForImageClassification`" in capsys.readouterr().err
    assert command.main([*flags(**changes), "--layers", "query", "key"]) == 0
    assert len(Ticket.from_pretrained(out).masks) == 2


def test_dense_is_the_control(flags: Flags, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(flags(dense=True, num_train_epochs=1)) == 0
    assert "Nothing pruned" in capsys.readouterr().out
    assert not (out / "ticket.safetensors").exists()


def test_what_was_trained_can_be_evaluated_alone(flags: Flags, out: Path, tmp_path: Path) -> None:
    assert command.main(flags()) == 0
    again = {"model": out, "config_overrides": None, "do_train": False, "output_dir": tmp_path / "again"}
    assert command.main(flags(**again)) == 0
    results = json.loads((tmp_path / "again" / "eval_results.json").read_text())
    assert results["eval_accuracy"] == report(out)["metrics"]["retrained"]["accuracy"]


@pytest.mark.parametrize("checkpoint", [2, 5, 8, 11])
def test_an_augmented_run_resumes_bit_for_bit(flags: Flags, out: Path, tmp_path: Path, checkpoint: int) -> None:
    """Four steps an epoch, two epochs of search, one of retraining: from the middle of each, with shifts and flips."""
    changes = {"save_strategy": "steps", "save_steps": 1, "horizontal_flip": True, "crop_padding": 2}
    assert command.main(flags(**changes)) == 0
    expected = load_file(out / "model.safetensors")
    resumed = tmp_path / "resumed"
    start = {"resume_from_checkpoint": out / f"checkpoint-{checkpoint}", "output_dir": resumed}
    assert command.main(flags(**changes, **start)) == 0
    found = load_file(resumed / "model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert command.main(flags(**changes, output_dir=tmp_path / "other", seed=1)) == 0
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert not torch.equal(other["conv1.weight"], expected["conv1.weight"]), "it could have failed"


def test_workers_give_the_batches_that_the_process_itself_gives(flags: Flags, out: Path, tmp_path: Path) -> None:
    assert command.main(flags()) == 0
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "output_dir": tmp_path / "workers"}
    assert command.main(flags(**workers)) == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "workers"))
    assert all(torch.equal(second[name], weight) for name, weight in first.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "./nowhere"}, "nowhere"),
        ({"model": "resnet-18"}, "There is no model resnet-18. Did you mean `resnet18`?"),
        ({"dataset_name": "./nowhere"}, "./nowhere is a folder that does not exist"),
        ({"config_overrides": "widht=4"}, "`config_overrides` 'widht=4' won't do"),
        ({"config_overrides": "width=0"}, "`width` must be a whole number of at least 1"),
        ({"model": "vgg11_bn", "image_size": 16}, "The model can't take images of 3 × 16 × 16: `pixel_values` must be"),
        ({"image_size": 0}, "`image_size` must be at least 1"),
        ({"crop_padding": -1}, "`crop_padding` must be at least 0"),
        ({"validation_split_name": "dev"}, "no split `dev` to evaluate on, only `train`, `validation`"),
        ({"label_column_name": "class"}, "has no column `class`"),
        ({"config_name": "somewhere"}, "has a configuration of its own"),
        ({"prune_ratio": 1}, "`prune_ratio` must be in [0, 1)"),
        ({"do_predict": True}, "`do_predict` is not offered"),
        ({"optim_args": "momentum"}, "`optim_args` must be settings of SGD such as momentum=0.9"),
        ({"widht": 4}, "unknown argument `--widht`"),
    ],
)
def test_wrong_arguments_end_with_a_line(
    flags: Flags, out: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(flags(**changes)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hf-worm image: error: ") and message in error
    assert not out.exists()


def test_labels_with_fractions_are_refused(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = patches(8)
    for row, image in enumerate(images):
        (tmp_path / "data" / "train").mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(image).save(tmp_path / "data" / "train" / f"{row}.png")
    rows = "".join(f"{row}.png,{label / 2}\n" for row, label in enumerate(labels))
    (tmp_path / "data" / "train" / "metadata.csv").write_text(f"file_name,label\n{rows}")
    assert command.main(flags(dataset_name=tmp_path / "data", do_eval=False)) == 2
    assert "numbers with fractions" in capsys.readouterr().err


def test_without_arguments_it_trains_resnet18_on_the_digits(tmp_path: Path) -> None:
    """The installed command, as a person would begin: but for the width and the epochs, which take time."""
    done = subprocess.run(
        [Path(sys.executable).with_name("hf-worm"), "image", "--config_overrides=width=2", "--num_train_epochs=1"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not converged, the newest mask was drawn" in done.stdout
    assert (tmp_path / "runs" / "digits-resnet18" / "model.safetensors").exists()
