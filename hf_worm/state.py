"""Read the state of a search, and refuse one whose masks do not compare with this search's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from hf_worm.config import WormConfig
from hf_worm.core.window import MaskWindow, Observation, Packed, read_observations
from hf_worm.parts import COMPARED
from hf_worm.ticket import mismatch

NEEDED = {"window", "start", "shapes", "history", "config"}


class State(NamedTuple):
    """What a search's state holds, once it is found to be whole.

    Args:
        history (`list[Observation]`): The observations.
        masks (`list[Packed]`): The window's masks, oldest first.
        start (`Packed`): The masks of the first step's weights; empty where they are not needed.
        step (`int`): Optimizer steps so far.
        observed (`int`, *optional*): Optimizer steps at the newest observation.
    """

    history: list[Observation]
    masks: list[Packed]
    start: Packed
    step: int
    observed: int | None


def read_state(
    state: Mapping[str, Any],
    config: WormConfig,
    parts: Mapping[str, str],
    shapes: Mapping[str, torch.Size],
    window: MaskWindow,
) -> State:
    """Read a state; version 0.1.0 wrote no parts and no steps.

    Args:
        state (`Mapping[str, Any]`): What `TicketSearch.state_dict` made.
        config, parts, shapes, window: Those of the search that is to go on from it.

    Raises:
        ValueError: The state is incomplete or damaged, or its masks do not compare with this search's.
    """
    if missing := NEEDED - set(state):
        raise ValueError(f"The state of the search is incomplete: it lacks {sorted(missing)}.")
    try:
        there = {name: tuple(shape) for name, shape in state["shapes"].items()}
        here = {name: tuple(shape) for name, shape in shapes.items()}
        if here != there:
            raise ValueError(mismatch("this model", here, "the saved search", there))
        history = read_observations(state["history"])
        _require_same(state, config, parts)
        step, observed = state.get("step", 0), state.get("observed")
        if type(step) is not int or not (observed is None or type(observed) is int):
            raise TypeError(f"`step` and `observed` must be whole numbers, got {step!r} and {observed!r}")
        return State(history, *window.read(state, shapes), step, observed)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The state of the search is damaged: {error!r}.") from error


def require_same_ratios(
    entries: Sequence[str], ratios: Sequence[float], config: WormConfig, own: Sequence[float]
) -> None:
    """Raise a `ValueError` where the layers of a state have other ratios than those of this search.

    Args:
        entries, ratios: `layers` of the state's settings, and the ratio of each layer that they mean.
        config, own: Those of this search.
    """
    if ratios != own:
        raise ValueError(
            f"The saved search ran with `layers={entries}`, this one has {config.layers}: "
            "with other ratios their masks do not compare. Resume with the saved ones, or start anew."
        )


def _require_same(state: Mapping[str, Any], config: WormConfig, parts: Mapping[str, str]) -> None:
    saved = {name: state["config"][name] for name in ("prune_ratio", "scope", "window")}
    now = {name: getattr(config, name) for name in saved} | {name: parts[name] for name in COMPARED}
    named = state.get("parts", {"score": "magnitude", "select": saved["scope"], "schedule": "early_bird"})
    saved |= {name: named[name] for name in COMPARED}
    for name, value in saved.items():
        if value != now[name]:
            raise ValueError(
                f"The saved search ran with `{name}={value!r}`, this one has {now[name]!r}: their masks do not "
                "compare. Resume with the saved setting, or start anew."
            )
