import logging
import math
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from hf_worm.commands.job.arguments import PretrainedArguments
from hf_worm.commands.job.model import hub_options, load_weights, set_classes
from hf_worm.commands.job.task import Task

TWO, THREE, UNNAMED, NUMBERS = (
    Task("mine", ("text",), labels, ("accuracy",))
    for labels in (("no", "yes"), ("no", "maybe", "yes"), ("LABEL_0", "LABEL_1"), ())
)


def config_with(*names: str) -> BertConfig:
    return BertConfig(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})


def test_a_model_without_class_names_gets_the_tasks(caplog: pytest.LogCaptureFixture):
    config = BertConfig()
    assert set_classes(config, TWO) == (0, 1)
    assert config.id2label == {0: "no", 1: "yes"}
    assert config.label2id == {"no": 0, "yes": 1}
    assert config.problem_type == "single_label_classification"
    assert caplog.text == ""


def test_a_model_with_the_tasks_classes_in_another_order_keeps_it():
    config = config_with("Yes", "NO", "maybe")
    assert set_classes(config, THREE) == (1, 2, 0)
    assert config.id2label == {0: "Yes", 1: "NO", 2: "maybe"}


def test_classes_that_differ_by_case_alone_stay_two():
    task = Task("mine", ("text",), ("US", "us"), ("accuracy",))
    assert set_classes(config_with("US", "us"), task) == (0, 1)
    assert set_classes(config_with("us", "US"), task) == (1, 0)
    config = config_with("us", "other")
    assert set_classes(config, task) == (0, 1)
    assert config.id2label == {0: "US", 1: "us"}


def test_other_classes_are_replaced_and_that_is_said(caplog: pytest.LogCaptureFixture):
    config = config_with("negative", "positive")
    with caplog.at_level(logging.WARNING):
        assert set_classes(config, TWO) == (0, 1)
    assert config.id2label == {0: "no", 1: "yes"}
    assert "classes were negative, positive: they are no, yes now" in caplog.text


def test_data_without_class_names_keeps_the_models(caplog: pytest.LogCaptureFixture):
    config = config_with("negative", "positive")
    assert set_classes(config, UNNAMED) == (0, 1)
    assert config.id2label == {0: "negative", 1: "positive"}
    assert caplog.text == ""


def test_a_regression_has_one_output_and_no_classes():
    config = config_with("negative", "positive")
    assert set_classes(config, NUMBERS) == ()
    assert (config.num_labels, config.problem_type) == (1, "regression")


def test_sentence_and_image_classifiers_are_loaded(bert: BertForSequenceClassification, tmp_path: Path):
    resnet = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    for auto_class, model in (
        (AutoModelForSequenceClassification, bert),
        (AutoModelForImageClassification, resnet),
    ):
        folder = str(tmp_path / type(model).__name__)
        model.save_pretrained(folder)
        loaded = load_weights(auto_class, folder, model.config, PretrainedArguments())
        assert type(loaded) is type(model)
        assert all(torch.equal(loaded.get_parameter(name), weight) for name, weight in model.named_parameters())


def test_a_head_of_another_size_is_refused_or_begun_anew(bert: BertForSequenceClassification, tmp_path: Path):
    bert.save_pretrained(tmp_path)
    set_classes(bert.config, THREE)
    load = (AutoModelForSequenceClassification, str(tmp_path), bert.config)
    with pytest.raises(ValueError, match=r"don't fit a head for 3 labels .* Pass `--ignore_mismatched_sizes`"):
        load_weights(*load, PretrainedArguments())
    model = load_weights(*load, PretrainedArguments(ignore_mismatched_sizes=True))
    assert len(model.get_parameter("classifier.weight")) == 3


def test_a_body_of_another_size_is_no_matter_of_the_head(bert: BertForSequenceClassification, tmp_path: Path):
    bert.save_pretrained(tmp_path)
    bert.config.intermediate_size *= 2
    with pytest.raises(ValueError, match="not of the sizes that the configuration says") as raised:
        load_weights(AutoModelForSequenceClassification, str(tmp_path), bert.config, PretrainedArguments())
    assert "Pass `--ignore_mismatched_sizes`" not in str(raised.value)


def test_damaged_weights_are_named(bert: BertForSequenceClassification, tmp_path: Path):
    bert.save_pretrained(tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ValueError, match=r"Can't load .*damaged"):
        load_weights(AutoModelForSequenceClassification, str(tmp_path / "damaged"), bert.config, PretrainedArguments())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_weights_are_named(bert: BertForSequenceClassification, tmp_path: Path, value: float):
    name = "bert.encoder.layer.1.attention.self.key.weight"
    with torch.no_grad():
        bert.get_parameter(name)[3, 2] = value
    bert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"`{name}` holds NaN or infinite values"):
        load_weights(AutoModelForSequenceClassification, str(tmp_path), bert.config, PretrainedArguments())


def test_nan_statistics_of_a_batchnorm_are_named(tmp_path: Path):
    model = ResNetForImageClassification(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2))
    name = "resnet.embedder.embedder.normalization.running_var"
    model.get_buffer(name)[1] = math.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"`{name}` holds NaN or infinite values"):
        load_weights(AutoModelForImageClassification, str(tmp_path), model.config, PretrainedArguments())


def test_missing_weights_are_an_oserror(bert: BertForSequenceClassification, tmp_path: Path):
    with pytest.raises(OSError, match="nowhere"):
        load_weights(AutoModelForSequenceClassification, str(tmp_path / "nowhere"), bert.config, PretrainedArguments())


def test_the_hub_is_asked_as_the_arguments_say():
    arguments = PretrainedArguments(cache_dir="c", model_revision="r", token="t", trust_remote_code=True)
    assert hub_options(arguments) == {"cache_dir": "c", "revision": "r", "token": "t", "trust_remote_code": True}
