"""Wavelet hash of the picture, bit for bit imagehash.whash in its default mode (Haar wavelets).

Grey, Lanczos to a square whose side is the largest power of two in the shorter side, low band of the Haar transform.
But for rounding that band holds the means of size x size equal blocks, less the mean of all: which blocks lie above
the median is told by their sums, in whole numbers. Where the two middle sums are equal the rounding decides, and
imagehash is asked; it also takes over where the first use finds that the two differ.
"""

import functools
from importlib.metadata import version

import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image

from curate import images
from curate.errors import CurateError


class Signal:
    """whash: binary(size * size / 8), the bits in imagehash's order, null where the image cannot be decoded.
    whash_flat: near-blank or tiny; its bits are noise and are never compared."""

    reads = ("grey", "flat")
    distance = "hamming"
    threshold = 0  # of 64 bits: already at 2 most matches in a large pool are strangers

    def __init__(self, size: int = 8):
        if size not in (4, 8, 16, 32, 64):
            raise CurateError(f"whash(size={size}): size is a power of two from 4 to 64")
        self.size = size
        libraries = {"imagehash": imagehash.__version__, "pywavelets": version("PyWavelets")}
        self.made_by = {"algorithm": "imagehash whash", **libraries, **images.DECODER}

    def measure(self, rows) -> dict[str, pa.Array]:
        method = above_median if agrees(self.size) else by_imagehash
        codes = [None if levels is None else method(levels, self.size) for levels in rows["grey"]]
        return {
            "whash": pa.array(codes, pa.binary(self.size**2 // 8)),
            "whash_flat": pa.array(rows["flat"], pa.bool_()),
        }


def above_median(levels: np.ndarray, size: int) -> bytes:
    """The hash of a grey uint8 [h, w] array."""
    side = max(1 << (min(levels.shape).bit_length() - 1), size)
    small = images.lanczos(levels, side, side)
    block = side // size
    rows = np.add.reduce(small.reshape(size, block, side), axis=1, dtype=np.uint32)
    sums = rows.reshape(size, size, block).sum(axis=2, dtype=np.uint64)
    below, above = np.partition(sums, (sums.size // 2 - 1, sums.size // 2), axis=None)[sums.size // 2 - 1 :][:2]
    return by_imagehash(levels, size) if below == above else np.packbits(sums >= above).tobytes()


def by_imagehash(levels: np.ndarray, size: int) -> bytes:
    """The same by imagehash itself."""
    return np.packbits(imagehash.whash(Image.fromarray(levels), size).hash).tobytes()


@functools.lru_cache(maxsize=8)
def agrees(size: int) -> bool:
    """Whether `above_median` gives what the installed imagehash gives, on noise of a few shapes."""
    return all(above_median(levels, size) == by_imagehash(levels, size) for levels in images.trials())
