"""What is known of a run, whatever it was read from."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.report.account import NOT_METRICS, STAGES, is_number
from hf_worm.report.table import metric_names

Status = Literal["finished", "drawn", "searching", "retraining", "ticket", "dense"]


class Evaluation(NamedTuple):
    """A metric's value after so many optimizer steps; `stage` is a key of `STAGES` for those around the draw."""

    step: int
    stage: str | None
    value: float


class Epoch(NamedTuple):
    """What an epoch (or the part of one that a phase ended with) has in the log.

    Args:
        phase (`str`): `search` or `retrain`.
        number (`int`): Which epoch of its phase it is, from 1.
        epoch, step (`float`, `int`): Where it ends, counted from the start of the run.
        loss (`float`, *optional*): The mean of its losses.
        metrics (`dict[str, float]`): Its last evaluation.
    """

    phase: str
    number: int
    epoch: float
    step: int
    loss: float | None
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, as far as its files tell. Steps and epochs count from the start of the run.

    Args:
        path (`str`): The folder or Hub repository that it was read from.
        status (`str`): `finished`; `drawn`: with no retraining on record yet; `searching` or `retraining`: going on, or
            broken off; `ticket`: nothing but the ticket is known; `dense`: of a Trainer that prunes nothing, in which
            all the training counts as search.
        config (`WormConfig`): The settings of the search; of a dense run, p = 0.
        converged (`bool`, *optional*): Whether the masks had stopped moving; `None` where nothing says so.
        observations (`list[Observation]`): What the search observed.
        phases (`dict[str, dict[str, float]]`): By `search`, `draw` and `retrain`: `epochs`, optimizer `steps` and
            wall-clock `seconds`, so far.
        metrics (`dict[str, dict[str, float]]`): By `before_draw`, `drawn` and `retrained`: the evaluation.
        masks (`dict[str, torch.Tensor]`): The newest by layer: `bool`, `True` = keep. Empty where there are none.
        layers (`dict[str, float]`): Share pruned by layer, in [0, 1].
        account, costs (`dict`, *optional*): As in `worm_report.json`.
        log (`list[dict]`): The Trainer's `log_history`, as far as it was saved.
        notes (`list[str]`): What is missing, and what was passed over.
    """

    path: str
    status: Status
    config: WormConfig
    converged: bool | None
    observations: list[Observation]
    phases: dict[str, dict[str, float]]
    metrics: dict[str, dict[str, float]]
    masks: dict[str, torch.Tensor]
    layers: dict[str, float]
    account: dict[str, Any] | None
    costs: dict[str, Any] | None
    log: list[dict[str, Any]]
    notes: list[str]

    @property
    def drawn(self) -> bool:
        """Whether the ticket has been drawn."""
        return self.status not in ("searching", "dense")

    @property
    def searched(self) -> float:
        """Optimizer steps of the search so far; infinite where that is unknown."""
        return self.phases.get("search", {}).get("steps", math.inf)

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics, the primary one first, the loss last."""
        if self.metrics:
            return metric_names(self.metrics)
        around_the_draw = tuple(f"eval_{stage}_" for stage in STAGES)
        logged = {
            name.removeprefix("eval_"): 0.0
            for entry in self.log
            for name in entry
            if name.startswith("eval_") and not name.startswith(around_the_draw) and not name.endswith(NOT_METRICS)
        }
        return metric_names({"logged": logged})

    def places(self) -> list[tuple[float | None, float | None]]:
        """Epoch and optimizer step of each observation, `None` where unknown.

        From the log; where it doesn't reach, from the settings, as the run must have placed them.
        """
        logged = [(entry["epoch"], entry["step"]) for entry in self.log if "worm_truncating" in entry]
        search = self.phases.get("search", {})
        epochs, steps = search.get("epochs"), search.get("steps")
        in_epoch = steps / epochs if steps and epochs else None
        found: list[tuple[float | None, float | None]] = logged[: len(self.observations)]
        for place in range(len(found) + 1, len(self.observations) + 1):
            if self.config.sample_steps is None:
                # The last may have come before its epoch's end.
                epoch = min(place, epochs or math.inf)
                found.append((epoch, None if in_epoch is None else round(epoch * in_epoch)))
            else:
                step = min(place * self.config.sample_steps, steps or math.inf)
                found.append((None if in_epoch is None else step / in_epoch, step))
        return found

    def last_evaluation(self) -> dict[str, float]:
        """The metrics of the newest evaluation in the log by their plain names; none where there was none."""
        for entry in reversed(self.log):
            found = {name: entry[f"eval_{name}"] for name in self.metric_names if is_number(entry.get(f"eval_{name}"))}
            if found:
                return found
        return {}

    def losses(self) -> list[tuple[int, float]]:
        """Optimizer step and training loss (the mean since the one before), as they were logged."""
        return [(entry["step"], entry["loss"]) for entry in self.log if is_number(entry.get("loss"))]

    def evaluations(self, metric: str) -> list[Evaluation]:
        """All values of a metric, in their order: those of the log, and those around the draw."""
        names = {f"eval_{stage}_{metric}": stage for stage in STAGES}
        found = []
        for _, entry, over in self._entries():
            if not over and is_number(entry.get(f"eval_{metric}")):
                found.append(Evaluation(entry["step"], None, entry[f"eval_{metric}"]))
            for name, stage in names.items():
                if is_number(entry.get(name)):
                    found.append(Evaluation(entry["step"], stage, entry[name]))
        logged = {seen.stage for seen in found}
        for stage in STAGES:
            value = self.metrics.get(stage, {}).get(metric)
            phases = ("search", "retrain") if stage == "retrained" else ("search",)
            steps = [self.phases.get(phase, {}).get("steps") for phase in phases]
            if value is not None and stage not in logged and None not in steps:
                found.append(Evaluation(int(sum(filter(None, steps))), stage, value))
        return found

    def epochs(self) -> list[Epoch]:
        """What the log has of each epoch."""
        searched = self.phases.get("search", {}).get("epochs", 0.0)
        entries: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for phase, entry, over in self._entries():
            if over:
                continue
            if phase == "search":
                number = _ceil(entry["epoch"])
            elif self.config.retrain_schedule == "restart":
                number = _ceil(entry["epoch"] - searched)
            else:  # the epoch that the search ended in goes on
                number = _ceil(entry["epoch"]) - math.floor(searched)
            entries.setdefault((phase, max(1, number)), []).append(entry)
        found = []
        for (phase, number), group in entries.items():
            losses = [entry["loss"] for entry in group if is_number(entry.get("loss"))]
            metrics = {
                name: entry[f"eval_{name}"]
                for entry in group
                for name in self.metric_names
                if is_number(entry.get(f"eval_{name}"))
            }
            if losses or metrics:
                loss = sum(losses) / len(losses) if losses else None
                found.append(Epoch(phase, number, group[-1]["epoch"], group[-1]["step"], loss, metrics))
        return found

    def _entries(self) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Each entry of the log with its phase, and whether the training of that phase was over by then.

        What is evaluated after it (the result, by its plain names too, and whatever a script asks for) may be of other
        weights than the last epoch's: drawn, or the best.
        """
        over = {"search": False, "retrain": False}
        for entry in self.log:
            phase = "search" if entry["step"] <= self.searched else "retrain"
            over[phase] |= "train_loss" in entry
            yield phase, entry, over[phase]


def _ceil(epochs: float) -> int:
    return math.ceil(round(epochs, 6))  # a sum of phases' epochs may be above a whole number by the last digit


def short_names(names: Sequence[str], separator: str) -> list[str]:
    """Names without what [`shared_ends`] finds that they share."""
    before, after = shared_ends(names, separator)
    return [name[len(before) : len(name) - len(after)] for name in names]


def shortened(text: str, most: int) -> str:
    """The end of a text that is longer than `most` characters, where names differ, after an ellipsis."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def shared_ends(names: Sequence[str], separator: str) -> tuple[str, str]:
    """What all names begin with and end with, in whole parts and with their separators; a part of each remains.

    Args:
        names (`Sequence[str]`): Names, such as those of parameters.
        separator (`str`): What parts them.
    """
    split = [name.split(separator) for name in names]
    if len(set(names)) < 2:
        return "", ""
    shortest = min(map(len, split))
    start = _common(split, shortest - 1)
    end = _common([parts[::-1] for parts in split], shortest - 1 - start)
    first = split[0]
    before = "".join(part + separator for part in first[:start])
    after = "".join(separator + part for part in first[len(first) - end :])
    return before, after


def _common(split: Sequence[Sequence[str]], most: int) -> int:
    """How many parts, `most` at the most, are the same in all from the beginning on."""
    for place in range(most):
        if len({parts[place] for parts in split}) > 1:
            return place
    return most
