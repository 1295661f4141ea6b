"""How far a run has come through search, draw and retraining, and what it has measured on the way."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

PHASES = ("search", "draw", "retrain")


@dataclass
class Progress:
    """The phase of a run and its measurements; it travels with every checkpoint.

    Args:
        phase (`str`): `"search"`, `"draw"` or `"retrain"`.
        begun_step (`int`): Optimizer steps of the run before the phase.
        begun_epoch (`float`): Epochs of the run before the phase.
        observed_step (`int`): Optimizer steps done at the newest observation.
        stopped (`bool`): A callback has ended the search before its masks converged.
        steps (`dict[str, int]`): Optimizer steps of each finished phase.
        epochs (`dict[str, float]`): Epochs of each finished phase.
        seconds (`dict[str, float]`): Wall-clock seconds of each phase so far, over all its resumptions.
        metrics (`dict[str, dict[str, float]]`): The evaluations `before_draw`, `drawn` and `retrained`.
        costs (`dict[str, Any]`): Sizes and times from [`~hf_worm.report.speed.costs`], of a run that cut its model.
        speed (`dict[str, float]`): Of a run with a `speedup`: `asked`, how many times fewer `multiply_adds` the smaller
            model has and, where it was timed, how many times faster it was `measured`.
        seed (`int`, *optional*): `torch.initial_seed()` as the run began, which orders its rows.

    Raises:
        ValueError: A field holds another type.
    """

    phase: str = "search"
    begun_step: int = 0
    begun_epoch: float = 0.0
    observed_step: int = 0
    stopped: bool = False
    steps: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"`phase` must be one of {PHASES}, got {self.phase!r}.")
        for name in ("begun_step", "observed_step"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"`{name}` must be a whole number, got {getattr(self, name)!r}.")
        if self.seed is not None and type(self.seed) is not int:
            raise ValueError(f"`seed` must be a whole number, got {self.seed!r}.")
        kinds: dict[str, Any] = {"steps": int, "metrics": dict, "costs": dict}
        for name in ("steps", "epochs", "seconds", "metrics", "costs", "speed"):
            values = getattr(self, name)
            kind = kinds.get(name, (int, float))
            if not isinstance(values, dict) or not all(isinstance(value, kind) for value in values.values()):
                raise ValueError(f"`{name}` must hold a value for each phase or stage, got {values!r}.")
        for value in (self.begun_epoch, *self.epochs.values(), *self.seconds.values()):
            if not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:  # nor is NaN
                raise ValueError(f"Epochs and seconds must be finite numbers, got {value!r}.")
        self._since = time.perf_counter()

    def enter(self, phase: str) -> None:
        """Begin a phase, or go on with it."""
        self.phase = phase
        self._since = time.perf_counter()

    def tick(self) -> None:
        """Add the time since the last tick to the seconds of the current phase."""
        now = time.perf_counter()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self._since
        self._since = now

    def finish(self, step: int, epoch: float) -> None:
        """Close the current phase at a step and an epoch of the run; what comes next is counted from there."""
        self.tick()
        self.steps[self.phase] = self.steps.get(self.phase, 0) + step - self.begun_step
        # Fractions of epochs are sums of floats: a resumed run adds up others.
        self.epochs[self.phase] = round(self.epochs.get(self.phase, 0.0) + epoch - self.begun_epoch, 12)
        self.begun_step, self.begun_epoch = step, epoch
