"""The folder that a run writes to: begun, refused, overwritten or resumed from."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_worm.checkpoint.state import STATE_NAME
from hf_worm.checkpoint.whole import CHECKPOINT
from hf_worm.report import worm_report
from hf_worm.report.trade_off import TRADE_OFF_FIGURE, TRADE_OFF_NAME
from hf_worm.trainer.distillation import DENSE

EVALUATED = ("all_results.json", "eval_results.json")  # what evaluating alone writes
# What would be taken for a result of the new run where it does not write the file itself.
RESULTS = (
    *(*worm_report.RESULTS, *EVALUATED, "train_results.json", "trainer_state.json"),
    *(TRADE_OFF_NAME, TRADE_OFF_FIGURE),
)
# By one of these a checkpoint is known for a Trainer's, though the run was killed while it wrote it; the last is
# what a pruning run writes first.
TRAINERS = ("trainer_state.json", "training_args.bin", STATE_NAME)
# By one of these the model before the draw is known, for a distillation.
MODELS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)


def find_checkpoint(training: TrainingArguments, overwrite: bool, inputs: Iterable[str | None] = ()) -> str | None:
    """Find the checkpoint to resume from, `None` to begin; refuse to train in a folder that holds something.

    Args:
        training (`TrainingArguments`):
            Its `resume_from_checkpoint` is a checkpoint's folder, or `true` or `last` for the last one in `output_dir`.
        overwrite (`bool`): Whether what an earlier run left in `output_dir` may go.
        inputs (`Iterable[str]`, *optional*): Folders and files that the run reads; what is none of them is passed over.

    Raises:
        ValueError:
            The folder is not empty, is a file, holds no checkpoint to resume from, something to overwrite that no run
            has written or that this run reads, or, without training, the results of another run.
        FileNotFoundError: There is no such checkpoint.
        PermissionError: The folder can't be written to.
    """
    folder = Path(str(training.output_dir))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output_dir` {folder} is a file, not a folder.")
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"`output_dir` {folder} can't be written to.")
    if not training.do_train:
        if folder.is_dir():
            _refuse_other_run(folder, inputs)
        return None
    resume = training.resume_from_checkpoint
    if resume is None or resume.lower() == "false":
        if folder.is_dir():
            _refuse_to_begin(folder, overwrite, inputs)
        return None
    if overwrite:
        raise ValueError("`overwrite_output_dir` begins anew, `resume_from_checkpoint` goes on: pass one of them.")
    return _last(folder) if resume.lower() in ("true", "last") else _checkpoint(resume)


def _checkpoint(name: str) -> str:
    if not (Path(name) / "trainer_state.json").is_file():
        raise FileNotFoundError(f"`resume_from_checkpoint` {name} is no folder of a checkpoint.")
    return name


def _last(folder: Path) -> str:
    last: str | None = get_last_checkpoint(folder) if folder.is_dir() else None  # type: ignore[no-untyped-call]
    if last is None:
        raise ValueError(
            f"There is no checkpoint in {folder} to resume from: begin with `--overwrite_output_dir`, and see "
            "`--save_strategy`."
        )
    return last


def _refuse_to_begin(folder: Path, overwrite: bool, inputs: Iterable[str | None]) -> None:
    """Refuse to train in a folder that holds an earlier run which is to stay, or anything that is no run's."""
    _refuse_inputs(folder, inputs)
    if any(folder.iterdir()) and not overwrite:
        raise ValueError(
            f"`output_dir` {folder} exists and is not empty. Pass `--resume_from_checkpoint last` to go on "
            "with the run in it, `--overwrite_output_dir` to begin anew, or another `--output_dir`."
        )
    _refuse_foreign(folder)


def _refuse_other_run(folder: Path, inputs: Iterable[str | None]) -> None:
    """Refuse to write an evaluation among the results of a run that trained another model."""
    own = [Path(os.path.expanduser(name)).resolve() for name in filter(None, inputs)]
    if any(path.exists() and path.is_relative_to(folder.resolve()) for path in own):
        return
    trained = [entry.name for entry in folder.iterdir() if _goes(entry.name) and entry.name not in EVALUATED]
    if trained:
        raise ValueError(
            f"`output_dir` {folder} holds a run that trained (`{sorted(trained)[0]}`), among whose results those of "
            "this evaluation don't belong. Pass another `--output_dir`."
        )


def _refuse_inputs(folder: Path, inputs: Iterable[str | None]) -> None:
    """Refuse to write over what the run reads: the model that it begins with, or its data."""
    for name in filter(None, inputs):
        path = Path(os.path.expanduser(name)).resolve()
        if not path.exists() or not path.is_relative_to(folder.resolve()):
            continue
        inside = path.relative_to(folder.resolve()).parts
        if not inside or _goes(inside[0]):
            raise ValueError(
                f"`output_dir` {folder} holds {name}, which the run reads and would write over or remove. Pass another "
                "`--output_dir`."
            )


def _refuse_foreign(folder: Path) -> None:
    """Refuse what has the name of something that a run writes, and is something else."""
    for entry in folder.iterdir():
        if entry.is_symlink() and entry.is_file():
            foreign = "is a link: a run would write over what it leads to"
        elif not _goes(entry.name):
            continue
        elif not _is_folder(entry.name):
            foreign = "is a folder, where a run writes a file" if entry.is_dir() else ""
        elif entry.is_symlink() or not entry.is_dir():
            foreign = "is no folder"
        else:
            marks = MODELS if entry.name == DENSE else TRAINERS
            known = any((entry / name).is_file() for name in marks) or not any(entry.iterdir())
            foreign = "" if known else f"is no checkpoint of a run: it holds none of {', '.join(marks)}"
        if foreign:
            raise ValueError(f"`output_dir` {folder} holds `{entry.name}`, which {foreign}. Move it away first.")


def _goes(name: str) -> bool:
    return _is_folder(name) or name in RESULTS


def _is_folder(name: str) -> bool:
    """True if a run writes a folder of that name."""
    return name == DENSE or CHECKPOINT.fullmatch(name) is not None


def clear(folder: Path) -> None:
    """Remove the checkpoints and results of an earlier run: a resumed run would take them for its own."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and _is_folder(entry.name):
            shutil.rmtree(entry)
        elif entry.name in RESULTS:
            entry.unlink()
