"""The processes of a run: each encodes its part of every batch, and together they take the step that one would take.

Gradients are summed over the processes, never averaged: each of them holds its own part of the gradient of one loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

BUCKET = 1 << 25  # numbers that are summed over the processes at a time: 128 MB of fp32


@dataclass(frozen=True)
class Ranks:
    """This process is the `rank`-th of `size`. With one process nothing is exchanged."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        """[n, ...] of every process, in the order of the ranks -> [size * n, ...], without a gradient."""
        if self.size == 1:
            return mine
        mine = mine.contiguous()
        every = torch.empty(self.size * len(mine), *mine.shape[1:], dtype=mine.dtype, device=mine.device)
        dist.all_gather(list(every.chunk(self.size)), mine)
        return every

    def sum(self, mine: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(mine)
        return mine

    def logsumexp(self, mine: torch.Tensor) -> torch.Tensor:
        """log(sum(exp)) over the processes, of each number on its own."""
        if self.size == 1:
            return mine
        highest = mine.clone()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return highest + self.sum((mine - highest).exp_()).log_()

    def sum_all(self, tensors: Sequence[torch.Tensor]) -> None:
        """The sums of many tensors of one dtype over the processes, in place, few exchanges."""
        if self.size == 1 or not tensors:
            return
        bucket: list[torch.Tensor] = []
        for tensor in tensors:
            if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
                self._sum_bucket(bucket)
                bucket = []
            bucket.append(tensor)
        self._sum_bucket(bucket)

    def _sum_bucket(self, bucket: list[torch.Tensor]) -> None:
        flat = self.sum(torch.cat([tensor.flatten() for tensor in bucket]))
        for tensor, summed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(summed.view_as(tensor))


ALONE = Ranks()
