"""How far a run has come through search, draw and retraining, and the file that says so in a checkpoint."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hf_worm.files import parse_json, replace_file

STATE_NAME = "worm_state.safetensors"
FORMAT = "hf_worm.state.v1"
PHASES = ("search", "draw", "retrain")
START = "start"  # beside the window's masks, which go by their place in it: those that a search began with


class Counts(NamedTuple):
    """What a training has taken, as a `TrainerState` counts it.

    Args:
        steps (`int`, *optional*, defaults to 0): Optimizer steps.
        epochs (`float`, *optional*, defaults to 0.0): Epochs.
        tokens (`int`, *optional*, defaults to 0): Input tokens, where `include_num_input_tokens_seen` has them counted.
        flos (`float`, *optional*, defaults to 0.0): Floating-point operations, by the model's own estimate.
    """

    steps: int = 0
    epochs: float = 0.0
    tokens: int = 0
    flos: float = 0.0

    def less(self, other: "Counts") -> "Counts":
        """What is left without another's."""
        return Counts(
            self.steps - other.steps, self.epochs - other.epochs, self.tokens - other.tokens, self.flos - other.flos
        )


@dataclass
class Progress:
    """Where a run is and what it has measured; it travels with every checkpoint.

    Args:
        phase (`str`): `"search"`, `"draw"` or `"retrain"`.
        observed_step (`int`): Optimizer steps done at the newest observation.
        steps (`dict[str, int]`): Optimizer steps of each finished phase.
        epochs (`dict[str, float]`): Epochs of each finished phase.
        tokens (`dict[str, int]`): Input tokens of each finished phase; 0 where they are not counted.
        flos (`dict[str, float]`): Floating-point operations of each finished phase.
        seconds (`dict[str, float]`): Wall-clock seconds of each phase so far, over all its resumptions.
        metrics (`dict[str, dict[str, float]]`): The evaluations `before_draw`, `drawn` and `retrained`.
        costs (`dict[str, Any]`): Where the model was made smaller, what [`~hf_worm.report.speed.costs`] measured.
        seed (`int`, *optional*):
            `torch.initial_seed()` as the search began, by which the rows are put in order; of older checkpoints not
            known.
    """

    phase: str = "search"
    observed_step: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    flos: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.phase not in PHASES or type(self.observed_step) is not int:
            raise ValueError(f"`phase` must be one of {PHASES}, got {self.phase!r} after {self.observed_step!r} steps")
        if self.seed is not None and type(self.seed) is not int:
            raise ValueError(f"`seed` must be a whole number, got {self.seed!r}")
        for name, kind in (
            ("steps", int),
            ("epochs", (int, float)),
            ("tokens", int),
            ("flos", (int, float)),
            ("seconds", (int, float)),
            ("metrics", dict),
            ("costs", dict),
        ):
            values = getattr(self, name)
            if not isinstance(values, dict) or not all(isinstance(value, kind) for value in values.values()):
                raise ValueError(f"`{name}` must hold a value for each phase or stage, got {values!r}")
        self._since = time.perf_counter()

    def enter(self, phase: str) -> None:
        """Begin a phase, or go on with it."""
        self.phase = phase
        self._since = time.perf_counter()

    def tick(self) -> None:
        """Put the time since the last tick on the account of the current phase."""
        now = time.perf_counter()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self._since
        self._since = now

    def finish(self, taken: Counts) -> None:
        """Close the current phase with what it took."""
        self.tick()
        phase = self.phase
        self.steps[phase] = self.steps.get(phase, 0) + taken.steps
        # Differences of fractions, which a resumed run takes of others, are the same up to rounding.
        self.epochs[phase] = round(self.epochs.get(phase, 0.0) + taken.epochs, 12)
        self.tokens[phase] = self.tokens.get(phase, 0) + taken.tokens
        self.flos[phase] = self.flos.get(phase, 0.0) + taken.flos

    def total(self) -> Counts:
        """What all finished phases took."""
        return Counts(
            sum(self.steps.values()), sum(self.epochs.values()), sum(self.tokens.values()), sum(self.flos.values())
        )


def save_state(folder: str | os.PathLike[str], progress: Progress, search_state: Mapping[str, Any]) -> None:
    """Write progress and the state of the search ([`TicketSearch.state_dict`]) into a checkpoint folder."""
    progress.tick()
    groups = {START: search_state["start"], **{str(i): masks for i, masks in enumerate(search_state["window"])}}
    masks = {f"{group}/{name}": mask for group, masks in groups.items() for name, mask in masks.items()}
    rest = {key: value for key, value in search_state.items() if key not in ("window", "start")}
    metadata = {"format": FORMAT, "progress": json.dumps(asdict(progress)), "search": json.dumps(rest)}
    replace_file(Path(folder) / STATE_NAME, save(masks, metadata=metadata))


def load_state(folder: str | os.PathLike[str]) -> tuple[Progress, dict[str, Any]]:
    """Read what [`save_state`] wrote.

    Raises:
        ValueError: The folder holds no such file, or a damaged one.
    """
    path = Path(folder) / STATE_NAME
    if not path.is_file():
        raise ValueError(
            f"Can't resume from {folder}: it holds no `{STATE_NAME}`, so it is no checkpoint of a `WormTrainer` run."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            masks = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, this version of hf_worm reads {FORMAT!r}")
        progress = Progress(**parse_json(metadata["progress"]))
        rest = parse_json(metadata["search"])
        if not isinstance(rest, dict):
            raise TypeError(f"the search must be an object, got a {type(rest).__name__}")
        groups: dict[str, dict[str, Any]] = {}
        for key, mask in masks.items():
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = mask
        start = groups.pop(START, {})
        window = [groups[index] for index in sorted(groups, key=int)]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Can't resume from {folder}: `{STATE_NAME}` is damaged ({error}).") from error
    return progress, {**rest, "window": window, "start": start}
