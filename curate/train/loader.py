"""Batches of pixels and tokens, decoded ahead of the step by threads; what is in batch k depends on the seed alone."""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from curate import images
from curate.errors import CurateError
from curate.train.crops import CROPS, Crop
from curate.train.index import Index
from curate.train.order import Order, uniform, uniform_bits
from curate.train.ranks import ALONE, Ranks

AHEAD = 3  # batches decoded before they are asked for
CHUNK = 32  # samples that one thread decodes at a time
OPEN_TARS = 256  # file descriptors kept
REPLACEMENTS = 100  # tries to replace an image that cannot be decoded before the data is called broken
# what the random numbers are for: crops take 1, 3, 5 ..., Order the even ones
REPLACE = 2**32 + 1


@dataclass(frozen=True)
class Batch:
    """`pixels` uint8 [n, 3, size, size], with several views [n, views, 3, size, size]; `tokens` int64 [n, context];
    `rows` of the index, and those of the rows that were asked for first but whose images could not be decoded."""

    pixels: torch.Tensor
    tokens: torch.Tensor
    rows: np.ndarray
    undecodable: list[int]


class Loader:
    """Batch k holds the samples at places k * batch_size ... of the stream of `seed`."""

    def __init__(self, index: Index, tokenizer: Callable[[list[str]], torch.Tensor], image_size: int,
                 batch_size: int, seed: int = 0, workers: int | None = None, crop: Crop = CROPS["square"],
                 views: int = 1, ranks: Ranks = ALONE):  # fmt: skip
        self.index, self.tokenizer, self.image_size = index, tokenizer, image_size
        self.batch_size, self.seed, self.crop, self.views = batch_size, seed, crop, views
        self.ranks = ranks
        self.workers = os.cpu_count() or 1 if workers is None else max(1, workers)
        self.order = Order(len(index), seed)
        self._columns = {name: index.table[name].to_numpy() for name in ("tar", "offset", "size")}
        self._captions = index.table["caption"].combine_chunks()
        self._descriptor = functools.lru_cache(maxsize=OPEN_TARS)(_OpenTar)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` to `stop` - 1, the next ones decoded meanwhile."""
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            ahead: deque[list[Future[Batch]]] = deque()
            try:
                for step in range(start, stop + AHEAD):
                    if step < stop:
                        ahead.append([pool.submit(self._chunk, places) for places in self._places(step)])
                    if step >= start + AHEAD:
                        yield _joined([future.result() for future in ahead.popleft()])
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _places(self, step: int) -> list[np.ndarray]:
        own = self.batch_size // self.ranks.size  # this process's part of the batch
        places = step * self.batch_size + self.ranks.rank * own + np.arange(own)
        return np.split(places, range(CHUNK, len(places), CHUNK))

    def _chunk(self, places: np.ndarray) -> Batch:
        pixels = torch.empty(len(places), self.views, 3, self.image_size, self.image_size, dtype=torch.uint8)
        rows = self.index.rows[self.order.samples(places)]
        undecodable: list[int] = []
        draws = self._draws(places)
        for at, place in enumerate(places.tolist()):
            rows[at], image = self._decoded(place, int(rows[at]), undecodable)
            for view in range(self.views):
                pixels[at, view] = self.crop.cut(image, self.image_size, draws[at, view])
        pixels = pixels if self.views > 1 else pixels[:, 0]
        captions = [self._captions[row].as_py() for row in rows.tolist()]
        return Batch(pixels, self.tokenizer(captions), rows, undecodable)

    def _draws(self, places: np.ndarray) -> np.ndarray:
        """float64 [n, views, draws of the crop]."""
        count = self.views * self.crop.draws
        found = [uniform(self.seed, 2 * number + 1, places) for number in range(count)]
        return np.stack(found or [np.zeros((len(places), 0))], axis=-1).reshape(len(places), self.views, -1)

    def _decoded(self, place: int, row: int, undecodable: list[int]) -> tuple[int, np.ndarray]:
        """The row and its image; another row, chosen by (seed, place), where that image cannot be decoded."""
        for attempt in range(REPLACEMENTS):
            try:
                return row, images.decode(self._read(row))
            except images.UndecodableImage as error:
                undecodable.append(row)
                reason = f"{self.index.uids([row])[0]}: {error}"
                bits = uniform_bits(self.seed, REPLACE, np.array([place * REPLACEMENTS + attempt]))[0]
                row = int(self.index.rows[int(bits % np.uint64(len(self.index)))])
        raise CurateError(f"{REPLACEMENTS} images one after the other could not be decoded, the last is {reason}")

    def _read(self, row: int) -> bytes:
        tar, offset, size = (int(self._columns[name][row]) for name in ("tar", "offset", "size"))
        return self._descriptor(self.index.tars[tar]).read(offset, size)


class _OpenTar:
    """A file descriptor, closed when it is no longer kept."""

    def __init__(self, path: str):
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def __del__(self) -> None:
        os.close(self.descriptor)


def _joined(chunks: list[Batch]) -> Batch:
    return Batch(
        torch.cat([chunk.pixels for chunk in chunks]),
        torch.cat([chunk.tokens for chunk in chunks]),
        np.concatenate([chunk.rows for chunk in chunks]),
        [row for chunk in chunks for row in chunk.undecodable],
    )
