import dataclasses
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from small_command import SMALL, Data, Model, SmallArguments

from hf_worm import WormConfig
from hf_worm.commands.job.arguments import RunArguments
from hf_worm.commands.job.parsing import parse
from hf_worm.commands.output import error_line

NEEDED = ["--width=8"]


def parsed(*argv: object) -> SmallArguments:
    return parse(SMALL, [str(argument) for argument in argv])


def test_defaults_are_the_commands_then_the_papers_and_the_trainers():
    arguments = parsed(*NEEDED)
    assert arguments.worm == WormConfig(layers=["value"])
    assert arguments.training.learning_rate == 1e-3
    assert arguments.training.num_train_epochs == 3
    assert arguments.training.do_train and arguments.training.do_eval
    assert arguments.training.output_dir == "runs/32"
    assert (arguments.model, arguments.data, arguments.run) == (Model(8), Data(), RunArguments())


def test_flags_and_files_override_the_commands_defaults(tmp_path: Path):
    arguments = parsed(*NEEDED, "--layers", "query", "key", "--learning_rate=0.5")
    assert (arguments.worm, arguments.training.learning_rate) == (WormConfig(), 0.5)
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({"width": 8, "layers": ["query", "key"], "learning_rate": 0.5}))
    arguments = parsed(file)
    assert (arguments.worm, arguments.training.learning_rate) == (WormConfig(), 0.5)


def test_what_is_done_to_one_runs_arguments_leaves_the_next_ones_alone():
    command = replace(SMALL, defaults={"layers": ["value"], "lr_scheduler_kwargs": {"min_lr": 0.1}})
    arguments = parse(command, NEEDED)
    assert arguments.worm is not None and isinstance(arguments.training.lr_scheduler_kwargs, dict)
    arguments.worm.layers.append("key")
    arguments.training.lr_scheduler_kwargs.clear()
    arguments = parse(command, NEEDED)
    assert arguments.worm == WormConfig(layers=["value"])
    assert arguments.training.lr_scheduler_kwargs == {"min_lr": 0.1}


def test_every_group_is_parsed():
    arguments = parsed(
        *NEEDED, "--truncation", 1, "--layers", "query", "value", "--weight_decay", "1e-3", "--rows=64",
        "--do_train", "--do_eval", "--output-dir", "x", "--ignore_mismatched_sizes", "--overwrite_output_dir",
    )  # fmt: skip
    assert arguments.worm == WormConfig.eb_train(layers=["query", "value"])
    assert arguments.training.weight_decay == 1e-3
    assert arguments.data.rows == 64
    assert arguments.training.output_dir == "x"
    assert arguments.model.ignore_mismatched_sizes
    assert arguments.run.overwrite_output_dir


def test_dense_runs_have_no_worm_settings():
    assert parsed(*NEEDED, "--dense").worm is None


def test_the_output_folder_comes_from_what_was_parsed():
    assert parsed(*NEEDED, "--rows=5").training.output_dir == "runs/5"


JSON = """{"width": 8, "rows": 16, "weight_decay": 2e-5, "layers": ["query", "value"], "stopping_point": 0.1,
"eval_strategy": "no", "cache_dir": null, "do_eval": false, "dataloader_pin_memory": true,
"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}}"""
YAML = """
width: 8
rows: 16
weight_decay: 2e-5    # YAML 1.1 reads a string here
layers: [query, value]
stopping_point: 1e-1
eval_strategy: no     # and false here
cache_dir: null
do_eval: no
dataloader_pin_memory: true
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs:
  min_lr: 1e-6
"""


