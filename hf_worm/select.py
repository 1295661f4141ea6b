"""Selections turn scores into masks: per layer, over all layers, n of each m neighbours, or to a speed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from hf_worm.config import WormConfig, n_of_m
from hf_worm.core.budget import fill, in_each, largest, over_all
from hf_worm.core.masks import NotFiniteError, keep_masks, keep_masks_over_all, keep_n_of_m, last_of_largest, pack
from hf_worm.core.sharding import full, is_sharded
from hf_worm.core.window import Packed
from hf_worm.scores import Score
from hf_worm.units import RepresentativeLayer
from hf_worm.units.costs import multiply_adds, multiply_adds_of_unit
from hf_worm.units.names import first_names

Scores = Callable[[RepresentativeLayer], torch.Tensor]


@runtime_checkable
class Selection(Protocol):
    """Makes masks of scores. For one of your own, derive a class from this one: `require` has a default.

    Attributes:
        name (`str`): Goes into tickets and checkpoints; a search is resumed with a selection of the same name alone.
    """

    name: str

    def require(self, layers: Sequence[RepresentativeLayer], model: nn.Module) -> None:
        """Raise a `ValueError` if no mask of these layers can be made; called once, as the search is made.

        Args:
            layers (`Sequence[RepresentativeLayer]`): The layers.
            model (`nn.Module`): The model that has them.
        """
        return

    def masks(
        self, layers: Sequence[RepresentativeLayer], scores: Scores, ratios: Sequence[float]
    ) -> Iterable[torch.Tensor]:
        """Make the mask of each layer in turn.

        Args:
            layers (`Sequence[RepresentativeLayer]`): The layers.
            scores (`Callable`): Returns the scores of a layer's units: at least 0, of `layer.shape`.
            ratios (`Sequence[float]`): Share of each layer's units to prune, in [0, 1).

        Returns:
            `Iterable[torch.Tensor]`: For each layer `bool` of `layer.shape`, `True` = keep.
        """
        ...


class PerLayer(Selection):
    """The units of the smallest scores go, in each layer its own share."""

    name = "layer"

    def masks(
        self, layers: Sequence[RepresentativeLayer], scores: Scores, ratios: Sequence[float]
    ) -> Iterator[torch.Tensor]:
        at_once = torch.get_num_threads()  # as many scores are in memory, and no more
        for start in range(0, len(layers), at_once):
            some = slice(start, start + at_once)
            yield from keep_masks([scores(layer) for layer in layers[some]], ratios[some])


class OverAll(Selection):
    """The units of the smallest scores go, one share of all layers together."""

    name = "global"

    def masks(
        self, layers: Sequence[RepresentativeLayer], scores: Scores, ratios: Sequence[float]
    ) -> list[torch.Tensor]:
        if len(set(ratios)) > 1:
            raise ValueError(f"`scope='global'` has one ratio for all layers, got {sorted(set(ratios))}.")
        return keep_masks_over_all(map(scores, layers), [layer.shape for layer in layers], ratios[0])


class NOfM(Selection):
    """Of each m neighbours along the last dimension of a weight, the n of the largest scores stay.

    Args:
        n, m (`int`): 0 < n < m, such as 2 and 4, which GPUs compute with at twice the speed.
    """

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m = n, m
        self.name = f"{n}:{m}"

    def require(self, layers: Sequence[RepresentativeLayer], model: nn.Module) -> None:
        """Raise a `ValueError` where a layer has no rows of weights in groups of m."""
        for layer in layers:
            if layer.granularity != "weight" or len(layer.shape) != 2 or layer.shape[-1] % self.m:
                raise ValueError(
                    f"`scope={self.name!r}` prunes single weights of matrices whose rows {self.m} divides; "
                    f"`{layer.name}` has {layer.granularity}s of shape {tuple(layer.shape)}. Name other `layers`, or "
                    "use `scope='layer'`."
                )

    def masks(
        self, layers: Sequence[RepresentativeLayer], scores: Scores, ratios: Sequence[float]
    ) -> Iterator[torch.Tensor]:
        return (keep_n_of_m(scores(layer), self.n, self.m) for layer in layers)


class Speedup(Selection):
    """The neurons and heads that stay have the largest sum of scores for a share of the model's multiply-adds.

    For each number of heads the rest of the multiply-adds goes to neurons (Kwon et al., arXiv:2204.09656). They are
    counted by the weights of projections; see [`~hf_worm.units.costs.multiply_adds`]. The ratio is the share of the
    model's multiply-adds that goes: 1 - 1 / speedup.

    Args:
        scope (`str`): `"global"`: over all layers together; `"layer"`: the same share of the units in each layer.
        speedup (`float`): What is asked for, above 1.
    """

    name = "speedup"

    def __init__(self, scope: str, speedup: float) -> None:
        self._asked = speedup
        self._steps = over_all if scope == "global" else in_each
        self._total = 0  # multiply-adds for each token

    def require(self, layers: Sequence[RepresentativeLayer], model: nn.Module) -> None:
        """Raise a `ValueError` where a layer has other units than neurons and heads, or too much would have to go."""
        others = [layer for layer in layers if not layer.summed]
        if others:
            raise ValueError(
                f"`speedup` counts whole neurons and heads, and `{others[0].name}` has {others[0].granularity}s: "
                "`layers=['heads', 'neurons']`."
            )
        self._total = multiply_adds(model)
        if self._asked * self._least(layers) > self._total:
            raise self._too_fast(layers, self._asked)

    def masks(
        self, layers: Sequence[RepresentativeLayer], scores: Scores, ratios: Sequence[float]
    ) -> list[torch.Tensor]:
        """Make the masks.

        Raises:
            ValueError: So many multiply-adds can't go while each layer keeps a unit.
        """
        values = [scores(layer).detach().to("cpu", torch.float64) for layer in layers]
        if not all(value.isfinite().all() for value in values):
            raise NotFiniteError("NaN or infinite scores rank nothing.")
        costs = [multiply_adds_of_unit(layer) for layer in layers]
        kinds: dict[str, list[int]] = {}
        for place, layer in enumerate(layers):
            kinds.setdefault(layer.granularity, []).append(place)
        places = list(kinds.values())
        steps = [self._steps([values[place] for place in own], [costs[place] for place in own]) for own in places]
        rest = self._total - sum(cost * len(value) for cost, value in zip(costs, values, strict=True))
        found = fill(steps, self._total * (1 - ratios[0]) - rest)
        if found is None:
            raise self._too_fast(layers, 1 / (1 - ratios[0]))
        counts = dict(zip(chain(*places), chain(*found), strict=True))
        return [largest(value, counts[place]) for place, value in enumerate(values)]

    def _least(self, layers: Sequence[RepresentativeLayer]) -> int:
        """Multiply-adds with one unit left in each layer."""
        return self._total - sum(multiply_adds_of_unit(layer) * (layer.shape.numel() - 1) for layer in layers)

    def _too_fast(self, layers: Sequence[RepresentativeLayer], asked: float) -> ValueError:
        """The error for a speed that can't be had while each layer keeps a unit."""
        both = len({layer.granularity for layer in layers}) > 1
        return ValueError(
            f"`speedup={asked:g}` is more than can be had: with one unit left in each of the {len(layers)} layers, the "
            f"multiply-adds are {self._total / self._least(layers):.3g} times fewer. Ask for less"
            f"{'' if both else ', or prune `heads` as well as `neurons`'}."
        )


