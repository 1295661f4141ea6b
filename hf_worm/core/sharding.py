"""Tensors of which each process holds a shard: DTensors, as FSDP2's `fully_shard` makes them of parameters."""

from typing import TYPE_CHECKING, TypeGuard

import torch

_AVAILABLE = torch.distributed.is_available()  # some builds of torch have no `torch.distributed`, and so no DTensor
if _AVAILABLE or TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Replicate


def is_sharded(tensor: torch.Tensor) -> TypeGuard["DTensor"]:
    """True if each process holds its own part of the tensor."""
    return _AVAILABLE and isinstance(tensor, DTensor)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, on every process: gathered where it is sharded, and so to be called by all of them at once."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        if tensor.device.type != tensor.device_mesh.device_type:  # offloaded: gathered where the processes communicate
            return full(tensor.to(tensor.device_mesh.device_type))
        return tensor.full_tensor()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor, in the same memory: its shard where it is sharded, else all of it."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def shard_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's part of `tensor`, sharded as `like` is; `tensor` itself where `like` is not.

    Nothing is communicated.

    Args:
        tensor (`torch.Tensor`): Of a shape that broadcasts to that of `like`, the same on every process.
        like (`torch.Tensor`): The tensor that it goes with.

    Returns:
        `torch.Tensor`: Of a shape that broadcasts to that of `local(like)`, in memory of its own where it is a shard.
    """
    if not is_sharded(like):
        return tensor
    mesh = like.device_mesh
    whole = DTensor.from_local(tensor.expand(like.shape), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return local(whole.redistribute(placements=like.placements))


def sharded_as(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The tensor of the shape of `like` of which this process holds `part`, sharded as `like` is; `part` itself if not.

    Args:
        part (`torch.Tensor`): Of the shape of `local(like)`; the memory is shared.
        like (`torch.Tensor`): The tensor that it goes with.
    """
    if not is_sharded(like):
        return part
    stride = torch.empty(like.shape, device="meta").stride()
    return DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=stride)


def on_every_process(flag: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """True if a flag is set on all processes that hold a shard of `like`; to be called by all of them at once.

    Args:
        flag (`torch.Tensor`): `bool`, without dimensions.
        like (`torch.Tensor`): A sharded tensor.
    """
    if not is_sharded(like):
        return flag
    together = flag.to(like.device_mesh.device_type, torch.int32)
    for dimension in range(like.device_mesh.ndim):
        group = like.device_mesh.get_group(dimension)
        torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MIN, group=group)
    return together.to(flag.device, torch.bool)
