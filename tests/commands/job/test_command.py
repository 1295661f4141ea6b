import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_command import SMALL, build
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from hf_worm import WormTrainer
from hf_worm.commands.job.command import Command, _how_to_go_on, main

Run = Callable[..., int]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(out: Path) -> Run:
    """Runs the small command, or one that differs from it, into `out`; keywords are its flags."""

    def go(command: Command[Any, Any] = SMALL, **flags: object) -> int:
        settings = {"width": 8, "output_dir": out, "num_train_epochs": 1, "save_strategy": "no", **flags}
        return main(command, [f"--{name}={value}" for name, value in settings.items() if value is not None])

    return go


def content(file: Path) -> Any:
    return json.loads(file.read_text())


def test_a_run_ends_with_a_table_a_report_a_card_and_a_model(run: Run, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run(num_train_epochs=4, stopping_point=1) == 0
    printed = capsys.readouterr().out
    assert "WORM (p 0.5, r 0.003, s 1, δ 0.005, l 3): 3 observations, converged" in printed
    assert "retrained" in printed
    report = content(out / "worm_report.json")
    assert report["config"]["layers"] == SMALL.defaults["layers"]
    assert content(out / "eval_results.json")["eval_accuracy"] == report["metrics"]["retrained"]["accuracy"]
    assert content(out / "train_results.json")["train_loss"] > 0
    assert "order of 32" in (out / "README.md").read_text()
    assert (out / "model.safetensors").is_file() and (out / "ticket.safetensors").is_file()


def test_dense_is_the_control(run: Run, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run(dense=True) == 0
    assert "Nothing pruned" in capsys.readouterr().out
    assert "eval_accuracy" in content(out / "eval_results.json")
    assert not (out / "worm_report.json").exists()


def test_evaluation_alone_saves_no_model(run: Run, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run(do_train=False) == 0
    table = capsys.readouterr().out.splitlines()[-2:]
    assert table[0].split() == ["accuracy", "loss"] and table[1].startswith("evaluated")
    assert sorted(file.name for file in out.iterdir()) == ["all_results.json", "eval_results.json"]


def test_training_alone_has_no_metrics(run: Run, out: Path, capsys: pytest.CaptureFixture[str]):
    assert run(do_eval=False, sorted=True) == 0
    assert content(out / "worm_report.json")["metrics"] == {}
    assert not (out / "eval_results.json").exists()
    assert "before the draw" in capsys.readouterr().out


def test_the_card_is_pushed_with_the_model_where_it_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch):
    pushed: list[dict[str, object]] = []
    monkeypatch.setattr(WormTrainer, "init_hf_repo", lambda *args, **kwargs: None)
    monkeypatch.setattr(WormTrainer, "push_to_hub", lambda trainer, *args, **card: pushed.append(card))
    assert run(push_to_hub=True) == 0
    assert pushed[-1] == {"dataset": "order of 32"}


def test_a_used_folder_is_refused_resumed_or_overwritten(run: Run, out: Path, capsys: pytest.CaptureFixture[str]):
    flags = {"save_strategy": "epoch", "num_train_epochs": 3}
    assert run(**flags) == 0
    weights = (out / "model.safetensors").read_bytes()
    assert run(**flags) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    checkpoints = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 4  # three of the search, one of the retraining
    for checkpoint in (checkpoints[1], "last"):
        (out / "model.safetensors").unlink()
        assert run(**flags, resume_from_checkpoint=checkpoint) == 0
        assert (out / "model.safetensors").read_bytes() == weights
    assert run(**flags, resume_from_checkpoint="last", dense=True) == 2
    assert "is of a run that prunes" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == weights
    assert run(overwrite_output_dir=True) == 0
    assert get_last_checkpoint(out) is None


def test_a_mistake_is_one_line_and_status_2(run: Run, out: Path, capsys: pytest.CaptureFixture[str]):
    def refuse(*args: object) -> Any:
        raise OSError("the words\nare gone")

    for command, flags, message in (
        (SMALL, {"width": None}, "the following arguments are required: --width"),
        (SMALL, {"sorted": True}, "`sorted` leaves nothing to evaluate."),
        (SMALL, {"resume_from_checkpoint": "last"}, "There is no checkpoint in"),
        (SMALL, {"layers": "nothing"}, "nothing"),
        (replace(SMALL, build=refuse), {}, "the words are gone"),
    ):
        assert run(command, **flags) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("hf-worm small: error: ") and message in last
    assert not any(out.rglob("*"))


class Interrupt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("step", "hint"), [(1, "There is no checkpoint yet"), (5, "--resume_from_checkpoint last")])
def test_ctrl_c_says_how_to_go_on(run: Run, step: int, hint: str, capsys: pytest.CaptureFixture[str]):
    def interrupted(*args: Any) -> Any:
        trainer, task = build(*args)
        trainer.add_callback(Interrupt(step))
        return trainer, task

    assert run(replace(SMALL, build=interrupted), save_strategy="epoch", num_train_epochs=2) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("hf-worm small: interrupted.") and hint in last


def test_ctrl_c_while_a_checkpoint_is_written(run: Run, out: Path, capsys: pytest.CaptureFixture[str]):
    """What a run leaves of it holds no `trainer_state.json`, and can't be resumed from."""

    def interrupted(*args: Any) -> Any:
        trainer, task = build(*args)
        trainer.add_callback(Interrupt(5))
        return trainer, task

    half = out / "checkpoint-99"
    assert run(replace(SMALL, build=interrupted), save_strategy="epoch", num_train_epochs=2) == 130
    capsys.readouterr()
    half.mkdir()
    assert _how_to_go_on(str(out)).startswith(f" To go on: the same command with `--resume_from_checkpoint {out}")
    (out / "checkpoint-4" / "trainer_state.json").unlink()
    assert "no whole checkpoint yet to go on from: `--overwrite_output_dir`" in _how_to_go_on(str(out))


def test_ctrl_c_while_loading_says_no_more_than_that(run: Run, capsys: pytest.CaptureFixture[str]):
    def interrupted(*args: object) -> Any:
        raise KeyboardInterrupt

    assert run(replace(SMALL, build=interrupted)) == 130
    assert capsys.readouterr().err == "\nhf-worm small: interrupted.\n"


def test_a_bug_in_training_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(WormTrainer, "training_step", broken)
    with pytest.raises(ValueError, match="a bug"):
        run()
