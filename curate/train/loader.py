"""Batches of pixels and tokens, decoded ahead of the step by threads; what is in batch k depends on the seed alone."""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF

from curate import images
from curate.errors import CurateError
from curate.train.index import Index
from curate.train.order import Order, uniform, uniform_bits

AHEAD = 3  # batches decoded before they are asked for
CHUNK = 32  # samples that one thread decodes at a time
OPEN_TARS = 256  # file descriptors kept
REPLACEMENTS = 100  # tries to replace an image that cannot be decoded before the data is called broken
SMALLEST_CROP = 0.9  # of the area of the largest square, open_clip's default scale
SIDE, TOP, LEFT, REPLACE = 1, 3, 5, 7  # what the random numbers are for (odd; Order takes the even ones)


@dataclass(frozen=True)
class Batch:
    """`pixels` uint8 [n, 3, size, size], `tokens` int64 [n, context], `rows` of the index, and those of the rows that
    were asked for first but whose images could not be decoded."""

    pixels: torch.Tensor
    tokens: torch.Tensor
    rows: np.ndarray
    undecodable: list[int]


class Loader:
    """Batch k holds the samples at places k * batch_size ... of the stream of `seed`."""

    def __init__(self, index: Index, tokenizer: Callable[[list[str]], torch.Tensor], image_size: int,
                 batch_size: int, seed: int = 0, workers: int | None = None):  # fmt: skip
        self.index, self.tokenizer, self.image_size = index, tokenizer, image_size
        self.batch_size, self.seed = batch_size, seed
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
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return np.split(places, range(CHUNK, len(places), CHUNK))

    def _chunk(self, places: np.ndarray) -> Batch:
        pixels = torch.empty(len(places), 3, self.image_size, self.image_size, dtype=torch.uint8)
        rows = self.index.rows[self.order.samples(places)]
        undecodable: list[int] = []
        draws = np.stack([uniform(self.seed, purpose, places) for purpose in (SIDE, TOP, LEFT)], axis=1)
        for at, place in enumerate(places.tolist()):
            rows[at], image = self._decoded(place, int(rows[at]), undecodable)
            pixels[at] = cropped(image, self.image_size, *draws[at].tolist())
        captions = [self._captions[row].as_py() for row in rows.tolist()]
        return Batch(pixels, self.tokenizer(captions), rows, undecodable)

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


def cropped(image: np.ndarray, size: int, side: float, top: float, left: float) -> torch.Tensor:
    """RGB uint8 [h, w, 3] -> uint8 [3, size, size]: a square of it, resized (bicubic, antialiased).

    `side`, `top` and `left` in [0, 1) place the square. A random square is the only augmentation of the CLIP paper;
    its size, 0.9 to 1 of the area of the largest square, is open_clip's.
    """
    height, width = image.shape[:2]
    edge = max(1, round(min(height, width) * (SMALLEST_CROP + (1 - SMALLEST_CROP) * side) ** 0.5))
    y, x = int(top * (height - edge + 1)), int(left * (width - edge + 1))
    square = torch.from_numpy(image[y : y + edge, x : x + edge].copy()).permute(2, 0, 1)
    return TF.resize(square, [size, size], TF.InterpolationMode.BICUBIC, antialias=True)


def _joined(chunks: list[Batch]) -> Batch:
    return Batch(
        torch.cat([chunk.pixels for chunk in chunks]),
        torch.cat([chunk.tokens for chunk in chunks]),
        np.concatenate([chunk.rows for chunk in chunks]),
        [row for chunk in chunks for row in chunk.undecodable],
    )
