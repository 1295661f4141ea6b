"""A score, a selection, a schedule and a treatment of a user's own, each a class of at most 25 lines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from hf_worm import RepresentativeLayer
from hf_worm.schedule import Schedule
from hf_worm.select import Selection
from hf_worm.treatment import Treatment, scales_of


class RandomScore:
    """Units are worth what a generator says at the observation, whatever they do: the control for every score."""

    name = "random"

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def accumulate(self, layers: Sequence[RepresentativeLayer]) -> None:
        torch.rand((), generator=self.generator)  # so that the number of steps counts too

    def of(self, layer: RepresentativeLayer) -> torch.Tensor:
        return torch.rand(layer.shape, generator=self.generator)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class WholeRows(Selection):
    """The rows of a weight go or stay as one, those of the smallest sum of scores go."""

    name = "rows"

    def masks(
        self,
        layers: Sequence[RepresentativeLayer],
        scores: Callable[[RepresentativeLayer], torch.Tensor],
        ratios: Sequence[float],
    ) -> Iterator[torch.Tensor]:
        for layer, ratio in zip(layers, ratios, strict=True):
            rows = scores(layer).sum(1)
            kept = torch.ones(len(rows), dtype=torch.bool)
            kept[rows.argsort(stable=True)[: round(ratio * len(rows))]] = False
            yield kept[:, None].expand(layer.shape)


class Doubling(Schedule):
    """Samples after 1, 2, 4, 8, ... steps, by a ratio that rises by quarters, and draws at a given step."""

    name = "doubling"

    def __init__(self, last: int) -> None:
        self.last = last

    def due(self, step: int, epoch_end: bool) -> bool:
        return step == self.last or step & (step - 1) == 0

    def share(self, step: int) -> float:
        return (1 + 4 * step // self.last) / 5

    def triggered(self, distances: Sequence[float]) -> bool:
        return bool(distances)

    def settled(self, step: int, distances: Sequence[float], full: bool) -> bool:
        return step >= self.last


class EverSmaller(Treatment):
    """The gradients of pruned weights are multiplied by r, r², r³, ..., one power for each step since the trigger."""

    name = "ever_smaller"
    scales_gradients = True

    def __init__(self, factor: float) -> None:
        self.factor, self.steps = factor, 0

    def renew(self, masked: Any) -> None:
        self.views, self.masks = scales_of(masked, 0.0)  # 1 where a weight stays, 0 where it goes

    def gradients(self) -> None:
        self.steps += bool(self.views)
        for view, mask in zip(self.views, self.masks, strict=True):
            view.gradient.mul_(mask + (1 - mask) * self.factor**self.steps)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
