"""What is read of each kind of folder, and what is said where a part is missing, damaged or of another run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from short_runs import Kill, Runs
from training import BATCHNORMS, QUERY_AND_KEY, examples, report, worm_trainer
from transformers import BertForSequenceClassification

from hf_worm import Ticket, WormTrainer
from hf_worm.commands.show.reading import read_run
from hf_worm.report.terminal import run_text

TICKET_FILES = ("ticket.safetensors", "worm_config.json", "worm_history.json")


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def same_masks(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run(runs: Runs) -> None:
    record, written, ticket = read_run(str(runs.bert)), report(runs.bert), Ticket.from_pretrained(runs.bert)
    assert (record.status, record.converged, record.notes) == ("finished", True, [])
    assert (record.config, record.observations) == (ticket.config, ticket.history)
    assert same_masks(record.masks, ticket.masks)
    assert record.metrics == written["metrics"]
    assert record.account == written["account"]
    assert record.layers == written["layers"] == dict.fromkeys(QUERY_AND_KEY, 0.5)
    for phase in ("search", "draw", "retrain"):
        cost = {name: written[phase][name] for name in ("epochs", "steps", "seconds") if name in written[phase]}
        assert record.phases[phase] == cost


def test_a_run_whose_script_saved_nothing(runs: Runs) -> None:
    assert {path.name for path in runs.bare.iterdir()} == {"worm_report.json"}
    record = read_run(str(runs.bare))
    assert (record.status, record.converged, record.masks, record.log) == ("finished", False, {}, [])
    assert len(record.observations) == 5
    assert record.layers == report(runs.bare)["layers"] and len(set(record.layers.values())) > 1, "scope is global"
    ticket, log = record.notes
    assert ticket.startswith("No `ticket.safetensors` (`trainer.save_model()`")
    assert log.startswith("No `trainer_state.json` (`trainer.save_state()`")


def test_without_its_log_a_run_has_that_of_the_last_checkpoint(runs: Runs, copied: Any) -> None:
    record = read_run(str(runs.cnn))
    assert record.status == "finished" and set(record.masks) == {f"{name}.weight" for name in BATCHNORMS}
    assert (record.losses()[-1][0], record.notes) == (24, [])
    folder = copied(runs.cnn)
    shutil.copy(runs.cnn / "checkpoint-15" / "trainer_state.json", folder)
    assert read_run(str(folder)).log == record.log, "the longer of the two"
    (folder / "trainer_state.json").unlink()
    shutil.rmtree(folder / "checkpoint-24")
    record = read_run(str(folder))
    assert record.losses()[-1][0] == 14
    assert record.notes == ["The log ends at step 15 of 24: `trainer.save_state()` was not called at the end."]


def test_a_search_that_was_killed(runs: Runs) -> None:
    record = read_run(str(runs.searching))
    assert (record.status, record.converged, record.account, record.metrics) == ("searching", False, None, {})
    assert len(record.observations) == 2 and set(record.masks) == set(QUERY_AND_KEY)
    assert record.phases["search"]["steps"] == 16 and record.phases["search"]["epochs"] == 2
    assert record.phases["search"]["seconds"] > 0
    assert record.losses()[-1][0] == 16
    assert record.notes == ["No `worm_report.json`: the share of the whole model is not known; it comes with the draw."]


def test_a_retraining_that_was_killed(runs: Runs) -> None:
    record = read_run(str(runs.retraining))
    assert (record.status, record.converged) == ("retraining", True)
    assert set(record.metrics) == {"before_draw", "drawn"}
    assert record.account == report(runs.retraining)["account"]
    assert (record.phases["search"]["steps"], record.phases["retrain"]["steps"]) == (24, 6)
    assert same_masks(record.masks, Ticket.from_pretrained(runs.retraining / "checkpoint-30").masks)
    assert record.notes == []


@pytest.mark.parametrize(("step", "status", "observed"), [(10, "searching", 1), (30, "retraining", 3)])
def test_a_single_checkpoint(runs: Runs, step: int, status: str, observed: int) -> None:
    record = read_run(str(runs.retraining / f"checkpoint-{step}"))
    assert (record.status, len(record.observations)) == (status, observed)
    assert sum(phase.get("steps", 0) for phase in record.phases.values()) == step
    assert [note.split(":")[0] for note in record.notes] == ["No `worm_report.json`"]


def test_a_checkpoint_that_is_not_whole_is_passed_over(runs: Runs, copied: Any) -> None:
    folder = copied(runs.searching)
    (folder / "checkpoint-16" / "trainer_state.json").unlink()
    record = read_run(str(folder))
    assert (record.phases["search"]["steps"], len(record.observations)) == (8, 1)
    assert record.notes[0].startswith(f"{folder / 'checkpoint-16'} is not whole, and passed over")
    alone = read_run(str(folder / "checkpoint-16"))
    assert len(alone.observations) == 2 and "steps" not in alone.phases["search"]
    assert any(note.startswith("No `trainer_state.json`") for note in alone.notes)


def test_a_checkpoint_before_the_first_observation(runs: Runs, copied: Any) -> None:
    record = read_run(str(copied(runs.retraining) / "checkpoint-5"))
    assert (record.status, record.observations, record.masks, record.layers) == ("searching", [], {}, {})


def test_a_ticket_alone(runs: Runs, copied: Any) -> None:
    record = read_run(str(copied(runs.bert, *TICKET_FILES)))
    assert (record.status, record.converged) == ("ticket", True)
    assert record.layers == dict.fromkeys(QUERY_AND_KEY, 0.5)
    assert [note.split("`")[1] for note in record.notes] == ["worm_report.json", "trainer_state.json"]


def test_the_parts_of_a_ticket_alone_are_named(runs: Runs, copied: Any) -> None:
    folder = copied(runs.bert, *TICKET_FILES)
    parts = {"score": "fisher", "select": "layer", "schedule": "early_bird", "treatment": "gradient"}
    rewrite(folder / "worm_history.json", lambda content: content.update(parts=parts))
    record = read_run(str(folder))
    assert record.parts == parts and record.method.line.startswith("WORM (Fisher score, p 0.5,")
    rewrite(folder / "worm_history.json", lambda content: content.update(parts=["fisher"]))
    record = read_run(str(folder))
    assert record.parts == {} and "`parts` must hold names, got ['fisher']" in record.notes[0]


def test_a_ticket_that_no_search_has_found_is_of_no_method(runs: Runs, copied: Any) -> None:
    folder = copied(runs.bert, *TICKET_FILES)
    rewrite(folder / "worm_history.json", lambda content: content.update(observations=[], converged=False, parts={}))
    text = run_text(read_run(str(folder)))
    assert "Masks that were given: no search has found them" in text and "WORM" not in text
    assert "Settings\n  prune_ratio=0.5, layers=['query', 'key']\n" in text


def test_a_retraining_of_a_ticket_from_elsewhere_that_was_killed(
    runs: Runs, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = worm_trainer(bert, tmp_path, save_strategy="steps", save_steps=4, callbacks=[kill := Kill(6, False)])
    kill.trainer, trainer.ticket = trainer, Ticket.from_pretrained(runs.bert)
    with pytest.raises(KeyboardInterrupt):
        trainer.retrain()
    record = read_run(str(tmp_path))
    assert record.status == "retraining" and record.searched == 0
    assert [(epoch.phase, epoch.number, epoch.step) for epoch in record.epochs()] == [("retrain", 1, 4)]


def test_a_ticket_without_its_history(runs: Runs, copied: Any) -> None:
    record = read_run(str(copied(runs.bert, *TICKET_FILES[:2])))
    assert (record.status, record.converged, record.observations) == ("ticket", None, [])
    assert "No `worm_history.json`: what the search observed is not known." in record.notes


def test_a_ticket_without_its_settings(runs: Runs, copied: Any) -> None:
    with pytest.raises(ValueError, match=r"no ticket with its `worm_config.json`"):
        read_run(str(copied(runs.bert, "ticket.safetensors")))


def cached(folder: Path, cache: Path, repo: str) -> None:
    """What the Hub's client keeps of a repository that it has downloaded."""
    root = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / ("0" * 40))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)


