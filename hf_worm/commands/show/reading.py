"""Reads a run from the files that it left, as many of them as there are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from hf_worm.checkpoint.state import STATE_NAME, load_state
from hf_worm.checkpoint.whole import newest_finished, newest_whole
from hf_worm.config import CONFIG_NAME, WormConfig
from hf_worm.core.masks import unpack
from hf_worm.core.window import Observation, read_observations
from hf_worm.files import find_file, read_json
from hf_worm.report.account import REPORT_NAME, RESULTS, STAGES, is_number
from hf_worm.report.progress import Progress
from hf_worm.report.record import Record, Status
from hf_worm.report.speed import cost_rows, gains
from hf_worm.ticket import HISTORY_NAME, TICKET_NAME, read_history, read_masks, shares_pruned

T = TypeVar("T")
RESULTS_OF_ANY = "all_results.json"  # `Trainer.save_metrics` writes it
KEPT = ("prune_ratio", "scope", "window", "layers")  # a run keeps these settings when it is resumed
ACCOUNT = ("pruned_weights", "representative_weights", "model_weights", "share_of_representative", "share_of_model")


@dataclass
class _Part:
    """What one of a run's files says of it: the fields are those of [`Record`]."""

    config: WormConfig
    observations: list[Observation]
    converged: bool | None
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)
    account: dict[str, Any] | None = None
    costs: dict[str, Any] | None = None
    retraining: bool = False

    def begins(self, whole: "_Part") -> bool:
        """Whether this can be an earlier state of the run of which `whole` is a later one."""
        settings, others = ([getattr(part.config, name) for name in KEPT] for part in (self, whole))
        return settings == others and self.observations == whole.observations[: len(self.observations)]


@dataclass
class _TrainerState:
    """What of a `trainer_state.json` is shown: steps and epochs done, and the log."""

    steps: int
    epochs: float
    log: list[dict[str, Any]]

    def fits(self, part: _Part) -> bool:
        """Whether this is of the same run as `part`: its log has the same distances, as far as both reach."""
        logged = [entry.get("worm_max_distance") for entry in self.log if "worm_truncating" in entry]
        observed = [seen.max_distance for seen in part.observations]
        both = min(len(logged), len(observed))
        return bool(logged) == bool(observed) and logged[:both] == observed[:both]


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
    notes: list[str] = []
    found = _find(path, notes)
    parts = [part for part in (found.report, found.state, found.ticket) if part is not None]
    if not parts:
        dense = None if notes else _read_dense(folder)
        if dense is not None:
            return dense
        raise ValueError(
            f"{path} holds nothing of hf_worm's that can be shown: no `{REPORT_NAME}`, no ticket with its "
            f"`{CONFIG_NAME}`, no whole checkpoint of a run that searched; nor a `{TRAINER_STATE_NAME}` of another "
            f"`Trainer`.{''.join(f' {note}' for note in notes)}"
        )
    best = found.report or max(parts, key=lambda part: len(part.observations))
    ticket, state, logs = found.ticket, found.state, found.logs
    if ticket is not None and not (ticket.begins(best) and best.begins(ticket)):
        notes.append(f"The ticket is of another run than the rest of {path}, and left out.")
        ticket = None
    if state is not None and not state.begins(best):
        notes.append(
            f"{found.checkpoint} is of another run than `{REPORT_NAME}` or the ticket, and left out: show it alone."
        )
        state, logs = None, logs[:1]
    fitting = [log for log in logs if log is not None and log.fits(best)]
    if len(fitting) < sum(log is not None for log in logs):
        notes.append(f"A `{TRAINER_STATE_NAME}` of another run is left out.")
    newest = max(fitting, key=lambda log: log.steps, default=None)
    masks = next(
        (part.masks for part in (ticket, state) if part and part.masks and part.observations == best.observations), {}
    )
    record = Record(
        path=path,
        status=_status(best, state),
        config=best.config,
        converged=best.converged,
        observations=best.observations,
        phases={**(state.phases if state else {}), **best.phases},
        metrics=best.metrics or (state.metrics if state else {}),
        masks=masks,
        layers=shares_pruned(masks) or best.layers,
        account=best.account,
        costs=best.costs,
        log=newest.log if newest else [],
        notes=notes,
    )
    notes.extend(_missing(record, newest))
    return record


