"""Makes records of what a run writes: its report, the state in a checkpoint, and the log of any Trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_worm.config import WormConfig
from hf_worm.core.masks import unpack
from hf_worm.core.window import read_observations
from hf_worm.files import read_json
from hf_worm.report import tables
from hf_worm.report.log import Entry
from hf_worm.report.metrics import STAGES, is_number, numbers
from hf_worm.report.progress import Progress
from hf_worm.report.record import Record
from hf_worm.report.sentences import gains, speed_line
from hf_worm.ticket import shares_pruned

COUNTS = ("pruned_weights", "representative_weights", "model_weights", "share_of_representative", "share_of_model")
WRONG = (KeyError, TypeError, ValueError, AttributeError)  # what a file of another shape raises


@dataclass(frozen=True)
class TrainerLog:
    """The steps and epochs done and the log, from a `trainer_state.json`."""

    steps: int
    epochs: float
    log: list[Entry]

    @property
    def searched(self) -> bool:
        """Tell whether the log is of a run that searched for a ticket."""
        return any("worm_truncating" in entry for entry in self.log)

    def fits(self, record: Record) -> bool:
        """Tell whether the log is of the run of `record`: it has the same distances, as far as both reach."""
        logged = [entry.get("worm_max_distance") for entry in self.log if "worm_truncating" in entry]
        observed = [observation.max_distance for observation in record.observations]
        both = min(len(logged), len(observed))
        return bool(logged) == bool(observed) and logged[:both] == observed[:both]


def read_report(path: Path) -> Record:
    """Read a `worm_report.json`, of this version or of 0.1.0.

    Raises:
        ValueError: The file is damaged, or no report of a run.
    """
    report = read_json(path)
    try:
        return record_of(report)
    except WRONG as error:
        raise ValueError(f"{path} is damaged, or no report of a run: {error!r}.") from error


def record_of(report: Mapping[str, Any]) -> Record:
    """Make a record of a report, as [`~hf_worm.report.worm_report.build_report`] or a version before made it.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is no report of a run.
    """
    config = WormConfig(**report["config"])
    phases = {name: numbers(report[name]) for name in ("search", "draw", "retrain") if name in report}
    return Record(
        status="finished" if "retrain" in phases or config.retrain_epochs == 0 else "drawn",
        config=config,
        converged=bool(report["search"]["converged"]),
        observations=read_observations(report["search"]["observations"]),
        phases=phases,
        metrics={stage: numbers(report["metrics"][stage]) for stage in STAGES if stage in report["metrics"]},
        layers=numbers(report["layers"]),
        account=_account(report["account"]),
        costs=_costs(report.get("costs")),
        speed=_speed(report.get("speedup")),
        parts=part_names(report),
    )


def _account(account: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: account[name] for name in COUNTS}
    if "compact_weights" in account:
        counts["compact_weights"] = account["compact_weights"]
    if not all(map(is_number, counts.values())):
        raise TypeError(f"the account must hold numbers, got {counts!r}")
    return {**counts, "note": str(account["note"])}


def _costs(costs: Any) -> dict[str, Any] | None:
    """Take what [`~hf_worm.report.speed.costs`] measured, if it is whole."""
    if costs is None:
        return None
    size = {name: numbers(counts) for name, counts in costs["size"].items()}
    seconds = {action: {name: numbers(times[name]) for name in size} for action, times in costs["seconds"].items()}
    whole = {"size": size, "seconds": seconds}
    tables.costs(whole, spread=True)  # raises where a number is missing
    gains(whole)
    return whole


def _speed(speed: Any) -> dict[str, float] | None:
    """Take what was asked for and reached, if it is whole."""
    if speed is None:
        return None
    found = numbers(speed)
    speed_line(found)  # raises where a number is missing
    return found


def record_of_state(progress: Progress, search: Mapping[str, Any], trainer: TrainerLog | None) -> Record:
    """Make a record of the state in a checkpoint.

    Args:
        progress (`Progress`): How far the run is.
        search (`Mapping[str, Any]`): The state of its search.
        trainer (`TrainerLog`, *optional*): The log in the checkpoint, which tells how far its phase is.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It is no state of a search.
    """
    newest = search["window"][-1] if search["window"] else {}
    masks = {name: unpack(mask, search["shapes"][name]) for name, mask in newest.items()}
    return Record(
        status="retraining" if progress.phase == "retrain" else "searching",
        config=WormConfig(**search["config"]),
        observations=read_observations(search["history"]),
        converged=bool(search["history"]) and search["history"][-1]["converged"],
        phases=_phases(progress, trainer),
        metrics={stage: numbers(metrics) for stage, metrics in progress.metrics.items()},
        masks=masks,
        layers=shares_pruned(masks),
        parts=part_names(search),
    )


def part_names(written: Mapping[str, Any]) -> dict[str, str]:
    """Pick the names of a search's parts out of a report, a history or a state; 0.1.0 wrote none."""
    return {str(part): str(name) for part, name in (written.get("parts") or {}).items()}


def _phases(progress: Progress, trainer: TrainerLog | None) -> dict[str, dict[str, float]]:
    phases: dict[str, dict[str, float]] = {name: {"seconds": value} for name, value in progress.seconds.items()}
    for name, steps in progress.steps.items():
        phases.setdefault(name, {}).update(steps=steps, epochs=progress.epochs[name])
    if progress.phase == "retrain" and "search" not in progress.steps:  # the ticket is from elsewhere
        phases.setdefault("search", {}).update(steps=0, epochs=0.0)
    if trainer is not None:
        phases.setdefault(progress.phase, {}).update(
            steps=trainer.steps - sum(progress.steps.values()), epochs=trainer.epochs - sum(progress.epochs.values())
        )
    return phases


def read_trainer_log(path: Path) -> TrainerLog:
    """Read a `trainer_state.json`.

    Raises:
        ValueError: The file is damaged.
    """
    state = read_json(path)
    try:
        log = [entry for entry in state["log_history"] if is_number(entry["step"]) and is_number(entry["epoch"])]
        return TrainerLog(int(state["global_step"]), float(state["epoch"] or 0), log)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}.") from error


def read_results(path: Path, trainer: TrainerLog) -> list[Entry]:
    """Read the evaluation that a script made after `trainer.save_state()`, as an entry of the log.

    Raises:
        ValueError: The file is damaged, or holds no metrics by name.
    """
    if not path.is_file():
        return []
    results = read_json(path)
    if not isinstance(results, dict):
        raise ValueError(f"{path} must hold a JSON object of metrics, got a {type(results).__name__}.")
    evaluated = {name: value for name, value in results.items() if name.startswith("eval_")}
    return [{**evaluated, "step": trainer.steps, "epoch": trainer.epochs}] if evaluated else []