def test_a_repository_on_the_hub(runs: Runs, copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cached(copied(runs.bert, *TICKET_FILES), tmp_path, "me/pruned")
    record = read_run("me/pruned")
    assert record.status == "ticket" and same_masks(record.masks, Ticket.from_pretrained(runs.bert).masks)
    cached(copied(runs.cnn, *TICKET_FILES, "worm_report.json"), tmp_path, "me/whole")
    assert read_run("me/whole").account == report(runs.cnn)["account"]
    with pytest.raises(OSError):
        read_run("me/nothing")


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        ("{", "worm_report.json is damaged or not JSON"),
        ("[]", "worm_report.json is damaged, or no report of a run"),
        ({"config": {"prune_ratio": 2}}, "`prune_ratio` must be in [0, 1), got 2"),
        ({"account": {}}, "worm_report.json is damaged, or no report of a run: KeyError('pruned_weights')"),
        ({"layers": []}, "worm_report.json is damaged, or no report of a run: AttributeError"),
    ],
    ids=str,
)
def test_a_damaged_report_is_told_and_the_rest_is_shown(runs: Runs, copied: Any, damage: Any, note: str) -> None:
    folder = copied(runs.bert)
    path = folder / "worm_report.json"
    if isinstance(damage, dict):
        rewrite(path, lambda content: content.update(damage))
    else:
        path.write_text(damage)
    record = read_run(str(folder))
    assert note in record.notes[0]
    assert record.status == "retraining" and record.metrics == {
        stage: values for stage, values in report(runs.bert)["metrics"].items() if stage != "retrained"
    }, "the last checkpoint knows the evaluations before it"


