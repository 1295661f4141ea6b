"""Find and check checkpoints: one that a killed run left half written, or that was damaged since, is refused."""

import json
import math
import re
import zipfile
from itertools import chain
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME

from hf_worm.checkpoint.state import OlderRunError, load_run

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
TRAINING = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")  # without them the parent would begin anew, silently


def require_whole(folder: str) -> None:
    """Refuse a checkpoint that is not whole, and name the newest one before it that is.

    Args:
        folder (`str`): The checkpoint's folder.

    Raises:
        ValueError: A file of it is missing or damaged.
    """
    try:
        _check(Path(folder))
    except OlderRunError:
        raise
    except ValueError as error:
        previous = whole_before(Path(folder))
        advice = (
            f"The newest whole checkpoint before it is {previous}: pass it as `resume_from_checkpoint`."
            if previous is not None
            else "There is no whole checkpoint before it: begin anew."
        )
        raise ValueError(f"{error} {advice}") from error


def whole_before(folder: Path) -> Path | None:
    """The newest whole checkpoint beside `folder` that has fewer steps; `None` where there is none."""
    return newest_whole(folder.resolve().parent, _steps(folder))


def newest_whole(folder: Path, below: float = math.inf) -> Path | None:
    """The newest whole checkpoint in a run's folder; `None` where there is none.

    Args:
        folder (`Path`): The folder that holds the checkpoints.
        below (`float`, *optional*): It has fewer optimizer steps than this.
    """
    for checkpoint in _newest_first(folder):
        if _steps(checkpoint) >= below:
            continue
        try:
            _check(checkpoint)
        except ValueError:
            continue
        return checkpoint
    return None


def newest_finished(folder: Path) -> Path | None:
    """The newest checkpoint in a run's folder that was written to its end; `None` where there is none.

    Args:
        folder (`Path`): The folder that holds the checkpoints, of any `Trainer`.
    """
    return next((entry for entry in _newest_first(folder) if (entry / TRAINER_STATE_NAME).is_file()), None)


def _newest_first(folder: Path) -> list[Path]:
    found = [entry for entry in folder.glob("checkpoint-*") if entry.is_dir() and _steps(entry) > -1]
    return sorted(found, key=_steps, reverse=True)


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"Can't resume from {folder}: there is no such folder.")
    state = folder / TRAINER_STATE_NAME
    if not state.is_file():  # the last file that is written
        raise ValueError(
            f"Can't resume from {folder}: it holds no `{state.name}`, so the run ended before the checkpoint was whole."
        )
    try:
        json.loads(state.read_bytes())["global_step"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"Can't resume from {folder}: `{state.name}` is damaged ({error!r}).") from error
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"Can't resume from {folder}: `{file.name}` is damaged ({error}).") from error
    saved = {pattern: sorted(folder.glob(pattern)) for pattern in TRAINING}
    missing = [pattern for pattern, files in saved.items() if not files]
    if 0 < len(missing) < len(TRAINING):  # all of them: `save_only_model`
        raise ValueError(f"Can't resume from {folder}: it holds no `{missing[0]}`.")
    for file in chain.from_iterable(saved.values()):
        if not zipfile.is_zipfile(file):  # as PyTorch writes them; what ends a zip file stands at its end
            raise ValueError(f"Can't resume from {folder}: `{file.name}` is damaged (cut off, or no file of PyTorch).")
    load_run(folder)


def _steps(folder: Path) -> int:
    match = CHECKPOINT.fullmatch(folder.name)
    return -1 if match is None else int(match[1])