def selection_of(config: WormConfig) -> Selection:
    """Make the selection that the settings name."""
    if config.speedup is not None:
        return Speedup(config.scope, config.speedup)
    if pattern := n_of_m(config.scope):
        return NOfM(*pattern)
    return OverAll() if config.scope == "global" else PerLayer()


def take_masks(
    selection: Selection, score: Score, layers: Sequence[RepresentativeLayer], ratios: Sequence[float]
) -> Packed:
    """The masks that a selection makes of the scores as they are now, each packed as soon as it is made.

    A feed-forward block or an attention never loses its last neuron or head.

    Args:
        selection (`Selection`): Makes the masks.
        score (`Score`): Makes the scores.
        layers (`Sequence[RepresentativeLayer]`): The layers.
        ratios (`Sequence[float]`): Share of each layer's units to prune, in [0, 1).

    Raises:
        ValueError: Weights or scores are NaN or infinite, or a part makes something else than scores or masks.
        RuntimeError: The score has gathered no gradients yet.
    """

    def scores(layer: RepresentativeLayer) -> torch.Tensor:
        return _checked(score.name, layer, score.of(layer))

    packed = {}
    try:
        for layer, mask in zip(layers, selection.masks(layers, scores, ratios), strict=True):
            if mask.dtype != torch.bool or mask.shape != layer.shape:
                raise ValueError(
                    f"A mask of `{layer.name}` is `bool` of shape {tuple(layer.shape)}; the selection "
                    f"`{selection.name}` made {mask.dtype} of shape {tuple(mask.shape)}."
                )
            packed[layer.name] = pack(last_of_largest(scores(layer)) if layer.summed and not mask.any() else mask)
    except NotFiniteError as error:
        raise _not_finite(score, layers) from error
    return packed


def require_present(model: nn.Module, layers: Sequence[RepresentativeLayer]) -> None:
    """Raise a `RuntimeError` where layers were replaced since they were found: their old weights don't train."""
    present = set(model.parameters())
    views = [(layer, view) for layer in layers for view in layer.views if not view.sharded]
    gone = list(dict.fromkeys(layer.name for layer, view in views if view.parameter not in present))
    if gone:
        raise RuntimeError(
            f"{first_names(gone)}: no longer a parameter of the model. `fully_shard`, for one, puts new parameters in "
            "the place of the old. Make the search after it, as the optimizer is."
        )


def _checked(name: str, layer: RepresentativeLayer, scores: torch.Tensor) -> torch.Tensor:
    """Scores, as far as they can be checked without communication."""
    if scores.shape != layer.shape or not scores.is_floating_point():
        raise ValueError(
            f"Scores of `{layer.name}` are floating point, of shape {tuple(layer.shape)}; the score `{name}` has "
            f"{scores.dtype} of shape {tuple(scores.shape)}."
        )
    if not is_sharded(scores) and scores.numel() and scores.min() < 0:
        raise ValueError(f"Scores are at least 0; the score `{name}` of `{layer.name}` is not.")
    return scores


def _not_finite(score: Score, layers: Sequence[RepresentativeLayer]) -> ValueError:
    weights = [layer for layer in layers if not all(_is_finite(view.weight) for view in layer.views)]
    if not weights:
        names = [layer.name for layer in layers if not _is_finite(score.of(layer))]
        return ValueError(f"The score `{score.name}` of {first_names(names)} is NaN or infinite: it ranks nothing.")
    return ValueError(
        f"`{weights[0].name}` holds NaN or infinite weights ({len(weights)} of {len(layers)} layers do): they have no "
        "magnitude to rank, training has diverged. Lower the learning rate, clip the gradients, or train in bf16 "
        "instead of fp16."
    )


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(full(tensor).isfinite().all())