@pytest.mark.parametrize(("suffix", "text"), [("json", JSON), ("yaml", YAML), ("yml", YAML)])
def test_a_file_says_what_flags_say(tmp_path: Path, suffix: str, text: str):
    file = tmp_path / f"arguments.{suffix}"
    file.write_text(text)
    arguments = parsed(file)
    assert (arguments.model, arguments.data) == (Model(8), Data(16))
    assert arguments.worm == WormConfig(layers=["query", "value"], stopping_point=0.1)
    assert arguments.training.weight_decay == 2e-5
    assert arguments.training.eval_strategy == "no"
    assert arguments.training.do_eval is False
    assert arguments.training.lr_scheduler_kwargs == {"min_lr": 1e-6}


def test_flags_after_a_file_override_it(tmp_path: Path):
    file = tmp_path / "arguments.json"
    file.write_text(JSON)
    arguments = parsed(file, "--seed=7", "--layers", "key", "--rows", 4)
    assert arguments.training.seed == 7
    assert arguments.worm == WormConfig(layers=["key"], stopping_point=0.1)
    assert arguments.data.rows == 4


def test_a_file_can_hold_lists_that_no_flag_can(tmp_path: Path):
    file = tmp_path / "arguments.yaml"
    file.write_text("width: 8\nreport_to: []\ninclude_for_metrics: []\n")
    assert parsed(file).training.report_to == [] and parsed(file).training.include_for_metrics == []
    file.write_text("width: 8\nreport_to: [tensorboard, mlflow]\ninclude_for_metrics: [loss, inputs]\n")
    training = parsed(file).training
    assert training.report_to == ["tensorboard", "mlflow"] and training.include_for_metrics == ["loss", "inputs"]
    assert parsed(file, "--report_to=none").training.report_to == []
    for text, message in (
        ("rows: [1, 2]", r"`rows` in .*arguments.yaml must be a single value, got the list"),
        ("layers: []", "`layers` is empty"),
        ("lairs: [query]", "Did you mean `--layers`"),
        ("lairs: []", "Did you mean `--layers`"),
    ):
        file.write_text(f"width: 8\n{text}\n")
        with pytest.raises(ValueError, match=message):
            parsed(file)


def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = parsed(*NEEDED, "--cache_dir=~/cache", "--output_dir=~/out", "--model_revision=a~b")
    assert arguments.model.cache_dir == str(tmp_path / "cache")
    assert (arguments.training.output_dir, arguments.model.model_revision) == (str(tmp_path / "out"), "a~b")


@pytest.mark.parametrize("empty", ["", "~", "null", "Null", "NULL"])
def test_what_a_file_leaves_empty_is_not_given(tmp_path: Path, empty: str):
    (tmp_path / "a.yaml").write_text(f"cache_dir: {empty}\nmax_steps: {empty}\nlearning_rate: 1e-3\n")
    arguments = parsed(tmp_path / "a.yaml", *NEEDED)
    assert (arguments.model.cache_dir, arguments.training.max_steps) == (None, -1)
    assert arguments.training.learning_rate == 1e-3


