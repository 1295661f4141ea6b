import dataclasses
import json
from pathlib import Path

import pytest

from hf_worm import WormConfig
from hf_worm.glue.arguments import DataArguments, ModelArguments, RunArguments
from hf_worm.glue.parsing import parse_arguments

NEEDED = ["--model_name_or_path=m", "--task_name=mrpc", "--use_cpu"]


def test_defaults_are_the_papers_and_the_trainers():
    arguments = parse_arguments(NEEDED)
    assert arguments.worm == WormConfig()
    assert arguments.training.output_dir == "runs/mrpc"
    assert arguments.training.learning_rate == 5e-5
    assert arguments.training.do_train and arguments.training.do_eval
    assert arguments.data == DataArguments(task_name="mrpc")
    assert arguments.run == RunArguments()


def test_every_group_is_parsed():
    arguments = parse_arguments(
        [*NEEDED, "--truncation", "1", "--layers", "query", "value", "--learning_rate", "1e-3", "--max_seq_length=64",
         "--do_train", "--do_eval", "--output-dir", "x", "--ignore_mismatched_sizes"]
    )  # fmt: skip
    assert arguments.worm == WormConfig.eb_train(layers=["query", "value"])
    assert arguments.training.learning_rate == 1e-3
    assert arguments.data.max_seq_length == 64
    assert arguments.training.output_dir == "x"
    assert arguments.model.ignore_mismatched_sizes


def test_dense_runs_have_no_worm_settings():
    assert parse_arguments([*NEEDED, "--dense"]).worm is None


def test_output_folder_is_the_tasks_by_its_own_name():
    assert parse_arguments(["--model_name_or_path=m", "--task_name=SST-2"]).training.output_dir == "runs/sst2"
    assert parse_arguments(["--model_name_or_path=m", "--dataset_name=d"]).training.output_dir == "runs/custom"


JSON = """{"model_name_or_path": "m", "task_name": "rte", "learning_rate": 2e-5, "max_seq_length": 64, "use_cpu": true,
"layers": ["query", "value"], "stopping_point": 0.1, "eval_strategy": "no", "cache_dir": null, "do_eval": false,
"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}}"""
YAML = """
model_name_or_path: m
task_name: rte
learning_rate: 2e-5   # YAML 1.1 reads a string here
max_seq_length: 64
use_cpu: true
layers: [query, value]
stopping_point: 1e-1
eval_strategy: no     # and false here
cache_dir: null
do_eval: no
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs:
  min_lr: 1e-6
"""


@pytest.mark.parametrize(("suffix", "text"), [("json", JSON), ("yaml", YAML), ("yml", YAML)])
def test_a_file_says_what_flags_say(tmp_path: Path, suffix: str, text: str):
    file = tmp_path / f"arguments.{suffix}"
    file.write_text(text)
    arguments = parse_arguments([str(file)])
    assert arguments.model == ModelArguments("m")
    assert arguments.data == DataArguments(task_name="rte", max_seq_length=64)
    assert arguments.worm == WormConfig(layers=["query", "value"], stopping_point=0.1)
    assert arguments.training.learning_rate == 2e-5
    assert arguments.training.eval_strategy == "no"
    assert arguments.training.do_eval is False
    assert arguments.training.lr_scheduler_kwargs == {"min_lr": 1e-6}


def test_flags_after_a_file_override_it(tmp_path: Path):
    file = tmp_path / "arguments.json"
    file.write_text(JSON)
    arguments = parse_arguments([str(file), "--seed=7", "--layers", "key", "--max_seq_length", "32"])
    assert arguments.training.seed == 7
    assert arguments.worm == WormConfig(layers=["key"], stopping_point=0.1)
    assert arguments.data.max_seq_length == 32


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--task_name=mrpc"], "required: --model_name_or_path"),
        (["--model_name_or_path=m"], "No data: pass `task_name`"),
        ([*NEEDED, "--prune_ration=0.3"], r"unknown argument `--prune_ration`. Did you mean `--prune_ratio`\?"),
        ([*NEEDED, "--prune"], "unknown argument `--prune`"),
        (["stray", *NEEDED], "unknown argument `stray`"),
        ([*NEEDED, "--prune_ratio=1.5"], r"`prune_ratio` must be in \[0, 1\), got 1.5"),
        ([*NEEDED, "--window=1"], "`window` must be"),
        ([*NEEDED, "--seed=x"], "argument --seed: invalid int value: 'x'"),
        ([*NEEDED, "--scope=all"], "argument --scope: invalid choice: 'all'"),
        ([*NEEDED, "--eval_strategy=sometimes"], "sometimes"),
        ([*NEEDED, "--max_train_samples=0"], "`max_train_samples` must be at least 1, got 0"),
        ([*NEEDED, "--max_eval_samples=-1"], "`max_eval_samples` must be at least 1, got -1"),
        ([*NEEDED, "--max_seq_length=0"], "`max_seq_length` must be at least 1, got 0"),
        ([*NEEDED, "--task_name=imagenet"], "`imagenet` is no task of GLUE"),
        ([*NEEDED, "--do_predict"], "`do_predict` is not offered"),
        ([*NEEDED, "--do_train=false", "--do_eval=false"], "Nothing to do"),
        ([*NEEDED, "--dataset_name=d", "--train_file=t.csv"], "two sources of data"),
        ([*NEEDED, "--validation_file=v.csv"], "`validation_file` needs `train_file`"),
        ([*NEEDED, "--train_file=t.csv"], "`train_file` needs `validation_file`"),
    ],
)
def test_wrong_arguments_are_refused(argv: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        parse_arguments(argv)


def test_a_file_is_checked_as_flags_are(tmp_path: Path):
    file = tmp_path / "arguments.json"
    with pytest.raises(FileNotFoundError, match=r"arguments\.json"):
        parse_arguments([str(file)])
    for text, message in (
        ("{", "can't be read"),
        ('["seed"]', "must hold arguments by name, got a list"),
        (
            json.dumps({"model_name_or_path": "m", "task_name": "rte", "prune_ration": 1}),
            "Did you mean `--prune_ratio`",
        ),
        (json.dumps({"task_name": "rte"}), "required: --model_name_or_path"),
        (json.dumps({"model_name_or_path": "m", "task_name": "rte", "seed": "x"}), "invalid int value"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            parse_arguments([str(file)])
    (tmp_path / "arguments.yaml").write_text("seed: [1")
    with pytest.raises(ValueError, match="can't be read"):
        parse_arguments([str(tmp_path / "arguments.yaml")])


def test_training_alone_needs_no_validation_file():
    arguments = parse_arguments(["--model_name_or_path=m", "--train_file=t.csv", "--do_eval=false"])
    assert not arguments.training.do_eval


@pytest.mark.parametrize("group", [ModelArguments, DataArguments, RunArguments, WormConfig])
def test_every_field_has_a_help(group: type):
    assert all(field.metadata.get("help", "").endswith(".") for field in dataclasses.fields(group))


def test_help_shows_every_argument(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        parse_arguments(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for group in (ModelArguments, DataArguments, RunArguments, WormConfig):
        assert all(f"--{field.name}" in text for field in dataclasses.fields(group))
