"""A script in the style of Hugging Face's `run_glue.py` becomes a WORM script by its import and one argument."""

import csv
import runpy
import sys
from difflib import ndiff
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_models import STAGES, VOCABULARY, half_is_zero, sentences, small_tokenizer
from training import QUERY_AND_KEY, report, small_bert
from transformers import AutoModelForSequenceClassification, BertModel

from hf_worm import Ticket

PLAIN = Path(__file__).with_name("run_classification.py")
IMPORT = (
    "    Trainer,\n    TrainingArguments,\n    set_seed,\n)\n",
    "    TrainingArguments,\n    set_seed,\n)\nfrom hf_worm import WormConfig, WormTrainer as Trainer\n",
)
ARGUMENT = (
    "        args=training_args,\n",
    "        args=training_args,\n        worm_config=WormConfig(stopping_point=0.5),\n",
)


def with_worm(script: str) -> str:
    for old, new in (IMPORT, ARGUMENT):
        assert script.count(old) == 1
        script = script.replace(old, new)
    return script


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """The arguments of a run but for its output folder: a small BERT and pairs of sentences that agree or don't."""
    texts = sentences(96)
    for name, start, count in (("train", 0, 32), ("validation", 32, 16)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sentence1", "sentence2", "label"])
            for first, second in zip(texts[start : start + count], texts[start + 48 :], strict=False):
                writer.writerow([first, second, "agree" if first.split()[2] == second.split()[2] else "differ"])
    BertModel(small_bert(vocab_size=len(VOCABULARY), max_position_embeddings=32)).save_pretrained(tmp_path / "bert")
    small_tokenizer().save_pretrained(tmp_path / "bert")
    settings: dict[str, Any] = {
        "model_name_or_path": tmp_path / "bert",
        "train_file": tmp_path / "train.csv",
        "validation_file": tmp_path / "validation.csv",
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "report_to": "none",
    }
    given = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [*given, "--do_train", "--do_eval", "--use_cpu", "--disable_tqdm", "True"]


def run(script: Path, flags: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [str(script), *flags, "--output_dir", str(folder)])
    return runpy.run_path(str(script), run_name="__main__")


def test_the_scripts_differ_by_an_import_and_an_argument() -> None:
    plain = PLAIN.read_text()
    lines = ndiff(plain.splitlines(), with_worm(plain).splitlines())
    assert [line for line in lines if line[0] in "+-"] == [
        "-     Trainer,",
        "+ from hf_worm import WormConfig, WormTrainer as Trainer",
        "+         worm_config=WormConfig(stopping_point=0.5),",
    ]


def test_both_scripts_run_to_the_end(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, worm = tmp_path / "plain", tmp_path / "worm"
    run(PLAIN, flags, plain, monkeypatch)
    script = tmp_path / "run_worm.py"
    script.write_text(with_worm(PLAIN.read_text()))
    run(script, flags, worm, monkeypatch)

    files = [{path.name for path in folder.iterdir() if path.is_file()} for folder in (plain, worm)]
    assert {"README.md", "all_results.json", "model.safetensors", "trainer_state.json"} <= files[0]
    assert files[1] - files[0] == {"ticket.safetensors", "worm_config.json", "worm_history.json", "worm_report.json"}
    assert files[0] <= files[1]

    ticket = Ticket.from_pretrained(worm)
    assert list(ticket.masks) == QUERY_AND_KEY
    assert half_is_zero(load_file(worm / "model.safetensors"), ticket)
    assert all(bool((load_file(plain / "model.safetensors")[name] != 0).all()) for name in QUERY_AND_KEY)
    assert report(worm)["search"]["converged"]
    assert list(report(worm)["metrics"]) == STAGES
    assert all("accuracy" in found for found in report(worm)["metrics"].values())
    assert "## Pruning" in (worm / "README.md").read_text()
    assert "## Pruning" not in (plain / "README.md").read_text()
    loaded = AutoModelForSequenceClassification.from_pretrained(worm)
    assert loaded.config.id2label == {0: "agree", 1: "differ"}
    assert half_is_zero(loaded.state_dict(), ticket)