def test_a_file_of_another_editor(tmp_path: Path):
    file = tmp_path / "arguments.JSON"
    file.write_text(JSON, encoding="utf-8-sig")
    assert (
        parsed(file).worm == parsed(file, "--seed=7").worm == WormConfig(layers=["query", "value"], stopping_point=0.1)
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: --width"),
        (["--rwos=3"], r"unknown argument `--rwos`. Did you mean `--rows`\?"),
        (["--seed=1", "--no_sorted"], "required: --width"),
        (["--weight-decay=0.1", "--no-sorted"], "required: --width"),
        (["--seed", "1", "arguments.yaml"], "A file of arguments goes first, ahead of all flags: arguments.yaml"),
        ([*NEEDED, "--prune_ration=0.3"], r"unknown argument `--prune_ration`. Did you mean `--prune_ratio`\?"),
        ([*NEEDED, "--row=3"], r"unknown argument `--row`. Did you mean `--rows`\?"),
        ([*NEEDED, "--prune"], "unknown argument `--prune`"),
        (["stray", *NEEDED], "unknown argument `stray`"),
        ([*NEEDED, "--prune_ratio=1.5"], r"`prune_ratio` must be in \[0, 1\), got 1.5"),
        ([*NEEDED, "--window=1"], "`window` must be"),
        ([*NEEDED, "--seed=x"], "argument --seed: invalid int value: 'x'"),
        ([*NEEDED, "--scope=all"], r"`scope` must be one of \('layer', 'global'\), or n of m such as '2:4', got 'all'"),
        ([*NEEDED, "--eval_strategy=sometimes"], "sometimes"),
        ([*NEEDED, "--rows=0"], "`rows` must be at least 1, got 0"),
        ([*NEEDED, "--do_predict"], r"`do_predict` is not offered: all rows have labels\."),
        ([*NEEDED, "--do_train=false", "--do_eval=false"], "Nothing to do"),
        ([*NEEDED, "--sorted"], "`sorted` leaves nothing to evaluate"),
    ],
)
def test_wrong_arguments_are_refused(argv: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        parsed(*argv)


def test_a_file_is_checked_as_flags_are(tmp_path: Path):
    file = tmp_path / "arguments.json"
    with pytest.raises(FileNotFoundError, match=r"arguments\.json"):
        parsed(file)
    for text, message in (
        ("{", "can't be read"),
        ('["seed"]', "must hold arguments by name, got a list"),
        (json.dumps({"width": 8, "prune_ration": 1}), "Did you mean `--prune_ratio`"),
        (json.dumps({"prune_ration": 1}), "Did you mean `--prune_ratio`"),
        (json.dumps({"rows": 16}), "required: --width"),
        (json.dumps({"width": 8, "seed": "x"}), "invalid int value"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            parsed(file)
    (tmp_path / "arguments.yaml").write_text("seed: [1")
    with pytest.raises(ValueError, match="can't be read"):
        parsed(tmp_path / "arguments.yaml")


def test_help_shows_every_argument_with_the_commands_defaults(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        parsed("--help")
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: hf-worm small [ARGUMENTS.json")
    assert "Learn an order.\n\nThe arguments can stand in a JSON or YAML file" in text
    for group in (Model, Data, RunArguments, WormConfig):
        assert all(f"--{field.name}" in text for field in dataclasses.fields(group))
    words = " ".join(text.split())
    assert "neurons@*.layer.[6-9].* are those of some layers. (default: ['value'])" in words
    places = [text.index(f"\n{group}:\n") for group in ("model", "data", "run", "pruning", "options")]
    assert places == sorted(places), "the hundred fields of `TrainingArguments` come last"
    epochs = (
        "Epochs of the search, at the most; retrain_epochs come after them, save where retrain_schedule is continue. "
        "With search_share, which --speedup sets, the epochs of the whole run."
    )
    assert f"{epochs} (default: 3.0)" in words


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ('WormConfig(layers=["batchnorm"])', "--layers batchnorm"),
        ("WormConfig(layers=['neurons', 'heads'])", "--layers neurons heads"),
        ('WormConfig(layers=["query", "*.c_attn.weight"])', "--layers query '*.c_attn.weight'"),
        ("WormConfig(truncation_target='update')", "--truncation_target update"),
    ],
)
def test_the_flag_stands_beside_a_setting(setting: str, flag: str):
    line = error_line("hf-worm glue", ValueError(f"It won't do.\nFor example `{setting}`."))
    assert line == f"hf-worm glue: error: It won't do. For example `{setting}` (here: `{flag}`)."
    words = shlex.split(flag.removeprefix("--"))
    config = eval(setting, {"WormConfig": WormConfig})
    assert getattr(config, words[0]) in (words[1:], words[-1])


@pytest.mark.parametrize("message", ["`WormConfig.eb_train()`", "`WormConfig(layers=[...])`", "`WormConfig(window=3)`"])
def test_what_is_no_setting_of_words_stays(message: str):
    assert error_line("hf-worm", ValueError(message)) == f"hf-worm: error: {message}"