@pytest.mark.parametrize("name", ["ticket.safetensors", "worm_config.json", "worm_history.json", "trainer_state.json"])
def test_another_damaged_file_is_told_and_the_rest_is_shown(runs: Runs, copied: Any, name: str) -> None:
    folder = copied(runs.bert)
    (folder / name).write_bytes(b"\0" * 100)
    record = read_run(str(folder))
    assert record.status == "finished" and record.account is not None
    assert [note for note in record.notes if str(folder / name) in note] != []
    assert set(record.masks) == set(QUERY_AND_KEY), "the last checkpoint has them too"


def test_damaged_states_of_checkpoints(runs: Runs, copied: Any) -> None:
    folder = copied(runs.searching)
    (folder / "checkpoint-16" / "worm_state.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match=r"holds nothing of hf_worm's that can be shown.*is damaged"):
        read_run(str(folder / "checkpoint-16"))
    rewrite(folder / "checkpoint-8" / "trainer_state.json", lambda content: content.pop("log_history"))
    with pytest.raises(ValueError, match=r"trainer_state.json is damaged: KeyError\('log_history'\)"):
        read_run(str(folder))


def test_a_ticket_of_another_run_is_left_out(runs: Runs, copied: Any) -> None:
    folder = copied(runs.bare)
    for name in TICKET_FILES:
        shutil.copy(runs.bert / name, folder)
    record = read_run(str(folder))
    assert record.masks == {} and record.config.truncation == 1
    assert record.notes[0] == f"The ticket is of another run than the rest of {folder}, and left out."


def test_checkpoints_and_logs_of_another_run_are_left_out(runs: Runs, copied: Any) -> None:
    folder = copied(runs.bare)
    shutil.copytree(runs.searching / "checkpoint-8", folder / "checkpoint-8")  # the same but for its settings
    record = read_run(str(folder))
    assert (record.masks, record.log) == ({}, [])
    assert record.notes[0].startswith(f"{folder / 'checkpoint-8'} is of another run than")
    shutil.copy(runs.bert / "trainer_state.json", folder)
    record = read_run(str(folder))
    assert record.log == [] and "A `trainer_state.json` of another run is left out." in record.notes


def test_what_is_not_of_hf_worm(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds nothing of hf_worm's that can be shown"):
        read_run(str(tmp_path))
    with pytest.raises(ValueError, match=r"is a file\. Name the folder"):
        read_run(str(runs.bert / "worm_report.json"))
    with pytest.raises(OSError, match="neither a folder nor the id"):
        read_run(str(tmp_path / "no" / "where"))


@pytest.mark.parametrize("phases", ["all", "one by one", "none"])
def test_losses_that_are_logged_with_the_time_so_far(
    bert: BertForSequenceClassification, tmp_path: Path, phases: str
) -> None:
    settings = {"include_num_input_tokens_seen": "all", "logging_steps": 2}
    trainer = worm_trainer(bert, tmp_path, num_train_epochs=4, **settings)
    if phases == "none":
        trainer = WormTrainer(model=bert, args=trainer.args, train_dataset=examples())
    if phases == "one by one":
        trainer.search_ticket()
        trainer.draw_ticket()
        trainer.retrain()
    else:
        took = trainer.train().metrics["train_runtime"]
    trainer.save_model()
    trainer.save_state()
    run = read_run(str(tmp_path))
    assert [step for step, _ in run.losses()] == list(range(2, 34, 2)) and len(run.epochs()) == 4
    assert phases != "none" or run.phases["search"]["seconds"] == took


def test_a_run_without_pruning(runs: Runs, copied: Any) -> None:
    record = read_run(str(runs.plain))
    state = json.loads((runs.plain / "trainer_state.json").read_text())
    results = json.loads((runs.plain / "all_results.json").read_text())
    seconds = next(entry["train_runtime"] for entry in state["log_history"] if "train_runtime" in entry)
    assert record.phases == {"search": {"steps": 16, "epochs": 2.0, "seconds": seconds}}
    assert (record.status, record.drawn, record.observations, record.masks) == ("dense", False, [], {})
    assert record.last_evaluation() == {name: results[f"eval_{name}"] for name in ("accuracy", "loss")}
    assert [epoch.number for epoch in record.epochs()] == [1, 2]
    logged = copied(runs.plain)
    (logged / "all_results.json").unlink()
    evaluated = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert read_run(str(logged)).last_evaluation()["loss"] == evaluated[-1]
    killed = copied(runs.plain / "checkpoint-8")
    assert read_run(str(killed)).phases["search"]["steps"] == 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("all_results.json", "[1]", "must hold a JSON object of metrics, got a list"),
        ("all_results.json", "{", "damaged"),
        ("trainer_state.json", "{}", "damaged"),
        ("worm_report.json", "{}", "holds nothing of hf_worm's"),
    ],
)
def test_damaged_files_of_a_run_without_pruning(name: str, content: str, message: str, runs: Runs, copied: Any) -> None:
    folder = copied(runs.plain)
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_run(str(folder))


def test_the_log_alone_of_a_run_that_searched_is_none_without_pruning(runs: Runs, copied: Any) -> None:
    with pytest.raises(ValueError, match="holds nothing of hf_worm's"):
        read_run(str(copied(runs.bert, "trainer_state.json")))
