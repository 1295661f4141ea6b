"""The last l masks, one bit per unit, and the distances of the newest."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from hf_worm.core.masks import count_differences, unpack

Packed = dict[str, torch.Tensor]  # masks by layer, as [`~hf_worm.core.masks.pack`] packs them


@dataclass(frozen=True)
class Observation:
    """The findings of one sampling of the masks.

    Args:
        index (`int`): Its place in the search's history, from 0.
        distances (`tuple[float, ...]`):
            Share of all units in which the newest mask differs from each older one in the window, oldest first, in
            [0, 1]. Empty for the first observation.
        max_distance (`float`, *optional*): d_max, the largest of `distances`; `None` where there is none.
        mean_distance (`float`, *optional*): d_avg, their mean; `None` where there is none.
        truncating (`bool`): The trigger point has been reached: from here on weights about to be pruned are truncated,
            by whatever the configuration says (r = 1: not at all).
        converged (`bool`): The window is full and d_max is below the stopping point: the ticket has emerged. While
            weights fade, `doomed_share` must be below its bound as well.
        doomed_share (`float`, *optional*): Share of the scores (the L1 norm of the representative layers) that the
            units pruned by the newest mask hold, in [0, 1]; `None` where nothing fades.
    """

    index: int
    distances: tuple[float, ...]
    max_distance: float | None
    mean_distance: float | None
    truncating: bool
    converged: bool
    doomed_share: float | None = None


def read_observations(records: Any) -> list[Observation]:
    """Observations from the list of dictionaries that `dataclasses.asdict` made of them.

    Raises:
        TypeError: It is no such list: a record lacks a field, has one too many, or a value that no observation has.
    """
    if not isinstance(records, list):
        raise TypeError(f"the observations must be a list, got {records!r}")
    names = {known.name for known in fields(Observation)}
    observations = []
    for record in records:
        if not isinstance(record, dict) or set(record) | {"doomed_share"} != names:  # once there was none
            raise TypeError(f"an observation needs {sorted(names)}, got {record!r}")
        if not _is_observed(record):
            raise TypeError(f"an observation holds distances in [0, 1] and true or false, got {record!r}")
        observations.append(Observation(**{**record, "distances": tuple(record["distances"])}))
    return observations


def _is_observed(record: Mapping[str, Any]) -> bool:
    """True if the fields hold what an observation can."""
    index, distances = record["index"], record["distances"]
    if not isinstance(distances, (list, tuple)) or type(index) is not int or index < 0:
        return False
    maybe = (record["max_distance"], record["mean_distance"], record.get("doomed_share"))
    numbers = [*distances, *(value for value in maybe if value is not None)]
    if not all(type(value) in (int, float) and 0 <= value <= 1 for value in numbers):
        return False
    return isinstance(record["truncating"], bool) and isinstance(record["converged"], bool)


class MaskWindow:
    """The newest `length` masks of all representative layers, packed to one bit per unit.

    Args:
        length (`int`): l, the number of masks to hold, at least 2.
    """

    def __init__(self, length: int) -> None:
        self.masks: deque[Packed] = deque(maxlen=length)

    @property
    def full(self) -> bool:
        """True if the window holds l masks."""
        return len(self.masks) == self.masks.maxlen

    def push(self, masks: Mapping[str, torch.Tensor], units: int) -> tuple[float, ...]:
        """Take in the newest masks and measure them against each older one in the window.

        The distance of two masks is the share of units in which they differ, over all layers together, counted in
        integers and divided once. Compared as EB Train's code does: the newest mask with each older one, not
        neighbours with each other.

        Args:
            masks (`Mapping[str, torch.Tensor]`):
                Masks by layer, as [`~hf_worm.core.masks.pack`] packs them; the same layers every time.
            units (`int`): Units of all layers together: packed masks tell it only to the next whole byte.

        Returns:
            `tuple[float, ...]`: At most l - 1 distances in [0, 1], that to the oldest mask first.
        """
        self.masks.append(dict(masks))
        *older, newest = self.masks
        return tuple(sum(count_differences(mask[name], newest[name]) for name in newest) / units for mask in older)

    def read(self, state: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> tuple[list[Packed], Packed]:
        """The masks of a search's state, once they are found to be what this window can hold.

        Args:
            state (`Mapping[str, Any]`): With `"window"`, `"start"` and `"history"`.
            shapes (`Mapping[str, torch.Size]`): The shape of each layer's mask.

        Returns:
            `tuple`: The masks of the window, oldest first, and those of the first step; the latter may be empty.

        Raises:
            ValueError: There are too few or too many masks, or a tensor is no mask of its layer's shape.
            KeyError, TypeError, AttributeError: It is no such state.
        """
        masks = [{name: mask[name].cpu() for name in shapes} for mask in state["window"]]
        start = {name: state["start"][name].cpu() for name in shapes} if state["start"] else {}
        length, observed = self.masks.maxlen or 0, len(state["history"])
        if len(masks) != min(observed, length):
            raise ValueError(
                f"The state of the search is damaged: {observed} observations and a window of {length} need "
                f"{min(observed, length)} masks, got {len(masks)}."
            )
        for mask in [*masks, start] if start else masks:
            for name, shape in shapes.items():
                unpack(mask[name], shape)  # raises where it is not a mask of that shape
        return masks, start
