"""Which sample stands at place i of the endless training stream: a pure function of the seed and i.

Nothing else is asked: not the number of workers, not what was read before. So a run is resumed by one integer.
"""

import functools

import numpy as np

WEYL = 0x9E3779B97F4A7C15


class Order:
    """Epoch after epoch of `size` samples, each sample once an epoch, in an order of its own for each epoch."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self._epoch = functools.lru_cache(maxsize=2)(self._shuffled)

    def samples(self, places: np.ndarray) -> np.ndarray:
        """int64 places in the stream -> int64 samples in [0, size)."""
        epochs, within = np.divmod(places, self.size)
        found = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            found[epochs == epoch] = self._epoch(int(epoch))[within[epochs == epoch]]
        return found

    def _shuffled(self, epoch: int) -> np.ndarray:
        # by the rank of a hash and not by numpy's permutation, whose stream may change with numpy's version
        keys = uniform_bits(self.seed, 2 * epoch, np.arange(self.size))
        return np.argsort(keys, kind="stable")


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
