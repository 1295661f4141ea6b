import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_data import glue_folder, judgements, write_csv
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_worm import Ticket, WormConfig
from hf_worm.commands.glue.command import GLUE, main
from hf_worm.commands.glue.job import build_trainer
from hf_worm.commands.glue.tasks import TASKS
from hf_worm.commands.job.parsing import parse
from hf_worm.commands.job.task import Task

Flags = Callable[..., list[str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_run_ends_with_a_table_a_report_a_card_and_a_model_with_zeros(
    flags: Flags, out: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(flags(stopping_point=1)) == 0
    printed = capsys.readouterr().out
    assert "WORM (p 0.5, r 0.003, s 1, δ 0.005, l 3): 3 observations, converged" in printed
    for row in ("before the draw", "retrained"):
        assert row in printed
    report = json.loads((out / "worm_report.json").read_text())
    results = {name: json.loads((out / f"{name}_results.json").read_text()) for name in ("train", "eval", "all")}
    assert report["search"]["epochs"] == 3 and report["retrain"]["epochs"] == 1
    assert results["eval"]["eval_accuracy"] == report["metrics"]["retrained"]["accuracy"]
    assert results["train"]["train_loss"] > 0
    card = (out / "README.md").read_text()
    assert "early-bird" in card and "dense" in card
    ticket = Ticket.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out)
    for name, mask in ticket.masks.items():
        assert torch.equal(model.get_parameter(name) == 0, ~mask)
    assert ticket.sparsity == 0.5


def test_what_was_trained_can_be_evaluated_alone(flags: Flags, out: Path, tmp_path: Path):
    assert main(flags(num_train_epochs=2, retrain_epochs=0)) == 0
    trained = json.loads((out / "eval_results.json").read_text())
    weights = (out / "model.safetensors").read_bytes()
    assert main(flags(model_name_or_path=out, do_train=False, layers="none")) == 0  # nothing is pruned
    assert json.loads((out / "eval_results.json").read_text())["eval_loss"] == pytest.approx(trained["eval_loss"])
    assert main(flags(model_name_or_path=out, do_train=False, output_dir=tmp_path / "again")) == 0
    again = json.loads((tmp_path / "again" / "eval_results.json").read_text())
    assert again["eval_loss"] == pytest.approx(trained["eval_loss"])
    assert (out / "model.safetensors").read_bytes() == weights
    assert not (tmp_path / "again" / "model.safetensors").exists()


def test_a_smaller_model_is_evaluated_and_trained_further(
    flags: Flags, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Plain `from_pretrained` can't load it, and `--ignore_mismatched_sizes` would begin its attentions anew."""
    smaller = {"layers": "heads", "compact": "true", "scope": "global"}
    assert main(flags(**smaller)) == 0
    trained = json.loads((out / "worm_report.json").read_text())
    assert trained["loading"]["call"] == "load_compact"
    again = {"model_name_or_path": out, "output_dir": tmp_path / "again"}
    assert main(flags(**again, do_train="false")) == 0
    results = json.loads((tmp_path / "again" / "all_results.json").read_text())
    assert results["eval_loss"] == pytest.approx(trained["metrics"]["retrained"]["loss"], rel=1e-5)
    again["output_dir"] = tmp_path / "further"
    assert main(flags(**again, layers="neurons", compact="true")) == 0
    further = json.loads((tmp_path / "further" / "worm_report.json").read_text())["account"]
    assert further["model_weights"] == trained["account"]["compact_weights"] > further["compact_weights"]
    rows = [{**row, "label": place % 3} for place, row in enumerate(judgements(24))]
    file = write_csv(tmp_path / "three.csv", rows)
    again |= {"output_dir": tmp_path / "three", "train_file": file, "validation_file": file, "num_train_epochs": 1}
    assert main(flags(**again)) == 2
    assert "Pass `--ignore_mismatched_sizes` to begin with a new head" in capsys.readouterr().err
    assert main(flags(**again, ignore_mismatched_sizes=True)) == 0


def test_weights_below_32_bits_are_trained_in_32(flags: Flags, out: Path, tiny_model: Path, tmp_path: Path):
    half = tmp_path / "half"
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(half)
    AutoModelForSequenceClassification.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(half)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Watched weights")
        assert main(flags(model_name_or_path=half, learning_rate=1e-5, num_train_epochs=2)) == 0
    moved = Ticket.from_pretrained(out).history[-1]
    assert load_file(out / "model.safetensors")["classifier.weight"].dtype == torch.float32
    with pytest.warns(UserWarning, match=r"Watched weights are of torch\.bfloat16"):
        main(flags(model_name_or_path=half, dtype="auto", num_train_epochs=2, output_dir=tmp_path / "as it is"))
    saved = load_file(tmp_path / "as it is" / "model.safetensors")
    assert saved["classifier.weight"].dtype == torch.bfloat16 and moved.max_distance is not None


@pytest.mark.parametrize(("positions", "status"), [(6, 2), (7, 0)])
def test_rows_longer_than_the_model_are_refused_before_training(
    positions: int, status: int, flags: Flags, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    short = tmp_path / "short"
    AutoTokenizer.from_pretrained(tiny_model, model_max_length=10**30).save_pretrained(short)
    config = AutoConfig.from_pretrained(tiny_model, max_position_embeddings=positions)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(short)
    rows = [{**row, "sentence": f"{row['sentence']} the"} for row in judgements(16)]  # of 7 tokens
    file = write_csv(tmp_path / "longer.csv", rows)
    files = {"train_file": file, "validation_file": file, "num_train_epochs": 1, "retrain_epochs": 0}
    assert main(flags(model_name_or_path=short, **files)) == status
    assert ("The model has 6 positions, too few for 7 tokens" in capsys.readouterr().err) == bool(status)


def test_training_alone_needs_no_validation_data(flags: Flags, out: Path, capsys: pytest.CaptureFixture[str]):
    assert main(flags(validation_file=None, do_eval=False, num_train_epochs=1)) == 0
    assert json.loads((out / "worm_report.json").read_text())["metrics"] == {}
    assert not (out / "eval_results.json").exists()
    assert "before the draw" in capsys.readouterr().out


def test_a_json_file_runs_as_its_flags_do(flags: Flags, out: Path, tmp_path: Path):
    assert main(flags(num_train_epochs=2)) == 0
    weights = (out / "model.safetensors").read_bytes()
    settings = dict(flag.removeprefix("--").split("=", 1) for flag in flags(num_train_epochs=2))
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({**settings, "num_train_epochs": 2, "use_cpu": True}))
    assert main([str(file), f"--output_dir={tmp_path / 'other'}"]) == 0
    assert (tmp_path / "other" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("task", "keys"), [("sst2", ["accuracy"]), ("mnli", ["matched_accuracy", "mismatched_accuracy"])]
)
def test_tasks_of_glue_run_from_a_local_folder(
    flags: Flags, out: Path, tmp_path: Path, task: str, keys: list[str], capsys: pytest.CaptureFixture[str]
):
    rows = judgements(16)
    if task == "mnli":
        rows = [{"premise": row["sentence"], "hypothesis": "the film", "label": i % 3} for i, row in enumerate(rows)]
    folder = glue_folder(tmp_path, task, rows)
    changes = {"train_file": None, "validation_file": None, "ignore_mismatched_sizes": True}
    assert main(flags(task_name=task, dataset_name=folder, num_train_epochs=1, **changes)) == 0
    assert all(key in json.loads((out / "worm_report.json").read_text())["metrics"]["drawn"] for key in keys)
    assert all(f"eval_{key}" in json.loads((out / "eval_results.json").read_text()) for key in keys)
    assert all(key in capsys.readouterr().out for key in keys[:1])
    card = (out / "README.md").read_text()
    assert f"GLUE {task.upper()}" in card and str(folder) not in card


def test_the_seed_makes_the_new_head(flags: Flags, tmp_path: Path):
    rows = [{**row, "label": f"class {i % 3}"} for i, row in enumerate(judgements(6))]
    file = write_csv(tmp_path / "three.csv", rows)

    def head(seed: int) -> torch.Tensor:
        changes = {"train_file": file, "validation_file": file, "ignore_mismatched_sizes": True}
        arguments = parse(GLUE, flags(seed=seed, **changes))
        return build_trainer(arguments)[0].model.get_parameter("classifier.weight")

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


def test_numbers_make_a_regression(flags: Flags, out: Path, tmp_path: Path):
    rows = [{**row, "label": 0.25 + i} for i, row in enumerate(judgements(16))]
    file = write_csv(tmp_path / "scores.csv", rows)
    changes = {"train_file": file, "validation_file": file, "ignore_mismatched_sizes": True}
    assert main(flags(num_train_epochs=1, **changes)) == 0
    assert {"eval_pearson", "eval_spearmanr"} <= set(json.loads((out / "eval_results.json").read_text()))
    assert AutoModelForSequenceClassification.from_pretrained(out).config.problem_type == "regression"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name_or_path": None}, "--model_name_or_path"),
        ({"model_name_or_path": "./nowhere"}, "./nowhere is a folder that does not exist."),
        ({"model_name_or_path": "nowhere"}, "nowhere"),
        ({"task_name": "mprc"}, "Did you mean `mrpc`?"),
        ({"prune_ratio": 1.5}, "`prune_ratio` must be in [0, 1), got 1.5."),
        ({"layers": "nothing"}, "nothing"),
        ({"train_file": "nowhere.csv"}, "`train_file` nowhere.csv does not exist."),
        ({"train_file": None, "validation_file": None, "dataset_name": "./nowhere"}, "./nowhere"),
        ({"max_train_samples": 0}, "`max_train_samples` must be at least 1, got 0."),
        ({"seeds": 3}, "Did you mean `--seed`?"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end"),
        ({"task_name": "mrpc"}, "no column `sentence1`, `sentence2`"),
        ({"task_name": "stsb", "dense": True}, "no column"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    flags: Flags, out: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(flags(**changes)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("hf-worm glue: error: ") and message in last
    assert not any(out.rglob("*"))


def test_wrong_data_is_one_line_and_status_2(
    flags: Flags, files: dict[str, Path], tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
):
    empty = tmp_path / "empty.csv"
    empty.write_text("sentence,label\n")
    unlabelled = write_csv(tmp_path / "unlabelled.csv", [{"sentence": "a", "label": 0}, {"sentence": "b", "label": -1}])
    for changes, message in (
        ({"train_file": empty}, "`train_file` "),
        ({"validation_file": empty}, "empty.csv is empty: it holds no row."),
        ({"train_file": unlabelled, "task_name": "sst2"}, "is -1, which marks a row without label"),
        ({"validation_file": unlabelled}, "row 2 of the validation split is -1"),
    ):
        assert main(flags(**changes)) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("hf-worm glue: error: ") and message in last
    assert not out.exists()


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("--task_name=mrpc", {"language": "en", "dataset": "GLUE MRPC", "dataset_args": "mrpc"}),
        ("--task_name=mrpc", {"dataset_tags": "nyu-mll/glue"}),
        ("--dataset_name=somebody/reviews", {"dataset_tags": "somebody/reviews"}),
    ],
)
def test_the_card_names_what_is_on_the_hub(source: str, content: dict[str, str]):
    arguments = parse(GLUE, ["--model_name_or_path=m", source])
    task = TASKS.get("mrpc") if "task" in source else Task("custom", ("text",), ("a", "b"), ("accuracy",))
    said = GLUE.card(arguments, task)
    assert content.items() <= said.items()
    assert said["tasks"] == "text-classification"


def test_help_exits_with_0(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    assert "EB Train is" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_papers_script_runs_both_methods(tiny_model: Path, tmp_path: Path):
    rows = [{"sentence1": row["sentence"], "sentence2": "the film", "label": row["label"]} for row in judgements(16)]
    environment = {
        **os.environ,
        "MODEL": str(tiny_model),
        "DATASET": str(glue_folder(tmp_path, "mrpc", rows)),
        "OUTPUT": str(tmp_path / "runs"),
        "SEEDS": "7",
        "EPOCHS": "1",
        "PYTHON": sys.executable,
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    script = Path(__file__).parents[3] / "glue_scripts" / "mrpc.sh"
    done = subprocess.run(
        [script, "--use_cpu", "--max_train_samples=8"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for method, config in (("eb_train", WormConfig.eb_train()), ("worm", WormConfig())):
        assert WormConfig.from_pretrained(tmp_path / "runs" / "mrpc" / f"{method}-7") == config
        assert f"== mrpc: {method}, seed 7" in done.stdout
    assert "EB Train (p 0.5, r 1," in done.stdout and "WORM (p 0.5, r 0.003," in done.stdout
