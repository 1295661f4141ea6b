"""The files that a run has left in a folder or a repository: each is read, if it is there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from hf_worm.checkpoint.state import STATE_NAME, OlderRunError, load_state
from hf_worm.checkpoint.whole import newest_whole
from hf_worm.config import CONFIG_NAME, WormConfig
from hf_worm.files import find_file, read_json
from hf_worm.report.reading import WRONG, TrainerLog, part_names, read_report, read_trainer_log, record_of_state
from hf_worm.report.record import Record
from hf_worm.report.worm_report import REPORT_NAME
from hf_worm.ticket import HISTORY_NAME, TICKET_NAME, read_history, read_masks, shares_pruned

T = TypeVar("T")


@dataclass
class Files:
    """The files in a place, of whichever run.

    Attributes:
        path (`str`): A folder, or the id of a repository on the Hub.
        report, state, ticket (`Record`, *optional*): A record of each of a run's files.
        checkpoint (`Path`, *optional*): The folder that `state` is from.
        logs (`list`): The log of the place, and that of its newest whole checkpoint.
        notes (`list[str]`): Files that are damaged.
    """

    path: str
    report: Record | None = None
    state: Record | None = None
    ticket: Record | None = None
    checkpoint: Path | None = None
    logs: list[TrainerLog | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.report = self._read(REPORT_NAME, read_report)
        self.ticket = self._ticket()
        self.logs = [self._read(TRAINER_STATE_NAME, read_trainer_log)]
        if Path(self.path).is_dir():
            self._read_checkpoint(Path(self.path))

    @property
    def best(self) -> Record | None:
        """The report, or the part that has observed most."""
        parts = [part for part in (self.state, self.ticket) if part is not None]
        return self.report or max(parts, key=lambda part: len(part.observations), default=None)

    def _read(self, name: str, reader: Callable[[Path], T]) -> T | None:
        """Read a file, if it is there; say so in `notes` if it is damaged."""
        try:
            return reader(find_file(self.path, name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            self.notes.append(str(error))
            return None

    def _ticket(self) -> Record | None:
        masks = self._read(TICKET_NAME, read_masks)
        config = self._read(CONFIG_NAME, lambda file: WormConfig.from_pretrained(file.parent))
        history = self._read(HISTORY_NAME, read_history)
        if config is None and self.report is not None:
            config = self.report.config
        if config is None or not (masks or history):
            return None
        observations, converged = history or (self.report.observations if self.report else [], None)
        return Record(
            status="ticket",
            config=config,
            observations=observations,
            converged=converged,
            masks=masks or {},
            layers=shares_pruned(masks or {}),
            parts=(self._read(HISTORY_NAME, _read_parts) or {}) if history else {},
        )

    def _read_checkpoint(self, folder: Path) -> None:
        """Read the folder itself, if it is a checkpoint, or the newest whole one in it."""
        self.checkpoint = folder if (folder / STATE_NAME).is_file() else self._newest(folder)
        if self.checkpoint is None:
            return
        try:
            if self.checkpoint != folder:
                self.logs.append(read_trainer_log(self.checkpoint / TRAINER_STATE_NAME))
            self.state = _read_state(self.checkpoint, self.logs[-1])
        except ValueError as error:
            self.notes.append(str(error))

    def _newest(self, folder: Path) -> Path | None:
        whole = newest_whole(folder)
        last: str | None = get_last_checkpoint(folder)  # type: ignore[no-untyped-call]
        if last is not None and (Path(last) / STATE_NAME).is_file() and whole != Path(last):
            self.notes.append(f"{last} {_why_passed_over(Path(last))}")
        return whole


def _why_passed_over(checkpoint: Path) -> str:
    """Say why the newest checkpoint of a run is not read."""
    try:
        load_state(checkpoint)
    except OlderRunError:
        return "is a checkpoint of hf_worm 0.1, and passed over: of 0.1, reports, tickets and logs are read."
    except ValueError:
        pass  # damaged
    return "is not whole, and passed over: the run was killed while it wrote it, or is writing it."


def _read_parts(path: Path) -> dict[str, str]:
    """Read the names of the search's parts from a `worm_history.json`."""
    history = read_json(path)
    try:
        return part_names(history)
    except WRONG as error:
        raise ValueError(f"{path} is damaged: `parts` must hold names, got {history['parts']!r}.") from error


def _read_state(checkpoint: Path, trainer: TrainerLog | None) -> Record:
    """Read the `worm_state.safetensors` of a checkpoint; its `trainer_state.json` tells how far its phase is."""
    progress, search = load_state(checkpoint)
    try:
        return record_of_state(progress, search, trainer)
    except WRONG as error:
        raise ValueError(f"{checkpoint / STATE_NAME} is damaged: {error!r}.") from error
