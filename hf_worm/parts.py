"""The parts that a search is made of: those given, or those that the settings name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hf_worm.config import WormConfig
from hf_worm.schedule import Schedule, schedule_of
from hf_worm.scores import Magnitude, Score, score_of
from hf_worm.select import Selection, selection_of
from hf_worm.treatment import Treatment, treatment_of

KINDS = {"score": Score, "select": Selection, "schedule": Schedule, "treatment": Treatment}
COMPARED = ("score", "select", "schedule")  # with another of these, masks do not compare


class Parts(NamedTuple):
    """A score, a selection, a schedule and a treatment."""

    score: Score
    select: Selection
    schedule: Schedule
    treatment: Treatment

    @property
    def names(self) -> dict[str, str]:
        """The name of each part."""
        return {kind: part.name for kind, part in self._asdict().items()}

    @property
    def score_reads_gradients(self) -> bool:
        """True if the score gathers anything: all do, save those that leave [`Magnitude`]'s `accumulate` as it is."""
        return getattr(type(self.score), "accumulate", None) is not Magnitude.accumulate

    def not_attached(self) -> str:
        """Say that a part acts on an optimizer's steps, and none is attached."""
        part = self.treatment if self.treatment.scales_steps else self.schedule
        setting = "truncation_target" if part is self.treatment else "schedule"
        epochs = ", steps_per_epoch=..." if part.needs_epochs else ""
        return f"`{setting}={part.name!r}` scales the optimizer's step: call `search.attach(optimizer{epochs})` first."


def parts_of(config: WormConfig, given: Mapping[str, Any]) -> Parts:
    """The given parts, and for each that is `None` the one that the settings name.

    Raises:
        TypeError: A part lacks an attribute or a method.
    """
    for name, part in given.items():
        if part is not None and (isinstance(part, type) or not isinstance(part, KINDS[name])):
            wanted = KINDS[name].__name__
            raise TypeError(f"`{name}` must be a `{wanted}`, got {part!r}: it lacks an attribute or a method.")
    named = Parts(score_of(config), selection_of(config), schedule_of(config), treatment_of(config))
    return named._replace(**{name: part for name, part in given.items() if part is not None})
