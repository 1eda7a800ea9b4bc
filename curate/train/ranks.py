"""The processes of a run: each encodes its part of every batch, and together they take the step that one would take.

Gradients are summed over the processes, never averaged: each of them holds its own part of the gradient of one loss.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from curate import work
from curate.errors import CurateError

PATIENCE = timedelta(minutes=30)  # that processes wait for each other in an exchange
ALONE_AT_MOST = timedelta(days=7)  # that they wait while the first one works alone: it builds the index, it evaluates
BUCKET = 1 << 25  # numbers that are summed over the processes at a time: 128 MB of fp32


@dataclass(frozen=True)
class Ranks:
    """This process is the `rank`-th of `size`. With one process nothing is exchanged."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"  # what is exchanged lies there
    patient: Any = None  # the process group in which they wait for the first one

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    @property
    def here(self) -> int:
        """How many of the processes share this machine: torchrun says it."""
        return min(self.size, int(os.environ.get("LOCAL_WORLD_SIZE", self.size)))

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        """[n, ...] of every process, in the order of the ranks -> [size * n, ...], without a gradient."""
        if self.size == 1:
            return mine
        mine = mine.contiguous()
        every = torch.empty(self.size * len(mine), *mine.shape[1:], dtype=mine.dtype, device=mine.device)
        with all_there():
            dist.all_gather(list(every.chunk(self.size)), mine)
        return every

    def sum(self, mine: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in place."""
        if self.size > 1:
            with all_there():
                dist.all_reduce(mine)
        return mine

    def logsumexp(self, mine: torch.Tensor) -> torch.Tensor:
        """log(sum(exp)) over the processes, of each number on its own."""
        if self.size == 1:
            return mine
        highest = mine.clone()
        with all_there():
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

    def joint(self, items: list[str], stopped: list[str]) -> tuple[list[str], list[str]]:
        """The items of all processes, and the signals that any of them was sent."""
        if self.size == 1:
            return items, stopped
        met = self.sum(torch.tensor([len(items), len(stopped)], device=self.device))
        if not met.any():
            return items, stopped
        return self.together(items), self.together(stopped)

    def together(self, items: list[str]) -> list[str]:
        """The items of all processes, in the order of the ranks."""
        every: list[Any] = [items] * self.size
        if self.size > 1:
            with all_there():
                dist.all_gather_object(every, items)
        return [item for part in every for item in part]

    def wait(self) -> None:
        """Until every process is here, however long the first one works alone."""
        if self.size > 1:
            with all_there():
                dist.barrier(self.patient)

    def _sum_bucket(self, bucket: list[torch.Tensor]) -> None:
        flat = self.sum(torch.cat([tensor.flatten() for tensor in bucket]))
        for tensor, summed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(summed.view_as(tensor))


ALONE = Ranks()


@contextmanager
def all_there() -> Iterator[None]:
    """Exchanges with the others. Raises CurateError where one of them has ended or does not come."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        if "timed out" in str(error).lower():
            minutes = PATIENCE.total_seconds() / 60
            raise CurateError(f"another process of this run has not come for {minutes:g} minutes: it hangs, or has far "
                              "more to do; the last checkpoint is kept, the same command goes on from there"
                              ) from error  # fmt: skip
        raise CurateError("another process of this run has ended, and says why if it could; the last checkpoint is "
                          "kept, the same command goes on from there") from error  # fmt: skip


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """This process among those that torchrun started, or ALONE. Raises CurateError where the others do not come."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise CurateError(f"the {size} processes cannot meet: {str(error).splitlines()[0]}") from error
    try:
        mine = Ranks(dist.get_rank(), size, str(device), dist.new_group(backend="gloo", timeout=ALONE_AT_MOST))
        with ExitStack() as stack:
            if not mine.first:  # one process speaks
                work.QUIET = True
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield mine
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """Of the processes that torchrun started on a machine with GPUs each has its own. Raises CurateError where there
    are fewer GPUs."""
    local, there = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    if local is None or not there or not (device == "auto" or device.startswith("cuda")):
        return device
    if int(local) >= there:
        raise CurateError(f"process {local} of this machine has no GPU: there are {there}")
    return f"cuda:{local}"


def check(ranks: Ranks, batch_size: int) -> None:
    """Raises CurateError where a batch cannot be shared out equally."""
    if batch_size % ranks.size:
        near = max(1, round(batch_size / ranks.size)) * ranks.size
        raise CurateError(
            f"a batch of {batch_size:,} cannot be shared by {ranks.size} processes: --batch-size {near}, "
            f"or as many processes as divide it"
        )
