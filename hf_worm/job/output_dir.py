"""The folder that a run writes to: begun, refused, overwritten or resumed from."""

import re
import shutil
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from hf_worm.config import CONFIG_NAME
from hf_worm.hub import REPORT_NAME
from hf_worm.ticket import HISTORY_NAME, TICKET_NAME

CHECKPOINT = re.compile(r"checkpoint-\d+")
# What would be taken for a result of the new run where it does not write the file itself.
RESULTS = (TICKET_NAME, CONFIG_NAME, HISTORY_NAME, REPORT_NAME, "all_results.json", "trainer_state.json")


def find_checkpoint(training: TrainingArguments, overwrite: bool) -> str | None:
    """The checkpoint to resume from, `None` to begin; refuses to train in a folder that holds something.

    Args:
        training (`TrainingArguments`):
            Its `resume_from_checkpoint` is a checkpoint's folder, or `true` or `last` for the last one in `output_dir`.
        overwrite (`bool`): Whether what an earlier run left in `output_dir` may go.

    Raises:
        ValueError: The folder is not empty, is a file, or holds no checkpoint to resume from.
        FileNotFoundError: There is no such checkpoint.
    """
    folder = Path(str(training.output_dir))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output_dir` {folder} is a file, not a folder.")
    resume = training.resume_from_checkpoint if training.do_train else None
    if resume is None or resume.lower() == "false":
        if training.do_train and folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise ValueError(
                f"`output_dir` {folder} exists and is not empty. Pass `--resume_from_checkpoint last` to go on with "
                "the run in it, `--overwrite_output_dir` to begin anew, or another `--output_dir`."
            )
        return None
    if overwrite:
        raise ValueError("`overwrite_output_dir` begins anew, `resume_from_checkpoint` goes on: pass one of them.")
    if resume.lower() not in ("true", "last"):
        if not (Path(resume) / "trainer_state.json").is_file():
            raise FileNotFoundError(f"`resume_from_checkpoint` {resume} is no folder of a checkpoint.")
        return resume
    last: str | None = get_last_checkpoint(folder) if folder.is_dir() else None  # type: ignore[no-untyped-call]
    if last is None:
        raise ValueError(
            f"There is no checkpoint in {folder} to resume from: begin with `--overwrite_output_dir`, and see "
            "`--save_strategy`."
        )
    return last


def clear(folder: Path) -> None:
    """Remove the checkpoints and results of an earlier run: a resumed run would take them for its own."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and CHECKPOINT.fullmatch(entry.name):
            shutil.rmtree(entry)
        elif entry.name in RESULTS:
            entry.unlink()
