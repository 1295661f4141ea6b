"""Weights to keep masks, the distance of two masks, and masks in one bit per unit."""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .sharding import full, is_sharded

# Read as an integer and without their sign, the bits of a float have its magnitude's order: selection on integers is
# exact for every float type (bfloat16, which NumPy lacks, included), and fast.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class NotFiniteError(ValueError):
    """NaN or infinite weights have no magnitude to rank."""


def keep_mask(weights: torch.Tensor, prune_ratio: float) -> torch.Tensor:
    """Mask of the weights that stay when `round(prune_ratio * n)` of n go, those of the smallest magnitude.

    Of equal magnitudes, the one with the lower flat index goes first. Equals the naive

        order = weights.abs().flatten().argsort(stable=True)
        mask = torch.ones(weights.numel(), dtype=torch.bool)
        mask[order[: round(prune_ratio * weights.numel())]] = False

    by a selection instead of a sort.

    Args:
        weights (`torch.Tensor`): Floating point, of any shape; their scores are their absolute values.
        prune_ratio (`float`): p, in [0, 1).

    Returns:
        `torch.Tensor`: `bool` of the shape of `weights`, on their device (where they are sharded: whole, on the CPU),
        `True` = keep.

    Raises:
        NotFiniteError: A weight is NaN or infinite.
    """
    return _keep_in_turn([weights], [prune_ratio])[0]


def keep_masks(weights: Sequence[torch.Tensor], prune_ratios: Sequence[float]) -> list[torch.Tensor]:
    """One [`keep_mask`] for each tensor of weights; on the CPU several at once.

    Sharded tensors are gathered one at a time, by all processes in the same order.

    Args:
        weights (`Sequence[torch.Tensor]`): As for [`keep_mask`].
        prune_ratios (`Sequence[float]`): p for each tensor, in [0, 1).
    """
    if any(layer.device.type != "cpu" or is_sharded(layer) for layer in weights):
        return _keep_in_turn(weights, prune_ratios)
    workers = max(min(torch.get_num_threads(), len(weights)), 1)
    masks = list(weights)
    with ThreadPoolExecutor(workers) as pool:  # NumPy works outside the interpreter's lock
        shares = pool.map(
            _keep_in_turn, *([every[i::workers] for i in range(workers)] for every in (weights, prune_ratios))
        )
        for i, share in enumerate(shares):
            masks[i::workers] = share
    return masks


