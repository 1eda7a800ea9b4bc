"""Batches of pixels and tokens, decoded ahead of the step; what is in batch k depends on the seed alone.

On few cores threads of this process decode, on many (8 and more) processes of 4 threads each, which Python's lock does
not hold up. Either way they write into the buffers that the step reads, which are used again and again.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import torch

from curate.errors import CurateError
from curate.train.crew import THREADS, Crew, Processes, Ring, Threads
from curate.train.crops import CROPS, Crop
from curate.train.fetch import Fetcher
from curate.train.index import Index
from curate.train.order import WINDOW
from curate.train.ranks import ALONE, Ranks
from curate.train.reader import Reader

AHEAD = 3  # batches decoded before they are asked for
AHEAD_SAMPLES = 8192  # fewer of large batches, at least one
BEHIND = 1  # batches that another rank may be late
FEWEST = 8  # decoding threads from which on they live in processes


@dataclass(frozen=True)
class Batch:
    """`pixels` uint8 [n, 3, size, size], with several views [n, views, 3, size, size]; `tokens` int64 [n, context];
    `rows` of the index, and those of the rows that were asked for first but whose images could not be decoded.
    Pixels and tokens are overwritten once the next batch is asked for."""

    pixels: torch.Tensor
    tokens: torch.Tensor
    rows: np.ndarray
    undecodable: list[int]


class Loader:
    """Batch k holds the samples at places k * batch_size ... of the stream of `seed`; of several ranks each gets its
    slice, in their order.

    workers: decoding threads, by default one for each core of this rank's share. pinned: buffers that a GPU copies from
    without a detour. window: samples shuffled together. space: bytes for tars that are fetched from a store.
    """

    def __init__(self, index: Index, tokenizer: Callable[[list[str]], torch.Tensor], image_size: int,
                 batch_size: int, seed: int = 0, workers: int | None = None, crop: Crop = CROPS["square"],
                 views: int = 1, ranks: Ranks = ALONE, pinned: bool = False, window: int = WINDOW,
                 space: float = float("inf")):  # fmt: skip
        self.index, self.batch_size, self.seed, self.ranks, self.pinned = index, batch_size, seed, ranks, pinned
        self.reader = Reader(index, tokenizer, image_size, seed, crop, views, window)
        cores = len(os.sched_getaffinity(0)) // ranks.here
        self.workers = max(1, cores if workers is None else workers)
        self.fetcher = Fetcher(index, self.reader.order, space)
        self.shape = (views, 3, image_size, image_size) if views > 1 else (3, image_size, image_size)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` to `stop` - 1, the next ones decoded meanwhile. Raises CurateError where a shard is gone."""
        own = self.batch_size // self.ranks.size
        ahead_of = max(1, min(AHEAD, AHEAD_SAMPLES // own))
        ahead: deque[list[Future[tuple[np.ndarray, list[int]]]]] = deque()
        with self.fetcher, self._crew(own, ahead_of + 1) as crew:
            for step in range(start, stop + ahead_of):
                if step < stop:
                    places = step * self.batch_size + self.ranks.rank * own + np.arange(own)
                    used = step - ahead_of - BEHIND
                    self.fetcher.ready(*(at * self.batch_size for at in (used, step, step + 1)))
                    ahead.append(crew.submit(step % (ahead_of + 1), places))
                if step >= start + ahead_of:
                    yield self._batch(crew.ring, (step - ahead_of) % (ahead_of + 1), ahead.popleft())

    def _crew(self, own: int, slots: int) -> Crew:
        in_processes = self.workers >= FEWEST
        ring = Ring(slots, own, self.shape, self.reader.context_length, in_processes, self.pinned)
        if in_processes:
            return Processes(self.reader, ring, max(1, self.workers // THREADS))
        return Threads(self.reader, ring, self.workers)

    def _batch(self, ring: Ring, slot: int, parts: list[Future[tuple[np.ndarray, list[int]]]]) -> Batch:
        try:
            found = [part.result() for part in parts]
        except BrokenProcessPool as error:
            raise CurateError(
                "a decoding process was killed (out of memory?); the last checkpoint is kept, use fewer --workers"
            ) from error
        rows = np.concatenate([rows for rows, _ in found])
        return Batch(ring.pixels[slot], ring.tokens[slot], rows, [row for _, lost in found for row in lost])
