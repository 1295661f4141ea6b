"""Schedules say when masks are taken, at which ratio, and when they are drawn: the paper's rule, a rising ratio."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from hf_worm.config import WormConfig
from hf_worm.core.window import Observation
from hf_worm.treatment import FADE_BOUND


@runtime_checkable
class Schedule(Protocol):
    """Says when masks are taken and drawn. For one of your own, derive a class from this one: most has defaults.

    A schedule has no state: it goes by the number of optimizer steps and by what was observed.

    Attributes:
        name (`str`): Goes into tickets and checkpoints; a search is resumed with a schedule of the same name alone.
        needs_epochs (`bool`): `start` needs the optimizer's steps in an epoch.
        holds (`bool`): What the newest mask prunes is set to 0 at once, and held until the next is taken.
        from_start (`bool`): The treatment begins with the first step, by the mask of the weights at that moment.
    """

    name: str
    needs_epochs: bool = False
    holds: bool = False
    from_start: bool = False

    def start(self, steps_per_epoch: int | None) -> None:
        """Begin with an optimizer; `steps_per_epoch` where it is known."""
        return

    def due(self, step: int, epoch_end: bool) -> bool:
        """True if the masks are to be taken after so many optimizer steps.

        Args:
            step (`int`): Optimizer steps so far.
            epoch_end (`bool`): The last of them ended an epoch.
        """
        ...

    def share(self, step: int) -> float:
        """Share of the prune ratio by which a mask is taken after so many steps, in [0, 1]."""
        return 1.0

    def triggered(self, distances: Sequence[float]) -> bool:
        """True if an observation with these distances has the treatment begin."""
        return False

    def settled(self, step: int, distances: Sequence[float], full: bool) -> bool:
        """True if the masks are to be drawn.

        Args:
            step (`int`): Optimizer steps so far.
            distances (`Sequence[float]`): Of the newest mask to each older one in the window.
            full (`bool`): The window is full.
        """
        ...

    def missing(self, history: Sequence[Observation], advice: Sequence[str]) -> str:
        """Say what the masks lacked that were drawn before they had settled, and what would help.

        Args:
            history (`Sequence[Observation]`): All observations.
            advice (`Sequence[str]`): What else would help.
        """
        return f"there were {len(history)} observations. The newest mask is drawn."


class EarlyBird(Schedule):
    """EB Train's rule, with the trigger point of WORM: the masks are drawn when they have stopped moving.

    Args:
        stopping_point (`float`): s: settled when the window is full and all distances are below it.
        margin (`float`): δ: the treatment begins when the mean distance is below s + δ.
        window (`int`): l, the number of newest masks compared.
        sample_steps (`int`, *optional*): Optimizer steps from one sampling to the next; `None`: each epoch's end.
        from_start (`bool`, *optional*, defaults to `False`): The treatment begins with the first step.
    """

    name = "early_bird"

    def __init__(
        self,
        stopping_point: float,
        margin: float,
        window: int,
        sample_steps: int | None = None,
        from_start: bool = False,
    ) -> None:
        self.stopping_point, self.margin, self.window = stopping_point, margin, window
        self.sample_steps, self.from_start = sample_steps, from_start

    def due(self, step: int, epoch_end: bool) -> bool:
        return sampled(self.sample_steps, step, epoch_end)

    def triggered(self, distances: Sequence[float]) -> bool:
        return bool(distances) and sum(distances) / len(distances) < self.stopping_point + self.margin

    def settled(self, step: int, distances: Sequence[float], full: bool) -> bool:
        return full and bool(distances) and max(distances) < self.stopping_point

    def missing(self, history: Sequence[Observation], advice: Sequence[str]) -> str:
        seen, count = history[-1], len(history)
        largest = "no distance yet" if seen.max_distance is None else format(seen.max_distance, ".4g")
        takes, had = f"a largest distance below {self.stopping_point:g}", largest
        if seen.doomed_share is not None:
            takes += f", with less than {FADE_BOUND:.0%} of the L1 norm in the weights to be pruned"
            had += f", with {seen.doomed_share:.1%}"
        more = ["Train for more epochs", *advice]
        if count < self.window:
            more.append(sample_more(self.sample_steps))
        if not self.stopping_point:
            more = ["With `stopping_point=0` no search converges"]
        return (
            f"that takes {self.window} observations and {takes}; there {'was' if count == 1 else 'were'} {count} and "
            f"{had}. The newest mask is drawn. {', or '.join(more)}."
        )


class Cubic(Schedule):
    """Gradual pruning after Zhu and Gupta (arXiv:1710.01878): the ratio rises from 0, and what is pruned is 0 at once.

    The mask is taken anew at each sampling and at the ramp's last step, of the share 1 - (1 - t)³ of the prune ratio at
    the share t of the ramp. It is drawn when the ramp has ended.

    Args:
        ramp_epochs (`float`): Epochs in which the ratio rises.
        sample_steps (`int`, *optional*): Optimizer steps from one sampling to the next; `None`: each epoch's end.
    """

    name = "cubic"
    needs_epochs = True
    holds = True

    def __init__(self, ramp_epochs: float, sample_steps: int | None = None) -> None:
        self.ramp_epochs, self.sample_steps = ramp_epochs, sample_steps
        self._steps: int | None = None

    def start(self, steps_per_epoch: int | None) -> None:
        if steps_per_epoch is None or steps_per_epoch < 1:
            raise ValueError(
                "`schedule='cubic'` counts by epochs: `search.attach(optimizer, steps_per_epoch=...)` needs the "
                f"optimizer's steps in an epoch, got {steps_per_epoch!r}."
            )
        self._steps = max(round(self.ramp_epochs * steps_per_epoch), 1)

    @property
    def last_step(self) -> int:
        """Optimizer steps after which the ratio has risen."""
        if self._steps is None:
            raise RuntimeError(
                "`schedule='cubic'` sets pruned weights to 0 around the optimizer's steps: call "
                "`search.attach(optimizer, steps_per_epoch=...)` first."
            )
        return self._steps

    def due(self, step: int, epoch_end: bool) -> bool:
        return step == self.last_step or sampled(self.sample_steps, step, epoch_end)

    def share(self, step: int) -> float:
        return 1 - (1 - min(step / self.last_step, 1)) ** 3

    def settled(self, step: int, distances: Sequence[float], full: bool) -> bool:
        return step >= self.last_step

    def missing(self, history: Sequence[Observation], advice: Sequence[str]) -> str:
        return (
            f"the ratio rises for {self.last_step} optimizer steps, and was still rising. The newest mask is drawn. "
            f"Train for more epochs, or let it rise faster (`ramp_epochs`, now {self.ramp_epochs:g})."
        )


def sampled(sample_steps: int | None, step: int, epoch_end: bool) -> bool:
    """True if a sampling falls on this step: every so many steps, or at each epoch's end."""
    return epoch_end if sample_steps is None else step % sample_steps == 0


def sample_more(sample_steps: int | None) -> str:
    """Say how to have more observations in as many steps."""
    if sample_steps is None:
        return "sample more often (`sample_strategy='steps'`)"
    return f"sample more often (`sample_steps`, now {sample_steps})"


def sampling_advice(config: WormConfig) -> str:
    """Say how to have more observations in as many steps, by the settings."""
    return sample_more(config.sample_steps)


def schedule_of(config: WormConfig) -> Schedule:
    """Make the schedule that the settings name."""
    if config.schedule == "cubic":
        return Cubic(config.ramp_epochs, config.sample_steps)
    from_start = config.truncate_from == "start"
    return EarlyBird(config.stopping_point, config.margin, config.window, config.sample_steps, from_start)
