"""Tensors of which each process may hold but its part, as `sharding` shares them out; whole ones pass as they are."""

from collections.abc import Iterator
from typing import Any

import torch

from curate.train.ranks import all_there


def blocks(module: torch.nn.Module) -> Iterator[Any]:
    """What is gathered at a time: the items with weights of the outermost lists of modules."""
    for part in module.children():
        if isinstance(part, torch.nn.ModuleList | torch.nn.Sequential):
            yield from (item for item in part if next(item.parameters(), None) is not None)
        else:
            yield from blocks(part)


def own(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, in place."""
    return tensor.to_local() if is_shared(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor put together; every process asks at the same time."""
    if not is_shared(tensor):
        return tensor
    with all_there():
        return tensor.full_tensor()  # type: ignore[attr-defined]


def like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A whole tensor, equal in every process, shared out and laid in memory as `other` is; one of another shape as it
    comes."""
    if tensor.shape != other.shape:
        return tensor
    if not is_shared(other):
        return torch.empty_like(other, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    distribute = torch.distributed.tensor.distribute_tensor
    return distribute(tensor, other.device_mesh, other.placements, src_data_rank=None)  # type: ignore[attr-defined]


def is_shared(tensor: torch.Tensor | None) -> bool:
    """Whether it is a DTensor; asked without torch.distributed.tensor, which takes a second to import."""
    return hasattr(tensor, "placements")
