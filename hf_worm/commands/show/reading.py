"""Reads a run: makes one record of the files that belong together."""

from dataclasses import replace
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from hf_worm.checkpoint.whole import newest_finished
from hf_worm.commands.show.files import Files
from hf_worm.config import CONFIG_NAME, WormConfig
from hf_worm.files import find_file
from hf_worm.report.metrics import is_number
from hf_worm.report.reading import TrainerLog, read_results, read_trainer_log
from hf_worm.report.record import Record, Status
from hf_worm.report.worm_report import REPORT_NAME, RESULTS
from hf_worm.ticket import HISTORY_NAME, TICKET_NAME, shares_pruned

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
    found = Files(path)
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


def _joined(found: Files, best: Record) -> Record:
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
