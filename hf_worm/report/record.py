"""The data of a run, whatever it was read from."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.report.log import Entry, began_anew, evaluated, in_phases, logged_metrics, losses
from hf_worm.report.method import Method
from hf_worm.report.metrics import STAGES, is_number, metric_names

Status = Literal["finished", "drawn", "searching", "retraining", "ticket", "dense"]


class Evaluation(NamedTuple):
    """A metric's value after so many optimizer steps; `stage` is a key of `STAGES` for those around the draw."""

    step: int
    stage: str | None
    value: float


class Epoch(NamedTuple):
    """The log of an epoch, or of the part of one that a phase ended with.

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
        speed (`dict`, *optional*): Where a speed was asked for, as in `worm_report.json`.
        parts (`dict[str, str]`): Names of the parts of the search; empty where they are those of its settings.
        log (`list[dict]`): The Trainer's `log_history`, as far as it was saved.
        notes (`list[str]`): What is missing, and what was passed over.
    """

    path: str = ""
    status: Status
    config: WormConfig
    converged: bool | None
    observations: list[Observation] = field(default_factory=list)
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)
    account: dict[str, Any] | None = None
    costs: dict[str, Any] | None = None
    speed: dict[str, float] | None = None
    parts: dict[str, str] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def method(self) -> Method:
        """The method that chose the masks."""
        # No search draws before its first observation. Of a ticket without its history nothing is known.
        given = self.drawn and self.converged is not None and not self.observations and "schedule" not in self.parts
        return Method(asdict(self.config), self.parts, searched=not given)

    @property
    def drawn(self) -> bool:
        """Tell whether the ticket has been drawn."""
        return self.status not in ("searching", "dense")

    @property
    def searched(self) -> float:
        """Optimizer steps of the search so far; infinite where that is unknown."""
        return self.phases.get("search", {}).get("steps", math.inf)

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics, the primary one first, the loss last."""
        return metric_names(self.metrics.values()) if self.metrics else logged_metrics(self.log)

    def places(self) -> list[tuple[float | None, float | None]]:
        """List epoch and optimizer step of each observation, `None` where unknown.

        From the log; where it doesn't reach, from the settings, as the run must have placed them.
        """
        logged = [(entry["epoch"], entry["step"]) for entry in self.log if "worm_truncating" in entry]
        count = len(self.observations)
        return [*logged[:count], *(self._place(number) for number in range(len(logged) + 1, count + 1))]

    def _place(self, number: int) -> tuple[float | None, float | None]:
        """Place an observation, counted from 1, by the settings."""
        search = self.phases.get("search", {})
        epochs, steps = search.get("epochs"), search.get("steps")
        in_epoch = steps / epochs if steps and epochs else None
        # The last observation may have come before its epoch's end.
        if self.config.sample_steps is None:
            epoch = min(number, epochs or math.inf)
            return epoch, None if in_epoch is None else round(epoch * in_epoch)
        step = min(number * self.config.sample_steps, steps or math.inf)
        return None if in_epoch is None else step / in_epoch, step

    def last_evaluation(self) -> dict[str, float]:
        """Find the metrics of the newest evaluation in the log, by their plain names; none where there was none."""
        found = (evaluated(entry, self.metric_names) for entry in reversed(self.log))
        return next(filter(None, found), {})

    def losses(self) -> list[tuple[int, float]]:
        """List optimizer step and training loss (the mean since the one before), as they were logged."""
        return losses(self.log)

    def evaluations(self, metric: str) -> list[Evaluation]:
        """List all values of a metric, in their order: those of the log, and those around the draw."""
        names = {f"eval_{stage}_{metric}": stage for stage in STAGES}
        found = []
        for _, entry, over in in_phases(self.log, self.searched):
            if not over and is_number(entry.get(f"eval_{metric}")):
                found.append(Evaluation(entry["step"], None, entry[f"eval_{metric}"]))
            for name, stage in names.items():
                if is_number(entry.get(name)):
                    found.append(Evaluation(entry["step"], stage, entry[name]))
        logged = {evaluation.stage for evaluation in found}
        return [*found, *(late for late in self._around_the_draw(metric) if late.stage not in logged)]

    def _around_the_draw(self, metric: str) -> Iterator[Evaluation]:
        """Yield the values of a metric around the draw, without the help of a log."""
        for stage, metrics in self.metrics.items():
            phases = ("search", "retrain") if stage == "retrained" else ("search",)
            steps = [self.phases.get(phase, {}).get("steps") for phase in phases]
            if metric in metrics and None not in steps:
                yield Evaluation(int(sum(filter(None, steps))), stage, metrics[metric])

    def epochs(self) -> list[Epoch]:
        """Sum up what the log has of each epoch."""
        groups: dict[tuple[str, int], list[Entry]] = {}
        anew = self.config.retrain_schedule == "restart" and began_anew(self.log, self.searched)
        for phase, entry, over in in_phases(self.log, self.searched):
            if not over:
                groups.setdefault((phase, self._epoch_number(phase, entry["epoch"], anew)), []).append(entry)
        found = [self._epoch(*at, group) for at, group in groups.items()]
        return [epoch for epoch in found if epoch.loss is not None or epoch.metrics]

    def _epoch_number(self, phase: str, epoch: float, anew: bool) -> int:
        """Number an epoch within its phase, from 1; `anew` as in [`~hf_worm.report.log.began_anew`]."""
        searched = self.phases.get("search", {}).get("epochs", 0.0)
        if phase == "search":
            return max(1, _ceil(epoch))
        if anew:
            return max(1, _ceil(epoch - searched))
        return max(1, _ceil(epoch) - math.floor(searched))  # the epoch that the search ended in goes on

    def _epoch(self, phase: str, number: int, entries: list[Entry]) -> Epoch:
        values = [loss for _, loss in losses(entries)]
        metrics = {name: value for entry in entries for name, value in evaluated(entry, self.metric_names).items()}
        last = entries[-1]
        mean = sum(values) / len(values) if values else None
        return Epoch(phase, number, last["epoch"], last["step"], mean, metrics)


def _ceil(epochs: float) -> int:
    return math.ceil(round(epochs, 6))  # a sum of phases' epochs may be above a whole number by the last digit
