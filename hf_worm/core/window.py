"""The last l masks, one bit per unit, and the distances of the newest."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hf_worm.core.masks import count_differences


@dataclass(frozen=True)
class Observation:
    """What one sampling of the masks showed.

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


class MaskWindow:
    """The newest `length` masks of all representative layers, packed to one bit per unit.

    Args:
        length (`int`): l, the number of masks to hold, at least 2.
    """

    def __init__(self, length: int) -> None:
        self.masks: deque[dict[str, torch.Tensor]] = deque(maxlen=length)

    @property
    def full(self) -> bool:
        """Whether the window holds l masks."""
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
