import dataclasses
from pathlib import Path

import pytest

from hf_worm import WormConfig
from hf_worm.commands.glue.arguments import DataArguments, GlueArguments, ModelArguments
from hf_worm.commands.glue.command import GLUE
from hf_worm.commands.job.arguments import RunArguments
from hf_worm.commands.job.parsing import parse

NEEDED = ["--model_name_or_path=m", "--task_name=mrpc", "--use_cpu"]


def parsed(*argv: str) -> GlueArguments:
    return parse(GLUE, argv)


def test_defaults_are_the_papers_and_the_trainers():
    arguments = parsed(*NEEDED)
    assert arguments.worm == WormConfig()
    assert arguments.training.output_dir == "runs/mrpc"
    assert arguments.training.learning_rate == 5e-5
    assert arguments.training.do_train and arguments.training.do_eval
    assert arguments.model == ModelArguments("m")
    assert arguments.data == DataArguments(task_name="mrpc")
    assert arguments.run == RunArguments()


def test_every_group_is_parsed():
    arguments = parsed(
        *NEEDED, "--truncation", "1", "--layers", "query", "value", "--learning_rate", "1e-3", "--max_seq_length=64",
        "--do_train", "--do_eval", "--output-dir", "x", "--ignore_mismatched_sizes", "--tokenizer_name=t",
    )  # fmt: skip
    assert arguments.worm == WormConfig.eb_train(layers=["query", "value"])
    assert arguments.training.learning_rate == 1e-3
    assert arguments.data.max_seq_length == 64
    assert arguments.training.output_dir == "x"
    assert arguments.model == ModelArguments("m", "t", ignore_mismatched_sizes=True)


def test_output_folder_is_the_tasks_by_its_own_name():
    assert parsed("--model_name_or_path=m", "--task_name=SST-2").training.output_dir == "runs/sst2"
    assert parsed("--model_name_or_path=m", "--dataset_name=d").training.output_dir == "runs/custom"


def test_a_file_says_what_flags_say(tmp_path: Path):
    file = tmp_path / "arguments.yaml"
    file.write_text("model_name_or_path: m\ntask_name: rte\nmax_seq_length: 64\nlearning_rate: 2e-5\ncache_dir: null\n")
    arguments = parsed(str(file), "--max_seq_length", "32")
    assert arguments.model == ModelArguments("m")
    assert arguments.data == DataArguments(task_name="rte", max_seq_length=32)
    assert arguments.training.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task_name=mrpc"], "required: --model_name_or_path"),
        (["--model_name_or_path=m"], "No data: pass `task_name`"),
        ([*NEEDED, "--tokeniser_name=t"], r"unknown argument `--tokeniser_name`. Did you mean `--tokenizer_name`\?"),
        ([*NEEDED, "--max_train_samples=0"], "`max_train_samples` must be at least 1, got 0"),
        ([*NEEDED, "--max_eval_samples=-1"], "`max_eval_samples` must be at least 1, got -1"),
        ([*NEEDED, "--max_seq_length=0"], "`max_seq_length` must be at least 1, got 0"),
        ([*NEEDED, "--preprocessing_num_workers=0"], "`preprocessing_num_workers` must be at least 1, got 0"),
        ([*NEEDED, "--task_name=imagenet"], "`imagenet` is no task of GLUE"),
        ([*NEEDED, "--do_predict"], r"`do_predict` is not offered: the labels of GLUE's test sets are not public\."),
        ([*NEEDED, "--dataset_name=d", "--train_file=t.csv"], "two sources of data"),
        ([*NEEDED, "--validation_file=v.csv"], "`validation_file` needs `train_file`"),
        ([*NEEDED, "--train_file=t.csv"], "`train_file` needs `validation_file`"),
    ],
)
def test_wrong_arguments_are_refused(argv: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        parsed(*argv)


def test_training_alone_needs_no_validation_file():
    arguments = parsed("--model_name_or_path=m", "--train_file=t.csv", "--do_eval=false")
    assert not arguments.training.do_eval


@pytest.mark.parametrize("group", [ModelArguments, DataArguments, WormConfig])
def test_every_field_has_a_help(group: type):
    assert all(field.metadata.get("help", "").endswith(".") for field in dataclasses.fields(group))


def test_help_shows_every_argument(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        parsed("--help")
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for group in (ModelArguments, DataArguments, RunArguments, WormConfig):
        assert all(f"--{field.name}" in text for field in dataclasses.fields(group))
    assert "\nmodel:\n" in text and "\ndata:\n" in text and "\nrun:\n" in text
