"""Scores to keep masks, the distance of two masks, and masks in one bit per unit."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

# Read as an integer, the bits of a float that is not negative keep its order: selection on integers is exact for every
# float type (bfloat16, which NumPy lacks, included), and fast.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_mask(scores: torch.Tensor, prune_ratio: float) -> torch.Tensor:
    """Mask of the units that stay when `round(prune_ratio * n)` of n units go, those with the smallest score.

    Of equal scores, the one with the lower flat index goes first. Equals the naive

        order = scores.flatten().argsort(stable=True)
        mask = torch.ones(scores.numel(), dtype=torch.bool)
        mask[order[: round(prune_ratio * scores.numel())]] = False

    by a selection instead of a sort.

    Args:
        scores (`torch.Tensor`): Floating point, finite and not negative, of any shape.
        prune_ratio (`float`): p, in [0, 1).

    Returns:
        `torch.Tensor`: `bool` of the shape of `scores`, on its device, `True` = keep.
    """
    flat = scores.flatten()
    pruned = round(prune_ratio * flat.numel())
    if pruned == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    bits = flat.view(_BITS[flat.element_size()])
    threshold = _kth_smallest(bits, pruned)
    keep = bits > threshold
    kept_ties = flat.numel() - pruned - int(keep.count_nonzero())
    if kept_ties:
        keep[(bits == threshold).nonzero().flatten()[-kept_ties:]] = True
    return keep.view(scores.shape)


def keep_masks(scores: Iterable[torch.Tensor], prune_ratio: float, scope: str) -> list[torch.Tensor]:
    """One [`keep_mask`] for each tensor of scores (`scope="layer"`), or one over all of them together (`"global"`)."""
    if scope == "layer":
        return [keep_mask(layer, prune_ratio) for layer in scores]
    layers = list(scores)
    together = keep_mask(torch.cat([layer.flatten() for layer in layers]), prune_ratio)
    parts = torch.split(together, [layer.numel() for layer in layers])
    return [part.view(layer.shape) for part, layer in zip(parts, layers, strict=True)]


def _kth_smallest(bits: torch.Tensor, k: int) -> int:
    if bits.device.type == "cpu":  # NumPy's partition runs several times faster than torch's kthvalue here
        return int(np.partition(bits.numpy(), k - 1)[k - 1])
    return int(bits.kthvalue(k).values)


def pack(mask: torch.Tensor) -> torch.Tensor:
    """A mask in one bit per unit: `uint8` of shape `(ceil(n / 8),)` on the CPU; flat index 0 is the highest bit."""
    return torch.from_numpy(np.packbits(mask.cpu().flatten().numpy()))


def unpack(packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The `bool` mask of that shape, on the CPU, that [`pack`] packed.

    Raises:
        ValueError: `packed` is not what [`pack`] makes of a mask of that shape.
    """
    units = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != ((units + 7) // 8,):
        raise ValueError(
            f"A packed mask of shape {tuple(shape)} is `uint8` of shape ({(units + 7) // 8},), "
            f"got {packed.dtype} of shape {tuple(packed.shape)}."
        )
    bits = np.unpackbits(packed.numpy())
    if bits[units:].any():
        raise ValueError(f"The packed mask of shape {tuple(shape)} has bits set past its {units} units.")
    return torch.from_numpy(bits[:units].astype(bool)).view(*shape)


def count_differences(first: torch.Tensor, second: torch.Tensor) -> int:
    """Units in which two packed masks differ: the set bits of their XOR."""
    return int(np.bitwise_count(np.bitwise_xor(first.numpy(), second.numpy())).sum())


def count_kept(packed: torch.Tensor) -> int:
    """Units that a packed mask keeps."""
    return int(np.bitwise_count(packed.numpy()).sum())
