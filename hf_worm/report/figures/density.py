"""Makes masks small enough to be drawn: the share kept in each block of units."""

import numpy as np
import numpy.typing as npt
import torch


def block(length: int, most: int) -> int:
    """Choose the units to a block: the least power of two that parts `length` units into at most `most` blocks.

    The size of an attention head is mostly a power of two, or a multiple of one: no block then lies in two heads.
    """
    size = 1
    while -(-length // size) > most:
        size *= 2
    return size


def density(mask: torch.Tensor, most: int) -> npt.NDArray[np.float64]:
    """Compute the share of kept units in each block of a mask, in [0, 1].

    Args:
        mask (`torch.Tensor`): `bool`, `True` = keep. Of more than two dimensions, all but the first count as columns;
            of one, it is a single row.
        most (`int`): Blocks in either direction, at the most.

    Returns:
        `np.ndarray` of shape `(ceil(rows / block(rows, most)), ceil(columns / block(columns, most)))`. The last block
        of a direction may be smaller than the others.
    """
    kept = np.atleast_2d(mask.flatten(1).numpy() if mask.dim() > 1 else mask.numpy())
    units: npt.NDArray[np.int64] = np.ones((1, 1), dtype=np.int64)
    for axis, length in enumerate(kept.shape):
        starts = np.arange(0, length, block(length, most))
        kept = np.add.reduceat(kept, starts, axis=axis, dtype=np.int64)
        sizes = np.diff(np.append(starts, length))
        units = units * (sizes[:, None] if axis == 0 else sizes)
    return np.asarray(kept / units)
