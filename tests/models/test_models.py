"""What both models have in common: how they are saved, found, loaded and trained."""

import copy
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

from hf_worm.commands.image.model import new_processor
from hf_worm.models import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    VggBnConfig,
    VggBnForImageClassification,
)

SMALL = {
    "resnet": (CifarResNetForImageClassification, CifarResNetConfig(width=4, depths=(1, 2))),
    "vgg": (VggBnForImageClassification, VggBnConfig(width=2, classifier_size=16)),
    "vgg_slim": (VggBnForImageClassification, VggBnConfig(width=2, classifier="slim")),
}
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([3, 0, 9, 3])


@pytest.fixture(params=list(SMALL))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def build(kind: str, **changes: Any) -> PreTrainedModel:
    """A small model in evaluation, whose BatchNorms have seen images."""
    model_class, config = SMALL[kind]
    model = model_class(type(config)(**{**config.to_dict(), **changes}))
    model.train()(IMAGES)
    return model.eval()


def head(model: PreTrainedModel) -> list[str]:
    """Names of the last layer's weight and bias."""
    return [name for name, _ in model.named_parameters()][-2:]


def test_the_same_output_after_loading(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    assert any((b != 0).any() and (b != 1).any() for n, b in model.named_buffers() if n.endswith("running_mean"))
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model) and not loaded.training
    assert not any(info.values())
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(loaded(IMAGES).logits, model(IMAGES).logits)


@pytest.mark.parametrize(
    "labels", [{}, {"num_labels": 2}, {"num_labels": 3}, {"id2label": {0: "cat", 1: "dog"}}], ids=str
)
def test_a_configuration_comes_back_as_it_was(kind: str, labels: dict[str, Any], tmp_path: Path) -> None:
    config = type(SMALL[kind][1])(width=6, num_channels=1, image_size=40, **labels)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    names = {"num_channels", "image_size", "width", "id2label", "label2id"} | (
        {"depths"} if kind == "resnet" else {"classifier", "classifier_size", "dropout"}
    )
    assert {name: getattr(loaded, name) for name in names} == {name: getattr(config, name) for name in names}
    assert loaded.num_labels == (labels.get("num_labels") or len(labels.get("id2label", range(10))))


def test_configurations_of_other_shape_are_not_equal(kind: str) -> None:
    config = SMALL[kind][1]
    assert config == copy.deepcopy(config)
    other = copy.deepcopy(config)
    other.width += 1
    assert config != other


def test_the_auto_classes_know_them(kind: str) -> None:
    model_class, config = SMALL[kind]
    assert type(AutoConfig.for_model(config.model_type)) is type(config)
    assert type(AutoModelForImageClassification.from_config(copy.deepcopy(config))) is model_class


def test_a_checkpoint_carries_the_one_file_of_its_code(kind: str, tmp_path: Path) -> None:
    model_class, config = SMALL[kind]
    build(kind).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.py")
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": f"{file.stem}.{type(config).__name__}",
        "AutoModelForImageClassification": f"{file.stem}.{model_class.__name__}",
    }


def test_checkpoints_load_where_hf_worm_is_not_installed(tmp_path: Path) -> None:
    """In a fresh process that can't import this package; saved again there, they carry their code on."""
    for kind in SMALL:
        model = build(kind)
        model.save_pretrained(tmp_path / kind)
        torch.save(model(IMAGES).logits, tmp_path / kind / "logits.pt")
    torch.save(IMAGES, tmp_path / "images.pt")
    program = f"""
        import sys
        sys.modules["hf_worm"] = None

        import os
        import torch
        from transformers import AutoModelForImageClassification

        for kind in {list(SMALL)!r}:
            model = AutoModelForImageClassification.from_pretrained(kind, trust_remote_code=True)
            same = torch.equal(model(torch.load("images.pt")).logits, torch.load(kind + "/logits.pt"))
            model.save_pretrained(kind + "-again")
            carried = [name for name in os.listdir(kind + "-again") if name.endswith(".py")]
            print(type(model).__module__.partition(".")[0], type(model).__name__, same, *carried)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert done.stdout.splitlines() == [
        "transformers_modules CifarResNetForImageClassification True resnet.py",
        "transformers_modules VggBnForImageClassification True vgg.py",
        "transformers_modules VggBnForImageClassification True vgg.py",
    ], done.stderr


def test_another_number_of_labels_changes_the_last_layer_alone(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert loaded(IMAGES).logits.shape == (4, 7)
    before, after = model.state_dict(), loaded.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == head(model)
    weight, bias = (after[name] for name in head(model))
    if kind == "resnet":
        assert 0 < float(weight.abs().max()) <= 1 / weight.shape[1] ** 0.5
        assert 0 < float(bias.abs().max()) <= 1 / weight.shape[1] ** 0.5
    else:
        assert 0.005 < float(weight.std()) < 0.015
        assert not bias.any()


def test_loading_in_bf16(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    before, after = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(before[name].to(after[name].dtype), after[name]) for name in before)
    torch.testing.assert_close(loaded(IMAGES.bfloat16()).logits.float(), model(IMAGES).logits, atol=0.05, rtol=0.05)


def test_the_loss_is_the_cross_entropy(kind: str) -> None:
    model = build(kind)
    output = model(IMAGES, labels=LABELS)
    mean = -output.logits.log_softmax(-1)[torch.arange(4), LABELS].mean()
    torch.testing.assert_close(output.loss, mean)
    assert model(IMAGES).loss is None
    assert list(model(IMAGES)) == ["logits"]


def test_a_tuple_for_those_who_ask_for_it(kind: str) -> None:
    model = build(kind)
    loss, logits = model(IMAGES, labels=LABELS, return_dict=False)
    assert loss.shape == () and logits.shape == (4, 10)
    model.config.return_dict = False
    (again,) = model(IMAGES)
    assert torch.equal(again, logits)
    assert torch.equal(model(IMAGES, return_dict=True).logits, logits)


def test_the_gradient_reaches_every_parameter(kind: str) -> None:
    model = build(kind)  # in evaluation: a bias before a BatchNorm that takes the mean away gets no gradient
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5) if parameter.dim() > 1 else nn.init.uniform_(parameter, 0.5, 1.5)
    model(IMAGES, labels=LABELS).loss.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_a_trainer_trains_and_evaluates_them(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    before = copy.deepcopy(model.state_dict())
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True
    )
    data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(IMAGES, LABELS, strict=True)]
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert not any(torch.equal(before[name], model.state_dict()[name]) for name in head(model))
    assert trainer.predict(data).predictions.shape == (4, 10)


def test_a_pipeline_classifies_with_them(kind: str) -> None:
    model = build(kind, id2label={0: "cat", 1: "dog"}, label2id=None)
    classify = pipeline("image-classification", model=model, image_processor=new_processor(32, [0.5] * 3, [0.5] * 3))
    found = classify(Image.new("RGB", (40, 50)))
    assert {label["label"] for label in found} == {"cat", "dog"}
    assert sum(label["score"] for label in found) == pytest.approx(1)
