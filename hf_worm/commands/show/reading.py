"""Finds the files that a run has left, and makes one record of those that belong together."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from hf_worm.config import CONFIG_NAME, WormConfig
from hf_worm.files import find_file
from hf_worm.report.metrics import is_number
from hf_worm.report.progress import STATE_NAME
from hf_worm.report.reading import TrainerLog, read_report, read_results, read_state, read_trainer_log
from hf_worm.report.record import Record, Status
from hf_worm.report.worm_report import REPORT_NAME, RESULTS
from hf_worm.ticket import HISTORY_NAME, TICKET_NAME, read_history, read_masks, shares_pruned
from hf_worm.trainer.checkpoint import newest_finished, newest_whole

T = TypeVar("T")
RESULTS_OF_ANY = "all_results.json"  # `Trainer.save_metrics` writes it
KEPT = ("prune_ratio", "scope", "window", "layers")  # a run keeps these settings when it is resumed


def read_run(path: str) -> Record:
    """Read an output folder, a checkpoint, or a saved or pushed model.

    Args:
        path (`str`): A folder, or the id of a repository on the Hub.

    Raises:
        ValueError: There is nothing of hf_worm's in it that can be read, nor the log of another `Trainer`.
        OSError: A file can't be read, or `path` is neither a folder nor a repository with a ticket.
    """
    folder = Path(path)
    if folder.is_file():
        raise ValueError(f"{path} is a file. Name the folder that it lies in.")
    if not folder.is_dir():
        find_file(path, TICKET_NAME)  # says what is wrong: there is no such repository, no network, no permission
    found = _Files(path)
    if found.best is not None:
        return _joined(found, found.best)
    dense = None if found.notes else _read_dense(folder)
    if dense is not None:
        return dense
    raise ValueError(
        f"{path} holds nothing of hf_worm's that can be shown: no `{REPORT_NAME}`, no ticket with its "
        f"`{CONFIG_NAME}`, no whole checkpoint of a run that searched; nor a `{TRAINER_STATE_NAME}` of another "
        f"`Trainer`.{''.join(f' {note}' for note in found.notes)}"
    )


@dataclass
class _Files:
    """What there is in a place, of whichever run.

    Attributes:
        report, state, ticket (`Record`, *optional*): What each of a run's files says.
        checkpoint (`Path`, *optional*): The folder that `state` is from.
        logs (`list`): The log of the place, and that of its newest whole checkpoint.
        notes (`list[str]`): What is damaged.
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
        )

    def _read_checkpoint(self, folder: Path) -> None:
        """Read the folder itself, if it is a checkpoint, or the newest whole one in it."""
        self.checkpoint = folder if (folder / STATE_NAME).is_file() else self._newest(folder)
        if self.checkpoint is None:
            return
        try:
            if self.checkpoint != folder:
                self.logs.append(read_trainer_log(self.checkpoint / TRAINER_STATE_NAME))
            self.state = read_state(self.checkpoint, self.logs[-1])
        except ValueError as error:
            self.notes.append(str(error))

    def _newest(self, folder: Path) -> Path | None:
        whole = newest_whole(folder)
        last: str | None = get_last_checkpoint(folder)  # type: ignore[no-untyped-call]
        if last is not None and (Path(last) / STATE_NAME).is_file() and whole != Path(last):
            self.notes.append(
                f"{last} is not whole, and passed over: the run was killed while it wrote it, or is writing it."
            )
        return whole


def _joined(found: _Files, best: Record) -> Record:
    """Make one record of the files that are of the same run as `best`; say in its notes what is left out."""
    notes, ticket, state, logs = found.notes, found.ticket, found.state, found.logs
    if ticket is not None and not (_begins(ticket, best) and _begins(best, ticket)):
        notes.append(f"The ticket is of another run than the rest of {found.path}, and left out.")
        ticket = None
    if state is not None and not _begins(state, best):
        notes.append(
            f"{found.checkpoint} is of another run than `{REPORT_NAME}` or the ticket, and left out: show it alone."
        )
        state, logs = None, logs[:1]
    known = [log for log in logs if log is not None]
    fitting = [log for log in known if log.fits(best)]
    if len(fitting) < len(known):
        notes.append(f"A `{TRAINER_STATE_NAME}` of another run is left out.")
    newest = max(fitting, key=lambda log: log.steps, default=None)
    parts = [part for part in (ticket, state) if part is not None and part.observations == best.observations]
    masks = next((part.masks for part in parts if part.masks), {})
    record = replace(
        best,
        path=found.path,
        status=_status(best, state),
        phases={**(state.phases if state else {}), **best.phases},
        metrics=best.metrics or (state.metrics if state else {}),
        masks=masks,
        layers=shares_pruned(masks) or best.layers,
        log=newest.log if newest else [],
    )
    return replace(record, notes=[*notes, *_missing(record, newest)])


def _begins(earlier: Record, whole: Record) -> bool:
    """Tell whether `earlier` can be an earlier state of the run of which `whole` is a later one."""
    settings, others = ([getattr(record.config, name) for name in KEPT] for record in (earlier, whole))
    return settings == others and earlier.observations == whole.observations[: len(earlier.observations)]


def _status(best: Record, state: Record | None) -> Status:
    if best.status == "finished" or state is None or state.status != "retraining":
        return best.status
    return "retraining"


def _missing(record: Record, log: TrainerLog | None) -> list[str]:
    """Say what isn't there, and what can't be shown for that."""
    notes = []
    if record.account is None:
        when = "; it comes with the draw" if record.status == "searching" else ""
        notes.append(f"No `{REPORT_NAME}`: the share of the whole model is not known{when}.")
    if record.converged is None:
        notes.append(f"No `{HISTORY_NAME}`: what the search observed is not known.")
    if not record.masks:
        notes.append(f"No `{TICKET_NAME}` (`trainer.save_model()` writes it), nor a checkpoint with it: no masks.")
    done = int(sum(phase.get("steps", 0) for phase in record.phases.values()))
    if log is None:
        notes.append(
            f"No `{TRAINER_STATE_NAME}` (`trainer.save_state()` writes it), nor a checkpoint with it: no losses, no "
            "evaluations but those around the draw; steps and epochs of the observations follow from the settings."
        )
    elif log.steps < done:
        notes.append(f"The log ends at step {log.steps} of {done}: `trainer.save_state()` was not called at the end.")
    return notes


def _read_dense(folder: Path) -> Record | None:
    """Read the run of a `Trainer` that prunes nothing from its log; `None` where there is none."""
    if any((folder / name).exists() for name in RESULTS):
        return None
    with_state = folder if (folder / TRAINER_STATE_NAME).is_file() else newest_finished(folder)
    if with_state is None:
        return None
    trainer = read_trainer_log(with_state / TRAINER_STATE_NAME)
    if trainer.searched:
        return None
    # With `include_num_input_tokens_seen`, losses are logged with the time so far.
    ends = [entry["train_runtime"] for entry in trainer.log if "train_loss" in entry and "train_runtime" in entry]
    took = list(filter(is_number, ends))
    training = {"steps": trainer.steps, "epochs": trainer.epochs, **({"seconds": sum(took)} if took else {})}
    return Record(
        path=str(folder),
        status="dense",
        config=WormConfig(prune_ratio=0.0),
        converged=None,
        phases={"search": training},
        log=[*trainer.log, *read_results(with_state / RESULTS_OF_ANY, trainer)],
    )
