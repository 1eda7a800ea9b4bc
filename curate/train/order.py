"""Which sample stands at place i of the endless training stream: a pure function of the seed and i.

Nothing else is asked: not the number of workers, not what was read before. So a run is resumed by one integer. And
nothing is kept but one number a shard and the window that is read: 400 million pairs need no more memory than one.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

WEYL = 0x9E3779B97F4A7C15
WINDOW = 1_000_000  # samples that are shuffled together
BLOCK = 4096  # places, at most an epoch, over which a mixture is exact
LABELS = 2**32 + 3  # what random numbers are for; 2**32 + 1 is the loader's


class Stream:
    """Epoch after epoch of shards of `counts` samples, each sample once an epoch. Every epoch the shards are permuted
    and cut into windows of about `window` samples, and the samples of a window are shuffled together."""

    def __init__(self, counts: Sequence[int] | np.ndarray, seed: int, window: int = WINDOW):
        self.counts, self.seed, self.window = np.asarray(counts, np.int64), seed, window
        self.size = int(self.counts.sum())
        self._epoch = functools.lru_cache(maxsize=4)(self._permuted)
        self._shuffled = functools.lru_cache(maxsize=3)(self._shuffle)

    def samples(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 places in the stream -> (shard, sample of the shard), int64 each."""
        shards, within = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        windows = self.windows(places)
        for window in set(windows):
            here = np.array([found == window for found in windows])
            first, shard, sample = self._shuffled(*window)
            at = places[here] - first
            shards[here], within[here] = shard[at], sample[at]
        return shards, within

    def windows(self, places: np.ndarray) -> list[tuple[int, int]]:
        """(epoch, window) of each place."""
        epochs, within = np.divmod(places, self.size)
        found = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            _, _, ends = self._epoch(int(epoch))
            found[epochs == epoch] = np.searchsorted(ends, within[epochs == epoch], side="right")
        return list(zip(epochs.tolist(), found.tolist(), strict=True))

    def shards(self, epoch: int, window: int) -> np.ndarray:
        """The shards of a window."""
        order, owner, _ = self._epoch(epoch)
        return order[owner == window]

    def span(self, epoch: int, window: int) -> tuple[int, int]:
        """The places of a window: first, one past the last."""
        _, _, ends = self._epoch(epoch)
        start = int(ends[window - 1]) if window else 0
        return epoch * self.size + start, epoch * self.size + int(ends[window])

    def _permuted(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(shards in their order, the window of each, where each window ends in the epoch)."""
        # by the rank of a hash and not by numpy's permutation, whose stream may change with numpy's version
        order = np.argsort(uniform_bits(self.seed, 4 * epoch + 2, np.arange(len(self.counts))), kind="stable")
        order = order[self.counts[order] > 0]
        ends = np.cumsum(self.counts[order])
        owner = (ends - self.counts[order]) // self.window
        last = np.append(np.flatnonzero(np.diff(owner)), len(order) - 1)
        owner = np.repeat(np.arange(len(last)), np.diff(last, prepend=-1))
        return order, owner, ends[last]

    def _shuffle(self, epoch: int, window: int) -> tuple[int, np.ndarray, np.ndarray]:
        """(first place of a window, the shard and the sample of the shard at each of its places)."""
        shards, (first, end) = self.shards(epoch, window), self.span(epoch, window)
        counts = self.counts[shards]
        keys = uniform_bits(self.seed, 4 * epoch, np.arange(first, end) - epoch * self.size)
        order = np.argsort(keys, kind="stable")
        shard = np.repeat(shards, counts)[order]
        sample = (np.arange(end - first) - np.repeat(np.cumsum(counts) - counts, counts))[order]
        return first, shard, sample


class Mixture:
    """Streams of several datasets, woven so that in every block of places each has its share, to the sample.

    weights: passes over each stream in one epoch of the mixture; an epoch holds sum(weight * samples) samples, and each
    stream goes on where it was. shards are numbered through. The same as open_clip's --train-data-upsampling-factors.
    """

    def __init__(self, streams: Sequence[Stream], weights: Sequence[float], seed: int):
        self.streams, self.seed = list(streams), seed
        passes = [Fraction(str(weight)) * stream.size for weight, stream in zip(weights, streams, strict=True)]
        self.size = int(sum(passes))
        self.block = max(1, min(BLOCK, self.size))
        self._rates = [self.block * each / sum(passes) for each in passes]
        self._first_shard = np.cumsum([0, *(len(stream.counts) for stream in streams)])
        self._labels = functools.lru_cache(maxsize=64)(self._drawn)

    def samples(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 places in the mixture -> (shard, sample of the shard), int64 each."""
        shards, within = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for number, (here, inner) in self.split(places).items():
            shard, within[here] = self.streams[number].samples(inner)
            shards[here] = shard + self._first_shard[number]
        return shards, within

    def neighbours(self, places: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sample of a random place of the window that each place lies in, chosen by uint64 bits."""
        shards, within = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for number, (here, inner) in self.split(places).items():
            stream = self.streams[number]
            spans = np.array([stream.span(*window) for window in stream.windows(inner)])
            others = spans[:, 0] + (bits[here] % (spans[:, 1] - spans[:, 0]).astype(np.uint64)).astype(np.int64)
            shard, within[here] = stream.samples(others)
            shards[here] = shard + self._first_shard[number]
        return shards, within

    def shards(self, number: int, window: tuple[int, int]) -> list[int]:
        """The shards of a window of a stream, numbered through."""
        return (self.streams[number].shards(*window) + self._first_shard[number]).tolist()

    def split(self, places: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Stream -> (which of the places are its, their places in it)."""
        if len(self.streams) == 1:
            return {0: (np.arange(len(places)), places)}
        blocks = places // self.block
        blocks += places >= self._starts(blocks + 1)
        stream, inner = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for block in np.unique(blocks):
            here = blocks == block
            labels, ranks = self._labels(int(block))
            at = places[here] - self._start(int(block))
            stream[here], inner[here] = labels[at], ranks[at]
        found = ((number, np.flatnonzero(stream == number)) for number in range(len(self.streams)))
        return {number: (here, inner[here]) for number, here in found if len(here)}

    def _start(self, block: int) -> int:
        return sum(int(block * rate) for rate in self._rates)

    def _starts(self, blocks: np.ndarray) -> np.ndarray:
        known = {block: self._start(block) for block in np.unique(blocks).tolist()}
        return np.array([known[block] for block in blocks.tolist()])

    def _drawn(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The stream of each place of a block, and the place in it."""
        firsts = [int(block * rate) for rate in self._rates]
        counts = [int((block + 1) * rate) - first for rate, first in zip(self._rates, firsts, strict=True)]
        labels = np.repeat(np.arange(len(counts)), counts)
        inner = np.concatenate([np.arange(first, first + count) for first, count in zip(firsts, counts, strict=True)])
        order = np.argsort(uniform_bits(self.seed, LABELS, self._start(block) + np.arange(len(labels))), kind="stable")
        labels = labels[order]
        ranks = np.empty(len(labels), np.int64)
        ranks[np.argsort(labels, kind="stable")] = inner  # within a block each stream goes in its own order
        return labels, ranks


def uniform_bits(seed: int, purpose: int, places: np.ndarray) -> np.ndarray:
    """uint64 [n]: independent random bits for each (seed, purpose, place) (SplitMix64, Steele et al. 2014)."""
    mixed = (_mix(np.uint64(seed % 2**64)) ^ np.uint64(purpose % 2**64)) * np.ones(1, np.uint64)
    return _mix(_mix(mixed) ^ np.asarray(places).astype(np.uint64))


def uniform(seed: int, purpose: int, places: np.ndarray) -> np.ndarray:
    """float64 [n] in [0, 1): a random number for each (seed, purpose, place)."""
    return (uniform_bits(seed, purpose, places) >> np.uint64(11)) / 2**53


def _mix(value: np.ndarray | np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = np.asarray(value, np.uint64) + np.uint64(WEYL)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