def _read_dense(folder: Path) -> Record | None:
    """The run of a `Trainer` that prunes nothing, from its log; `None` where there is none."""
    if any((folder / name).exists() for name in RESULTS):
        return None
    with_state = folder if (folder / TRAINER_STATE_NAME).is_file() else newest_finished(folder)
    if with_state is None:
        return None
    state = _read_trainer_state(with_state / TRAINER_STATE_NAME)
    if any("worm_truncating" in entry for entry in state.log):
        return None
    log = [*state.log, *_read_results(with_state / RESULTS_OF_ANY, state)]
    # With `include_num_input_tokens_seen`, losses are logged with the time so far.
    took = [
        entry["train_runtime"] for entry in state.log if "train_loss" in entry and is_number(entry.get("train_runtime"))
    ]
    training = {"steps": state.steps, "epochs": state.epochs, **({"seconds": sum(took)} if took else {})}
    return Record(
        path=str(folder),
        status="dense",
        config=WormConfig(prune_ratio=0.0),
        converged=None,
        observations=[],
        phases={"search": training},
        metrics={},
        masks={},
        layers={},
        account=None,
        costs=None,
        log=log,
        notes=[],
    )


def _read_results(path: Path, state: _TrainerState) -> list[dict[str, Any]]:
    """The evaluation that a script made after `trainer.save_state()`, as an entry of the log."""
    if not path.is_file():
        return []
    results = read_json(path)
    if not isinstance(results, dict):
        raise ValueError(f"{path} must hold a JSON object of metrics, got a {type(results).__name__}.")
    evaluated = {name: value for name, value in results.items() if name.startswith("eval_")}
    return [{**evaluated, "step": state.steps, "epoch": state.epochs}] if evaluated else []


class _Found(NamedTuple):
    """What there is, of whichever run; `logs`: of the folder, and of its newest whole checkpoint."""

    report: _Part | None
    state: _Part | None
    ticket: _Part | None
    checkpoint: Path | None
    logs: list[_TrainerState | None]


