from pathlib import Path

import pytest
from training import worm_trainer
from transformers import BertForSequenceClassification, TrainingArguments

from hf_worm.commands.job.output_dir import clear, find_checkpoint


def training(folder: Path, resume: str | None = None) -> TrainingArguments:
    return TrainingArguments(output_dir=str(folder), resume_from_checkpoint=resume, use_cpu=True, do_train=True)


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A folder with two checkpoints, results and a file of somebody else's."""
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    for name in ("worm_report.json", "ticket.safetensors", "all_results.json", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "checkpoint-notes").mkdir()
    return tmp_path


def test_a_missing_or_empty_folder_is_begun(tmp_path: Path):
    assert find_checkpoint(training(tmp_path), overwrite=False) is None
    assert find_checkpoint(training(tmp_path / "new"), overwrite=False) is None


def test_a_used_folder_is_refused_or_given_up(used: Path):
    with pytest.raises(ValueError, match=r"exists and is not empty\. Pass `--resume_from_checkpoint last`"):
        find_checkpoint(training(used), overwrite=False)
    assert find_checkpoint(training(used), overwrite=True) is None
    with pytest.raises(ValueError, match="exists and is not empty"):
        find_checkpoint(training(used, "false"), overwrite=False)


def test_evaluation_alone_leaves_the_results_of_another_run(used: Path, tmp_path: Path):
    arguments = training(used, "last")
    arguments.do_train = False
    with pytest.raises(ValueError, match=r"holds a run that trained \(`checkpoint-10`\)"):
        find_checkpoint(arguments, overwrite=True, inputs=["bert-base-uncased", str(tmp_path / "elsewhere")])
    for own in (used, used / "checkpoint-10"):
        assert find_checkpoint(arguments, overwrite=False, inputs=[str(own)]) is None, "what it trained"
    evaluated = training(tmp_path / "evaluated", "last")
    evaluated.do_train = False
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated" / "eval_results.json").write_text("{}")
    assert find_checkpoint(evaluated, overwrite=False) is None, "an earlier evaluation"


@pytest.mark.parametrize("word", ["last", "true", "True"])
def test_the_last_checkpoint_is_found(used: Path, word: str):
    assert find_checkpoint(training(used, word), overwrite=False) == str(used / "checkpoint-10")


def test_a_checkpoint_can_be_named(used: Path):
    named = str(used / "checkpoint-9")
    assert find_checkpoint(training(used, named), overwrite=False) == named
    with pytest.raises(FileNotFoundError, match="checkpoint-11 is no folder of a checkpoint"):
        find_checkpoint(training(used, str(used / "checkpoint-11")), overwrite=False)


def test_nothing_to_resume_from_is_said(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="There is no checkpoint in"):
            find_checkpoint(training(folder, "last"), overwrite=False)


def test_to_resume_and_to_overwrite_exclude_each_other(used: Path):
    with pytest.raises(ValueError, match="pass one of them"):
        find_checkpoint(training(used, "last"), overwrite=True)


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        find_checkpoint(training(tmp_path / "file"), overwrite=True)


def test_clearing_takes_the_earlier_runs_checkpoints_and_results_alone(used: Path):
    clear(used)
    assert sorted(path.name for path in used.iterdir()) == ["checkpoint-notes", "notes.txt"]
    clear(used / "missing")
    assert not (used / "missing").exists()


def test_a_run_that_was_killed_while_it_wrote_its_weights_can_be_begun_anew(
    bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    def cut_off(folder: str, **kwargs: object) -> None:
        bert.config.save_pretrained(folder)
        (Path(folder) / "model.safetensors").write_bytes(b"half of it")
        raise Killed

    monkeypatch.setattr(bert, "save_pretrained", cut_off)
    with pytest.raises(Killed):
        worm_trainer(bert, tmp_path, save_strategy="epoch").train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert (checkpoint / "model.safetensors").read_bytes() == b"half of it"
    assert find_checkpoint(training(tmp_path), overwrite=True) is None
    clear(tmp_path)
    assert not checkpoint.exists()
