"""The findings of a search so far; save them and read them again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from hf_worm.config import WormConfig
from hf_worm.core.masks import count_kept, unpack
from hf_worm.core.window import MaskWindow, Observation, Packed, read_observations
from hf_worm.parts import COMPARED
from hf_worm.ticket import mismatch
from hf_worm.units import RepresentativeLayer

NEEDED = {"window", "start", "shapes", "history", "config"}


class Found:
    """The observations of a search and its newest masks; it holds no layer of the model.

    Args:
        config (`WormConfig`): The settings.
        parts (`dict[str, str]`): The names of the search's parts.
        layers (`Sequence[RepresentativeLayer]`): The layers.

    Attributes:
        history (`list[Observation]`): The observations.
        window (`MaskWindow`): The newest masks.
        start (`Packed`): The masks of the first step's weights, until there is an observation.
        step (`int`): Optimizer steps so far.
        observed (`int`, *optional*): Optimizer steps at the newest observation.
    """

    def __init__(self, config: WormConfig, parts: dict[str, str], layers: Sequence[RepresentativeLayer]) -> None:
        self.config, self.parts = config, parts
        self.shapes = {layer.name: layer.shape for layer in layers}
        self.ratios = [layer.ratio(config.ratio) for layer in layers]
        self.history: list[Observation] = []
        self.window = MaskWindow(config.window)
        self.start: Packed = {}
        self.step = 0
        self.observed: int | None = None

    @property
    def newest(self) -> Packed:
        """The newest masks; none before the first observation."""
        return self.window.masks[-1] if self.window.masks else {}

    def replace_newest(self, packed: Packed) -> None:
        """Have other masks in the place of the newest."""
        self.window.masks[-1] = packed

    @property
    def sparsity(self) -> float:
        """Share of the units that the newest mask prunes, in [0, 1]; 0 before the first observation."""
        return (self.units - sum(map(count_kept, self.newest.values()))) / self.units if self.newest else 0.0

    @property
    def units(self) -> int:
        """Units of all layers."""
        return sum(shape.numel() for shape in self.shapes.values())

    def unpacked(self, packed: Packed) -> dict[str, torch.Tensor]:
        """Masks by the layer's name, `bool` of its shape, on the CPU."""
        return {name: unpack(mask, self.shapes[name]) for name, mask in packed.items()}

    def state_dict(self) -> dict[str, Any]:
        """All of it, as `TicketSearch.state_dict` has it."""
        return {
            "window": [dict(mask) for mask in self.window.masks],
            "start": dict(self.start),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "history": [asdict(observation) for observation in self.history],
            "config": asdict(self.config),
            "parts": self.parts,
            "step": self.step,
            "observed": self.observed,
        }

    def read(self, state: Mapping[str, Any], ratios_of: Callable[[Sequence[str]], list[float]]) -> Callable[[], None]:
        """Read a state; version 0.1.0 wrote no parts and no steps.

        Of a search for another speed all is read but the masks, and so the observations: they are taken anew.

        Args:
            state (`Mapping[str, Any]`): What `state_dict` made.
            ratios_of (`Callable`): Returns the ratio of each layer that entries of `layers` mean.

        Returns:
            `Callable`: Puts what was read in place.

        Raises:
            ValueError: The state is incomplete or damaged, or its masks do not compare with those of this search.
        """
        if missing := NEEDED - set(state):
            raise ValueError(f"The state of the search is incomplete: it lacks {sorted(missing)}.")
        try:
            there = {name: tuple(shape) for name, shape in state["shapes"].items()}
            here = {name: tuple(shape) for name, shape in self.shapes.items()}
            if here != there:
                raise ValueError(mismatch("this model", here, "the saved search", there))
            history = read_observations(state["history"])
            self._require_same(state, ratios_of)
            anew = state["config"].get("speedup") != self.config.speedup
            step, observed = state.get("step", 0), state.get("observed")
            if type(step) is not int or not (observed is None or type(observed) is int):
                raise TypeError(f"`step` and `observed` must be whole numbers, got {step!r} and {observed!r}")
            masks, start = self.window.read(state, self.shapes)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The state of the search is damaged: {error!r}.") from error

        def put() -> None:
            self.step = step
            self.window.masks.clear()
            if anew:
                self.history, self.start, self.observed = [], {}, None
                return
            self.history, self.start, self.observed = history, start, observed
            self.window.masks.extend(masks)

        return put

    def _require_same(self, state: Mapping[str, Any], ratios_of: Callable[[Sequence[str]], list[float]]) -> None:
        """Raise a `ValueError` where the masks of a state do not compare with those of this search."""
        saved = {name: state["config"][name] for name in ("prune_ratio", "scope", "window")}
        now = {name: getattr(self.config, name) for name in saved} | {name: self.parts[name] for name in COMPARED}
        named = state.get("parts", {"score": "magnitude", "select": saved["scope"], "schedule": "early_bird"})
        saved |= {name: named[name] for name in COMPARED}
        for name, value in saved.items():
            if value != now[name]:
                raise ValueError(
                    f"The saved search ran with `{name}={value!r}`, this one has {now[name]!r}: their masks do not "
                    "compare. Resume with the saved setting, or start anew."
                )
        entries = state["config"].get("layers", self.config.layers)
        if ratios_of(entries) != self.ratios:
            raise ValueError(
                f"The saved search ran with `layers={entries}`, this one has {self.config.layers}: "
                "with other ratios their masks do not compare. Resume with the saved ones, or start anew."
            )
