"""Find the checkpoint that a run is resumed from, and read what it holds of a retraining."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from hf_worm.checkpoint.state import Saved, load_run
from hf_worm.checkpoint.whole import require_whole
from hf_worm.config import WormConfig
from hf_worm.ticket import Ticket

Checkpoint = str | os.PathLike[str] | bool | None  # what may be resumed from; `True`: the last in `output_dir`
# Settings that another run of the ticket may change.
RETRAINING = (
    *("retrain_epochs", "retrain_schedule", "compact", "search_share"),
    *("distillation", "distillation_temperature"),
)


def find_checkpoint(resume_from_checkpoint: Checkpoint, output_dir: str) -> str | None:
    """Return the folder of the checkpoint that is meant; `None` to begin.

    Args:
        resume_from_checkpoint (`str`, `os.PathLike` or `bool`, *optional*):
            A folder, or `True` for the last one in `output_dir`.
        output_dir (`str`): The run's folder.

    Raises:
        ValueError: The checkpoint is not whole, or there is none.
    """
    if resume_from_checkpoint is None or resume_from_checkpoint is False:
        return None
    if resume_from_checkpoint is True:
        last: str | None = get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None  # type: ignore[no-untyped-call]
        if last is None:
            raise ValueError(f"There is no checkpoint in {output_dir} to resume from.")
        resume_from_checkpoint = last
    checkpoint = os.fspath(cast(str, resume_from_checkpoint))
    require_whole(checkpoint)
    return checkpoint


def find_resumed(step: int, log: list[dict[str, Any]], folders: Iterable[str | None]) -> Path:
    """Find the checkpoint that a Trainer has resumed from, which it does not tell callbacks.

    Args:
        step (`int`): Optimizer steps at the checkpoint.
        log (`list[dict[str, Any]]`): The Trainer's `log_history` as it was loaded.
        folders (`Iterable[str]`): Folders that hold it, or are it; the run's own comes first.

    Raises:
        ValueError: None of them has that log.
    """
    name = f"{PREFIX_CHECKPOINT_DIR}-{step}"
    first, *others = (Path(folder) for folder in folders if folder)
    places = [first / name, *(place for folder in others for place in (folder, folder / name))]
    for folder in places:
        if (folder / TRAINER_STATE_NAME).is_file() and load_trainer_state(folder).log_history == log:
            return folder
    raise ValueError(
        f"Can't find the checkpoint of step {step} that this training resumes from: {places[0]} is not it. Name it in "
        "the arguments as well: `TrainingArguments(resume_from_checkpoint=...)`."
    )


def load_trainer_state(checkpoint: str | os.PathLike[str]) -> TrainerState:
    """Read the `TrainerState` of a checkpoint."""
    state: TrainerState = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
    return state


def load_search(checkpoint: str) -> Saved:
    """Read a checkpoint of a search.

    Raises:
        ValueError: The checkpoint is of the retraining.
    """
    saved = load_run(checkpoint)
    if saved.ticket is not None:
        raise ValueError(f"{checkpoint} is of the retraining: resume it with `train` or `retrain`.")
    return saved


def load_retraining(checkpoint: str, config: WormConfig) -> Saved:
    """Read a checkpoint of a retraining like the one that the settings ask for.

    Raises:
        ValueError: The checkpoint is of the search, or of a retraining of another kind.
    """
    saved = load_run(checkpoint)
    if saved.ticket is None:
        raise ValueError(f"{checkpoint} is of the search: resume it with `train` or `search_ticket`.")
    drawn = ["speedup"] if "search" in saved.progress.steps else []  # a ticket that was given has its own
    for name in ("retrain_schedule", "compact", *drawn):
        theirs, now = getattr(saved.ticket.config, name), getattr(config, name)
        if theirs != now:
            raise ValueError(
                f"{checkpoint} is of a retraining with `{name}={theirs!r}`, this trainer has {now!r}. Resume with the "
                "saved setting, or start anew."
            )
    return saved._replace(ticket=retrained_as(saved.ticket, config))


def retrained_as(ticket: Ticket, config: WormConfig) -> Ticket:
    """Have a ticket, which may be another run's, say that it is retrained as the settings have it."""
    retraining = {name: getattr(config, name) for name in RETRAINING}
    if all(getattr(ticket.config, name) == value for name, value in retraining.items()):
        return ticket
    return replace(ticket, config=replace(ticket.config, **retraining))
