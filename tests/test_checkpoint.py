"""What is no whole checkpoint is not resumed from, and the newest whole one before it is named."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training import checkpoints, same_weights, small_bert, weights, worm_trainer
from transformers import BertForSequenceClassification

from hf_worm import WormConfig
from hf_worm.checkpoint.whole import require_whole, whole_before
from hf_worm.files import copy_code

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints after each of three epochs of search and one of retraining: 8, 16, 24, 32."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    worm_trainer(BertForSequenceClassification(small_bert()), folder, save_strategy="epoch").train()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def cut(name: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def without(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def other_format(folder: Path) -> None:
    path = folder / "worm_state.safetensors"
    path.write_bytes(path.read_bytes().replace(b"hf_worm.state.v2", b"hf_worm.state.v9"))


EVERY: dict[str, tuple[Damage, str]] = {
    "weights cut": (cut("model.safetensors"), "`model.safetensors` is damaged"),
    "state cut": (cut("worm_state.safetensors"), "`worm_state.safetensors` is damaged"),
    "state missing": (without("worm_state.safetensors"), "holds no `worm_state.safetensors`"),
    "state of another version": (other_format, "its format is 'hf_worm.state.v9', this version of hf_worm reads"),
    "optimizer cut": (cut("optimizer.pt"), "`optimizer.pt` is damaged"),
    "optimizer missing": (without("optimizer.pt"), "holds no `optimizer.pt`"),
    "schedule cut": (cut("scheduler.pt"), "`scheduler.pt` is damaged"),
    "schedule missing": (without("scheduler.pt"), "holds no `scheduler.pt`"),
    "random numbers cut": (cut("rng_state.pth"), "`rng_state.pth` is damaged"),
    "random numbers missing": (without("rng_state.pth"), r"holds no `rng_state\*.pth`"),
    "trainer's state cut": (cut("trainer_state.json"), "`trainer_state.json` is damaged"),
    "trainer's state missing": (without("trainer_state.json"), "the run ended before the checkpoint was whole"),
    "empty": (lambda folder: [path.unlink() for path in folder.iterdir()], "the run ended before"),
}
RETRAINING: dict[str, tuple[Damage, str]] = {
    "ticket missing": (without("ticket.safetensors"), "holds no `ticket.safetensors`"),
    "ticket cut": (cut("ticket.safetensors"), "`ticket.safetensors` is damaged"),
    "history cut": (cut("worm_history.json"), "worm_history.json is damaged or not JSON"),
    "settings missing": (without("worm_config.json"), "holds no `worm_config.json`"),
}


def test_every_checkpoint_of_a_run_is_whole(run: Path) -> None:
    assert [folder.name for folder in checkpoints(run)] == [f"checkpoint-{steps}" for steps in (8, 16, 24, 32)]
    for folder in checkpoints(run):
        require_whole(str(folder))
    assert whole_before(run / "checkpoint-32") == run / "checkpoint-24"
    assert whole_before(run / "checkpoint-8") is None


@pytest.mark.parametrize(("damage", "message"), EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("name", ["checkpoint-16", "checkpoint-32"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_named(
    run: Path, name: str, damage: Damage, message: str
) -> None:
    damage(run / name)
    with pytest.raises(ValueError, match=rf"Can't resume from .*{name}.*{message}") as refusal:
        require_whole(str(run / name))
    before = run / f"checkpoint-{int(name[11:]) - 8}"
    assert f"whole checkpoint before it is {before}: pass it as `resume_from_checkpoint`" in str(refusal.value)


@pytest.mark.parametrize(("damage", "message"), RETRAINING.values(), ids=RETRAINING)
def test_a_checkpoint_of_the_retraining_needs_its_ticket(run: Path, damage: Damage, message: str) -> None:
    damage(run / "checkpoint-32")
    with pytest.raises(ValueError, match=rf"Can't resume from .*{message}"):
        require_whole(str(run / "checkpoint-32"))


def test_damaged_ones_before_it_are_passed_over(run: Path) -> None:
    for name in ("checkpoint-32", "checkpoint-24"):
        cut("model.safetensors")(run / name)
    (run / "checkpoint-best").mkdir()
    (run / "checkpoint-30").write_text("a file")
    with pytest.raises(ValueError, match=r"is .*checkpoint-16: pass it"):
        require_whole(str(run / "checkpoint-32"))
    for name in ("checkpoint-16", "checkpoint-8"):
        without("optimizer.pt")(run / name)
    with pytest.raises(ValueError, match="There is no whole checkpoint before it: begin anew"):
        require_whole(str(run / "checkpoint-32"))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no such folder\. There is no whole checkpoint before it"):
        require_whole(str(tmp_path / "nowhere" / "checkpoint-8"))


def test_weights_alone_are_whole_where_the_run_saves_no_more(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    worm_trainer(bert, tmp_path, save_strategy="epoch", save_only_model=True).train()
    for folder in checkpoints(tmp_path):
        assert not (folder / "optimizer.pt").exists()
        require_whole(str(folder))


@pytest.mark.parametrize("resume", [True, "checkpoint-32"])
def test_training_refuses_it_and_goes_on_from_the_one_it_names(
    bert: BertForSequenceClassification, tmp_path: Path, resume: Any
) -> None:
    def trainer() -> Any:
        return worm_trainer(copy.deepcopy(bert), tmp_path, WormConfig(stopping_point=0.5), save_strategy="epoch")

    whole = trainer()
    whole.train()
    without("trainer_state.json")(tmp_path / "checkpoint-32")
    begun = trainer()
    before = weights(begun.model)
    with pytest.raises(ValueError, match=r"whole checkpoint before it is (\S*checkpoint-24)") as refusal:
        begun.train(resume_from_checkpoint=resume if resume is True else str(tmp_path / resume))
    assert same_weights(weights(begun.model), before), "nothing was loaded"
    named = str(refusal.value).partition("before it is ")[2].partition(":")[0]
    again = trainer()
    again.train(resume_from_checkpoint=named)
    assert same_weights(weights(again.model), weights(whole.model))
    assert json.loads((tmp_path / "checkpoint-32" / "trainer_state.json").read_text())["global_step"] == 32


def test_a_models_own_code_goes_with_its_weights(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "modeling.py").write_text("x = 1\n")
    (checkpoint / "config.json").write_text("{}")
    copy_code(str(checkpoint), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["modeling.py"]
