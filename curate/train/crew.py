"""Threads, or processes of threads, that fill the buffers a step reads; no pixel is sent between processes."""

import functools
import math
import mmap
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import connection
from typing import Any, cast

import numpy as np
import torch

from curate.errors import CurateError
from curate.train.reader import Reader

THREADS = 4  # of a process
CHUNK = 8  # samples that one thread decodes at a time
TASK = 128  # samples that one process is given at a time
ALIGNED = 4096

Found = tuple[np.ndarray, list[int]]  # pairs, those that could not be decoded


class Ring:
    """Buffers of `slots` batches, made once: `pixels` uint8 [n, ...] and `tokens` int64 [n, context] of each slot.
    Tensors of their own, so that autograd does not take what is written into one for a change of another.

    shared: they lie in memory that other processes of this machine map too (not in /dev/shm, which containers keep
    small). pinned: a GPU reads them directly.
    """

    pixels: list[torch.Tensor]
    tokens: list[torch.Tensor]

    def __init__(self, slots: int, samples: int, shape: Sequence[int], context: int, shared: bool = False,
                 pinned: bool = False):  # fmt: skip
        self.slots, self.shape, self.context = slots, (samples, *shape), (samples, context)
        self.pinned: list[torch.Tensor] = []
        self.memory = f"/proc/{os.getpid()}/fd/{os.memfd_create('curate-batches')}" if shared else None
        if self.memory:
            os.truncate(self.memory, slots * self._bytes)
            self._map()
            for memory in (*self.pixels, *self.tokens) if pinned else ():
                self._pin(memory)
        else:
            self.pixels = [torch.empty(self.shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(slots)]
            self.tokens = [torch.empty(self.context, dtype=torch.long, pin_memory=pinned) for _ in range(slots)]

    @property
    def _tokens_at(self) -> int:
        return -(-math.prod(self.shape) // ALIGNED) * ALIGNED

    @property
    def _bytes(self) -> int:
        """Of a slot, in whole pages: pinned memory may share none."""
        return self._tokens_at + -(-8 * math.prod(self.context) // ALIGNED) * ALIGNED

    def _map(self) -> None:
        assert self.memory
        with open(self.memory, "r+b") as file:
            memory = mmap.mmap(file.fileno(), self.slots * self._bytes)
        starts = range(0, self.slots * self._bytes, self._bytes)
        self.pixels = [_tensor(memory, torch.uint8, self.shape, start) for start in starts]
        self.tokens = [_tensor(memory, torch.long, self.context, start + self._tokens_at) for start in starts]

    def _pin(self, memory: torch.Tensor) -> None:
        """Let the GPU read memory that other processes map as well."""
        if int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)):
            self.close()
            raise CurateError(f"{memory.nbytes / 1e9:.1f} GB of batches cannot be pinned; use a smaller --batch-size")
        self.pinned.append(memory)

    def close(self) -> None:
        """Give the file back; the memory goes with the last tensor. CUDA has to let go of it first: it would take the
        next mapping at the same address for this one."""
        while self.pinned:
            torch.cuda.cudart().cudaHostUnregister(self.pinned.pop().data_ptr())
        if self.memory:
            os.close(int(self.memory.rsplit("/", 1)[1]))

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("slots", "shape", "context", "memory")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, pinned=[])
        self._map()


class Crew(AbstractContextManager["Crew"]):
    """Fills slots of a ring. `submit` gives one future for each part of the batch, in their order."""

    ring: Ring

    def submit(self, slot: int, places: np.ndarray) -> list[Future[Found]]:
        raise NotImplementedError


class Threads(Crew):
    """Threads of this process."""

    def __init__(self, reader: Reader, ring: Ring, threads: int):
        self.reader, self.ring, self.pool = reader, ring, ThreadPoolExecutor(threads, "decode")

    def submit(self, slot: int, places: np.ndarray) -> list[Future[Found]]:
        return [self.pool.submit(_fill, self.reader, self.ring, slot, at, places[at : at + CHUNK])
                for at in range(0, len(places), CHUNK)]  # fmt: skip

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.ring.close()


class Processes(Crew):
    """Processes of THREADS threads each."""

    def __init__(self, reader: Reader, ring: Ring, processes: int):
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise CurateError('a script that trains with many workers is imported by each of them: put its calls under '
                              'if __name__ == "__main__":')  # fmt: skip
        self.ring = ring
        # spawn, not fork: torch owns threads that a fork would lose
        self.pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (reader, ring))

    def submit(self, slot: int, places: np.ndarray) -> list[Future[Found]]:
        return [self.pool.submit(_fill_many, slot, at, places[at : at + TASK]) for at in range(0, len(places), TASK)]

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.ring.close()


def _fill(reader: Reader, ring: Ring, slot: int, at: int, places: np.ndarray) -> Found:
    end = at + len(places)
    return reader.fill(places, ring.pixels[slot][at:end], ring.tokens[slot][at:end])


_ours: dict[str, Any] = {}  # of a decoding process: its reader, ring and threads


def _begin(reader: Reader, ring: Ring) -> None:
    os.setpgid(0, 0)  # Ctrl-C and SIGTERM to the group are for the driver: it saves, and ends its processes itself
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(1)
    _ours.update(reader=reader, ring=ring, pool=ThreadPoolExecutor(THREADS, "decode"))


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver
    connection.wait([driver.sentinel])
    os._exit(1)


def _fill_many(slot: int, at: int, places: np.ndarray) -> Found:
    fill = functools.partial(_fill, _ours["reader"], _ours["ring"], slot)
    starts = range(0, len(places), CHUNK)
    found = _ours["pool"].map(lambda start: fill(at + start, places[start : start + CHUNK]), starts)
    return _joined(cast(Iterator[Found], found))


def _joined(found: Iterator[Found]) -> Found:
    parts = list(found)
    return np.concatenate([pairs for pairs, _ in parts]), [pair for _, lost in parts for pair in lost]


def _tensor(memory: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], at: int) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=at).view(shape)