def _find(path: str, notes: list[str]) -> _Found:
    """Read each file that is there; of one that is damaged, say so in `notes`."""

    def read(name: str, reader: Callable[[Path], T]) -> T | None:
        try:
            return reader(find_file(path, name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            notes.append(str(error))
            return None

    report = read(REPORT_NAME, _read_report)
    masks = read(TICKET_NAME, read_masks)
    config = read(CONFIG_NAME, lambda file: WormConfig.from_pretrained(file.parent))
    history = read(HISTORY_NAME, read_history)
    logs = [read(TRAINER_STATE_NAME, _read_trainer_state)]
    state = None
    checkpoint = _checkpoint(Path(path), notes) if Path(path).is_dir() else None
    if checkpoint is not None:
        try:
            if checkpoint != Path(path):
                logs.append(_read_trainer_state(checkpoint / TRAINER_STATE_NAME))
            state = _read_state(checkpoint, logs[-1])
        except ValueError as error:
            notes.append(str(error))
    if config is None and report is not None:
        config = report.config
    ticket = None
    if config is not None and (masks or history):
        observations, converged = history or (report.observations if report else [], None)
        ticket = _Part(config, observations, converged, masks=masks or {})
    return _Found(report, state, ticket, checkpoint, logs)


def _checkpoint(folder: Path, notes: list[str]) -> Path | None:
    """The folder itself, if it is a checkpoint, or the newest whole one in it."""
    if (folder / STATE_NAME).is_file():
        return folder
    whole = newest_whole(folder)
    last: str | None = get_last_checkpoint(folder)  # type: ignore[no-untyped-call]
    if last is not None and (Path(last) / STATE_NAME).is_file() and whole != Path(last):
        notes.append(f"{last} is not whole, and passed over: the run was killed while it wrote it, or is writing it.")
    return whole


def _status(best: _Part, state: _Part | None) -> Status:
    reported = best.account is not None
    if reported and ("retrain" in best.phases or best.config.retrain_epochs == 0):
        return "finished"
    if state is not None and state.retraining:
        return "retraining"
    if reported:
        return "drawn"
    return "searching" if best is state else "ticket"


def _missing(record: Record, state: _TrainerState | None) -> list[str]:
    """What isn't there, and what can't be shown for that."""
    notes = []
    if record.account is None:
        when = "; it comes with the draw" if record.status == "searching" else ""
        notes.append(f"No `{REPORT_NAME}`: the share of the whole model is not known{when}.")
    if record.converged is None:
        notes.append(f"No `{HISTORY_NAME}`: what the search observed is not known.")
    if not record.masks:
        notes.append(f"No `{TICKET_NAME}` (`trainer.save_model()` writes it), nor a checkpoint with it: no masks.")
    done = int(sum(phase.get("steps", 0) for phase in record.phases.values()))
    if state is None:
        notes.append(
            f"No `{TRAINER_STATE_NAME}` (`trainer.save_state()` writes it), nor a checkpoint with it: no losses, no "
            "evaluations but those around the draw; steps and epochs of the observations follow from the settings."
        )
    elif state.steps < done:
        notes.append(f"The log ends at step {state.steps} of {done}: `trainer.save_state()` was not called at the end.")
    return notes


def _read_report(path: Path) -> _Part:
    report = read_json(path)
    try:
        search = report["search"]
        phases = {name: report[name] for name in ("search", "draw", "retrain") if name in report}
        account = {name: report["account"][name] for name in ACCOUNT}
        if "compact_weights" in report["account"]:
            account["compact_weights"] = report["account"]["compact_weights"]
        if not all(is_number(value) for value in account.values()):
            raise TypeError(f"the account must hold numbers, got {account!r}")
        return _Part(
            config=WormConfig(**report["config"]),
            observations=read_observations(search["observations"]),
            converged=bool(search["converged"]),
            phases={name: _numbers(values) for name, values in phases.items()},
            metrics={stage: _numbers(report["metrics"][stage]) for stage in STAGES if stage in report["metrics"]},
            layers=_numbers(report["layers"]),
            account={**account, "note": str(report["account"]["note"])},
            costs=_costs(report.get("costs")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or no report of a run: {error!r}.") from error


def _costs(costs: Any) -> dict[str, Any] | None:
    """What [`~hf_worm.report.speed.costs`] measured, if it is whole."""
    if costs is None:
        return None
    size = {name: _numbers(counts) for name, counts in costs["size"].items()}
    seconds = {action: {name: _numbers(times[name]) for name in size} for action, times in costs["seconds"].items()}
    cost_rows({"size": size, "seconds": seconds})  # raises where a number is missing
    gains({"size": size, "seconds": seconds})
    return {"size": size, "seconds": seconds}


def _read_state(checkpoint: Path, trainer: _TrainerState | None) -> _Part:
    """What a checkpoint's `worm_state.safetensors` says; how far its phase is, its `trainer_state.json` does."""
    progress, search = load_state(checkpoint)
    try:
        newest = search["window"][-1] if search["window"] else {}
        part = _Part(
            config=WormConfig(**search["config"]),
            observations=read_observations(search["history"]),
            converged=bool(search["history"]) and search["history"][-1]["converged"],
            phases=_phases(progress, trainer),
            metrics={stage: _numbers(metrics) for stage, metrics in progress.metrics.items()},
            masks={name: unpack(mask, search["shapes"][name]) for name, mask in newest.items()},
            retraining=progress.phase == "retrain",
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{checkpoint / STATE_NAME} is damaged: {error!r}.") from error
    part.layers = shares_pruned(part.masks)
    return part


def _phases(progress: Progress, trainer: _TrainerState | None) -> dict[str, dict[str, float]]:
    phases: dict[str, dict[str, float]] = {name: {"seconds": value} for name, value in progress.seconds.items()}
    for name, steps in progress.steps.items():
        phases.setdefault(name, {}).update(steps=steps, epochs=progress.epochs[name])
    if trainer is not None:
        phases.setdefault(progress.phase, {}).update(
            steps=trainer.steps - sum(progress.steps.values()), epochs=trainer.epochs - sum(progress.epochs.values())
        )
    return phases


def _read_trainer_state(path: Path) -> _TrainerState:
    state = read_json(path)
    try:
        log = [entry for entry in state["log_history"] if is_number(entry["step"]) and is_number(entry["epoch"])]
        return _TrainerState(int(state["global_step"]), float(state["epoch"] or 0), log)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}.") from error


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Those that are numbers: a metric may be anything, and a phase holds more than its costs."""
    return {name: value for name, value in values.items() if is_number(value)}
