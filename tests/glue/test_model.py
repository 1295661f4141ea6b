import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_worm.glue.arguments import ModelArguments
from hf_worm.glue.model import load_config, load_model, load_tokenizer
from hf_worm.glue.tasks import TASKS, Task


@pytest.fixture
def model_with(tiny_model: Path, tmp_path: Path):
    """Makes a model folder with the given class names."""

    def make(*names: str) -> ModelArguments:
        folder = tmp_path / "-".join(names)
        shutil.copytree(tiny_model, folder)
        config = AutoConfig.from_pretrained(folder)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        config.save_pretrained(folder)
        return ModelArguments(str(folder))

    return make


def test_a_model_without_class_names_gets_the_tasks(tiny_model: Path, caplog: pytest.LogCaptureFixture):
    config, order = load_config(ModelArguments(str(tiny_model)), TASKS["mrpc"])
    assert config.id2label == {0: "not_equivalent", 1: "equivalent"}
    assert config.label2id == {"not_equivalent": 0, "equivalent": 1}
    assert order == (0, 1)
    assert caplog.text == ""


def test_a_model_with_the_tasks_classes_in_another_order_keeps_it(model_with):
    config, order = load_config(model_with("Entailment", "CONTRADICTION", "neutral"), TASKS["mnli"])
    assert config.id2label == {0: "Entailment", 1: "CONTRADICTION", 2: "neutral"}
    assert order == (0, 2, 1)


def test_other_classes_are_replaced_and_that_is_said(model_with, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        config, order = load_config(model_with("negative", "positive"), TASKS["rte"])
    assert config.id2label == {0: "entailment", 1: "not_entailment"}
    assert order == (0, 1)
    assert "classes were negative, positive: they are entailment, not_entailment now" in caplog.text


def test_data_without_class_names_keeps_the_models(model_with, caplog: pytest.LogCaptureFixture):
    unnamed = Task("mine", ("text",), ("LABEL_0", "LABEL_1"), ("accuracy",))
    config, order = load_config(model_with("negative", "positive"), unnamed)
    assert config.id2label == {0: "negative", 1: "positive"}
    assert order == (0, 1)
    assert caplog.text == ""


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_head_fits_the_task(tiny_model: Path, task: Task):
    arguments = ModelArguments(str(tiny_model), ignore_mismatched_sizes=True)
    config, order = load_config(arguments, task)
    model = load_model(arguments, config)
    assert model.config.num_labels == task.num_labels == model.get_parameter("classifier.weight").shape[0]
    assert (model.config.problem_type == "regression") == task.is_regression
    assert len(order) == len(task.labels)


def test_a_head_of_another_size_is_refused(tiny_model: Path):
    arguments = ModelArguments(str(tiny_model))
    config, _ = load_config(arguments, TASKS["mnli"])
    with pytest.raises(ValueError, match=r"don't fit a head for 3 labels .* Pass `--ignore_mismatched_sizes`"):
        load_model(arguments, config)


def test_damaged_weights_are_named(tiny_model: Path, tmp_path: Path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").write_bytes(b"\x00" * 64)
    arguments = ModelArguments(str(folder))
    config, _ = load_config(arguments, TASKS["rte"])
    with pytest.raises(ValueError, match=r"Can't load .*damaged"):
        load_model(arguments, config)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_weights_are_named(tiny_model: Path, tmp_path: Path, value: float):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    name = "bert.encoder.layer.1.attention.self.key.weight"
    with torch.no_grad():
        model.get_parameter(name)[3, 2] = value
    model.save_pretrained(tmp_path / "broken")
    arguments = ModelArguments(str(tmp_path / "broken"))
    config, _ = load_config(arguments, TASKS["rte"])
    with pytest.raises(ValueError, match=f"`{name}` holds NaN or infinite values"):
        load_model(arguments, config)


def test_a_missing_model_is_an_oserror(tmp_path: Path):
    arguments = ModelArguments(str(tmp_path / "nowhere"))
    for load in (load_tokenizer, lambda arguments: load_config(arguments, TASKS["rte"])):
        with pytest.raises(OSError, match="nowhere"):
            load(arguments)


def test_a_tokenizer_without_padding_is_refused(tiny_model: Path, tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    arguments = ModelArguments(str(tiny_model), tokenizer_name=str(tmp_path / "tokenizer"))
    with pytest.raises(ValueError, match="no padding token"):
        load_tokenizer(arguments)
