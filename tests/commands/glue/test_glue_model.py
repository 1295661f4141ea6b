from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hf_worm.commands.glue.arguments import ModelArguments
from hf_worm.commands.glue.model import load_config, load_model, load_tokenizer
from hf_worm.commands.glue.tasks import TASKS
from hf_worm.commands.job.task import Task


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_head_fits_the_task(tiny_model: Path, task: Task):
    arguments = ModelArguments(str(tiny_model), ignore_mismatched_sizes=True)
    config, order = load_config(arguments, task)
    model = load_model(arguments, config)
    assert model.config.num_labels == task.num_labels == model.get_parameter("classifier.weight").shape[0]
    assert (model.config.problem_type == "regression") == task.is_regression
    assert len(order) == len(task.labels)


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