def keep_masks_over_all(
    weights: Iterable[torch.Tensor], shapes: Sequence[torch.Size], prune_ratio: float
) -> list[torch.Tensor]:
    """The masks of one [`keep_mask`] over all tensors of weights together.

    Args:
        weights (`Iterable[torch.Tensor]`): As for [`keep_mask`]; asked for one at a time, and gathered where sharded.
        shapes (`Sequence[torch.Size]`): Their shapes.
        prune_ratio (`float`): p, in [0, 1).
    """
    sizes = [shape.numel() for shape in shapes]
    parts = torch.split(keep_mask(_in_one(weights, sizes), prune_ratio), sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _in_one(weights: Iterable[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    """All weights in one flat tensor, of a type that holds them all."""
    together = torch.empty(0)
    filled = 0
    for layer, size in zip(weights, sizes, strict=True):
        if not filled:
            together = torch.empty(sum(sizes), dtype=layer.dtype, device=layer.device)
        together = together.to(torch.promote_types(together.dtype, layer.dtype))
        together[filled : filled + size].view(layer.shape).copy_(full(layer).detach())
        filled += size
    return together


def _keep_in_turn(weights: Sequence[torch.Tensor], prune_ratios: Sequence[float]) -> list[torch.Tensor]:
    buffers: dict[torch.dtype, npt.NDArray[Any]] = {}
    masks = []
    for layer, prune_ratio in zip(weights, prune_ratios, strict=True):
        mask = _keep(full(layer), prune_ratio, buffers)
        masks.append(mask.cpu() if is_sharded(layer) else mask)  # no device holds all of all layers, not even of masks
    return masks


def _keep(weights: torch.Tensor, prune_ratio: float, buffers: dict[torch.dtype, npt.NDArray[Any]]) -> torch.Tensor:
    flat = weights.detach().flatten()
    if not len(flat):
        return torch.ones_like(weights, dtype=torch.bool)
    bits = flat.view(_BITS[flat.element_size()])
    infinity = int(torch.tensor(torch.inf, dtype=flat.dtype).view(bits.dtype))
    pruned = round(prune_ratio * flat.numel())
    if flat.device.type == "cpu":
        keep = _select_on_cpu(bits, pruned, infinity, buffers)
    else:
        keep = _select(bits, pruned, infinity)
    return keep.view(weights.shape)


def _select_on_cpu(
    bits: torch.Tensor, pruned: int, infinity: int, buffers: dict[torch.dtype, npt.NDArray[Any]]
) -> torch.Tensor:
    """As [`_select`], by NumPy in a fraction of torch's time; in buffers, since fresh memory costs more than that."""
    if bits.dtype not in buffers or len(bits) > buffers[bits.dtype].shape[1]:
        buffers[bits.dtype] = np.empty((2, len(bits)), dtype=bits.numpy().dtype)
    scores, parted = buffers[bits.dtype][:, : len(bits)]
    np.bitwise_and(bits.numpy(), np.iinfo(scores.dtype).max, out=scores)
    if scores.max() >= infinity:
        raise NotFiniteError("NaN or infinite weights have no magnitude to rank.")
    if pruned == 0:
        return torch.ones(len(scores), dtype=torch.bool)
    parted[:] = scores
    parted.partition(pruned - 1)
    threshold = parted[pruned - 1]
    keep = scores > threshold
    kept_ties = len(scores) - pruned - np.count_nonzero(keep)
    if kept_ties:
        keep[np.flatnonzero(scores == threshold)[-kept_ties:]] = True
    return torch.from_numpy(keep)


def _select(bits: torch.Tensor, pruned: int, infinity: int) -> torch.Tensor:
    scores = bits & torch.iinfo(bits.dtype).max
    if scores.max() >= infinity:
        raise NotFiniteError("NaN or infinite weights have no magnitude to rank.")
    if pruned == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if torch.are_deterministic_algorithms_enabled():  # older versions of torch refuse `kthvalue` on a GPU then
        threshold = scores.sort().values[pruned - 1]
    else:
        threshold = scores.kthvalue(pruned).values
    keep = scores > threshold
    kept_ties = len(scores) - pruned - int(keep.count_nonzero())
    if kept_ties:
        keep[(scores == threshold).nonzero().flatten()[-kept_ties:]] = True
    return keep


def keep_n_of_m(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Mask that keeps the n largest of each m neighbours along the last dimension.

    Of equal scores, the one with the lower index goes first. Equals the naive

        order = scores.unflatten(-1, (-1, m)).argsort(-1, stable=True)
        mask = torch.ones(order.shape, dtype=torch.bool)
        mask.scatter_(-1, order[..., : m - n], False)
        mask = mask.flatten(-2)

    by comparisons instead of many small sorts.

    Args:
        scores (`torch.Tensor`): At least 0, of a shape whose last dimension m divides.
        n, m (`int`): 0 < n < m.

    Returns:
        `torch.Tensor`: `bool` of the shape of `scores`, on their device (where they are sharded: whole, on the CPU).

    Raises:
        NotFiniteError: A score is NaN or infinite.
    """
    whole = full(scores).detach()
    if not whole.isfinite().all():
        raise NotFiniteError("NaN or infinite weights have no magnitude to rank.")
    columns = whole.view(*whole.shape[:-1], -1, m).unbind(-1)
    kept = []
    for place, column in enumerate(columns):
        larger = torch.zeros_like(column, dtype=torch.int32)
        for other, neighbour in enumerate(columns):
            if other != place:
                larger += neighbour >= column if other > place else neighbour > column
        kept.append(larger < n)
    mask = torch.stack(kept, -1).flatten(-2)
    return mask.cpu() if is_sharded(scores) else mask


def last_of_largest(scores: torch.Tensor) -> torch.Tensor:
    """The mask that keeps one unit alone: the one that would go last.

    Args:
        scores (`torch.Tensor`): At least 0, of shape `(units,)`.
    """
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[len(scores) - 1 - int(scores.flip(0).argmax())] = True
    return mask


def pack(mask: torch.Tensor) -> torch.Tensor:
    """A mask in one bit per unit: `uint8` of shape `(ceil(n / 8),)` on the CPU; flat index 0 is the highest bit."""
    return torch.from_numpy(np.packbits(mask.cpu().flatten().numpy()))


def unpack(packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The `bool` mask of that shape, on the CPU, that [`pack`] packed.

    Raises:
        ValueError: `packed` is not what [`pack`] makes of a mask of that shape.
    """
    if not all(type(size) is int and size >= 0 for size in shape):  # before `prod`, which also multiplies texts
        raise ValueError(f"A shape is whole numbers of at least 0, got {tuple(shape)}.")
    units = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != ((units + 7) // 8,):
        raise ValueError(
            f"A packed mask of shape {tuple(shape)} is `uint8` of shape ({(units + 7) // 8},), "
            f"got {packed.dtype} of shape {tuple(packed.shape)}."
        )
    bits = np.unpackbits(packed.numpy())
    if bits[units:].any():
        raise ValueError(f"The packed mask of shape {tuple(shape)} has bits set past its {units} units.")
    return torch.from_numpy(bits[:units].view(np.bool_)).view(tuple(shape))


def pruned_share(masked: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Share of the L1 norm of all weights that those hold which the masks prune, in [0, 1]; 0 where all are 0.

    Sharded tensors are gathered one at a time, by all processes in the same order.

    Args:
        masked (`Iterable[tuple[torch.Tensor, torch.Tensor]]`):
            Weights, floating point, and their mask, `bool`, `True` = keep; asked for one at a time.
    """
    pruned = whole = 0.0
    for weights, mask in masked:
        scores = full(weights).detach().abs()
        pruned += scores.masked_fill(mask.to(scores.device), 0).sum(dtype=torch.float64).item()
        whole += scores.sum(dtype=torch.float64).item()
    return pruned / whole if whole else 0.0


def count_differences(first: torch.Tensor, second: torch.Tensor) -> int:
    """Units in which two packed masks differ: the set bits of their XOR."""
    return _count_bits(np.bitwise_xor(first.numpy(), second.numpy()))


def count_kept(packed: torch.Tensor) -> int:
    """Units that a packed mask keeps."""
    return _count_bits(packed.numpy())


def _count_bits(packed: npt.NDArray[np.uint8]) -> int:
    words = len(packed) // 8 * 8  # eight bytes at a time, and the rest one by one
    in_words = np.bitwise_count(packed[:words].view(np.uint64)).sum(dtype=np.int64)
    return int(in_words + np.bitwise_count(packed[words:]).sum(dtype=np.int64))
