"""Perceptual hash of the picture, bit for bit imagehash.phash: which of the low frequencies lie above their median.

Method: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, in imagehash's form:
grey, Lanczos to 4 * size, type-2 cosine transform over both axes, the size x size lowest frequencies. All images of a
batch share one transform; the first use compares it with the installed imagehash, which takes over where they differ.
"""

import functools

import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image
from scipy.fft import dct

from curate import images
from curate.errors import CurateError

OVERSAMPLING = 4  # imagehash's highfreq_factor


class Signal:
    """phash: binary(size * size / 8), the bits in imagehash's order, null where the image cannot be decoded.
    phash_flat: near-blank or tiny; its bits are noise and are never compared."""

    reads = ("grey", "small", "flat")
    distance = "hamming"
    threshold = 4  # of 64 bits; distances of balanced hashes are even

    def __init__(self, size: int = 8):
        if size % 4 or not 4 <= size <= 256:
            raise CurateError(f"phash(size={size}): size is a multiple of 4 (whole bytes) up to 256, such as 8 or 16")
        self.size = size
        # Pillow 13 changed the order of the passes of a resize: up to 2 bits on tall images
        self.made_by = {"algorithm": "imagehash phash", "imagehash": imagehash.__version__, **images.DECODER}

    def measure(self, rows) -> dict[str, pa.Array]:
        found = [levels for levels in rows["grey"] if levels is not None]
        if not agrees(self.size):
            hashes = iter(one_by_one(found, self.size))
        elif self.size * OVERSAMPLING == images.SMALL:
            hashes = iter(of_reductions([small for small in rows["small"] if small is not None], self.size))
        else:
            hashes = iter(batched(found, self.size))
        codes = [None if levels is None else next(hashes) for levels in rows["grey"]]
        return {
            "phash": pa.array(codes, pa.binary(self.size**2 // 8)),
            "phash_flat": pa.array(rows["flat"], pa.bool_()),
        }


def batched(pictures: list[np.ndarray], size: int) -> list[bytes]:
    """The hashes of grey uint8 [h, w] arrays."""
    side = size * OVERSAMPLING
    return of_reductions([images.lanczos(levels, side, side) for levels in pictures], size)


def of_reductions(small: list[np.ndarray], size: int) -> list[bytes]:
    """The hashes of grey uint8 [4 * size, 4 * size] arrays."""
    if not small:
        return []
    frequencies = dct(dct(np.stack(small).astype(np.float64), axis=1), axis=2)
    low = frequencies[:, :size, :size].reshape(len(small), -1)
    return [row.tobytes() for row in np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)]


def one_by_one(pictures: list[np.ndarray], size: int) -> list[bytes]:
    """The same by imagehash itself."""
    return [np.packbits(imagehash.phash(Image.fromarray(levels), size).hash).tobytes() for levels in pictures]


@functools.lru_cache(maxsize=8)
def agrees(size: int) -> bool:
    """Whether `batched` gives what the installed imagehash gives, on noise of a few shapes."""
    return batched(images.trials(), size) == one_by_one(images.trials(), size)
