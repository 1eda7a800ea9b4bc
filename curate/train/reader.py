"""A place of the training stream to pixels and tokens: decoded, cropped, replaced where it cannot be."""

import functools
import os
import re
from collections.abc import Callable

import numpy as np
import torch

from curate import images
from curate.errors import CurateError
from curate.train.crops import Crop
from curate.train.index import Index
from curate.train.order import Mixture, uniform, uniform_bits

OPEN_TARS = 256  # file descriptors kept
REPLACEMENTS = 100  # tries to replace an image that cannot be decoded before the data is called broken
# what the random numbers are for: crops take 1, 3, 5 ..., the order of samples the even ones
REPLACE = 2**32 + 1


class Reader:
    """Reads samples of an index at places of the stream of `seed`. Picklable."""

    def __init__(self, index: Index, tokenizer: Callable[[list[str]], torch.Tensor], image_size: int, seed: int,
                 crop: Crop, views: int, window: int):  # fmt: skip
        self.index, self.tokenizer, self.image_size, self.seed = index, tokenizer, image_size, seed
        self.crop, self.views = crop, views
        self.context_length = tokenizer(["a"]).shape[1]
        self.window = window

    @functools.cached_property
    def order(self) -> Mixture:
        return self.index.order(self.seed, self.window)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "order"}

    def fill(self, places: np.ndarray, pixels: torch.Tensor, tokens: torch.Tensor) -> tuple[np.ndarray, list[int]]:
        """Write the samples at int64 places into uint8 [n, 3, size, size] (or [n, views, 3, size, size]) and int64
        [n, context]; (the pairs [n], those that could not be decoded). Raises CurateError where a shard is gone."""
        pairs = self.index.pairs(*self.order.samples(places))
        undecodable: list[int] = []
        draws = self._draws(places)
        for at, place in enumerate(places.tolist()):
            pairs[at], image = self._decoded(place, int(pairs[at]), undecodable)
            for view in range(self.views):
                into = pixels[at, view] if self.views > 1 else pixels[at]
                into.copy_(self.crop.cut(image, self.image_size, draws[at, view]))
        tokens.copy_(self.tokenizer(self.index.texts("caption", pairs)))
        return pairs, undecodable

    def _draws(self, places: np.ndarray) -> np.ndarray:
        """float64 [n, views, draws of the crop]."""
        count = self.views * self.crop.draws
        found = [uniform(self.seed, 2 * number + 1, places) for number in range(count)]
        return np.stack(found or [np.zeros((len(places), 0))], axis=-1).reshape(len(places), self.views, -1)

    def _decoded(self, place: int, pair: int, undecodable: list[int]) -> tuple[int, np.ndarray]:
        """The pair and its image; where that cannot be decoded another pair of the same window, chosen by (seed,
        place): its tar is on this machine too."""
        for attempt in range(REPLACEMENTS):
            try:
                return pair, images.decode(self._read(pair))
            except images.UndecodableImage as error:
                undecodable.append(pair)
                reason = f"{self.index.uids([pair])[0]}: {re.sub(' <_io.*>', '', str(error))}"
                bits = uniform_bits(self.seed, REPLACE, np.array([place * REPLACEMENTS + attempt]))
                pair = int(self.index.pairs(*self.order.neighbours(np.array([place]), bits))[0])
        raise CurateError(f"{REPLACEMENTS} images one after the other could not be decoded, the last is {reason}; "
                          "look at what was downloaded")  # fmt: skip

    def _read(self, pair: int) -> bytes:
        tar, offset, size = self.index.place(pair)
        try:
            return _opened(tar).read(offset, size)
        except OSError as error:
            raise CurateError(f"{tar} cannot be read any more ({os.strerror(error.errno or 0)}): put it back, then the "
                              "same command goes on from the last checkpoint") from error  # fmt: skip


class _OpenTar:
    """A file descriptor, closed when it is no longer kept."""

    def __init__(self, path: str):
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


_opened = functools.lru_cache(maxsize=OPEN_TARS)(_OpenTar)
