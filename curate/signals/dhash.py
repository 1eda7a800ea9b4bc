"""Difference hash of the picture, bit for bit imagehash.dhash: where it grows brighter from left to right.

Method: N. Krawetz, "Kind of Like That", 2013, in imagehash's form: grey, Lanczos to size + 1 columns and size rows. The
first use compares it with the installed imagehash, which takes over where they differ.
"""

import functools

import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image

from curate import images
from curate.errors import CurateError


class Signal:
    """dhash: binary(size * size / 8), the bits in imagehash's order, null where the image cannot be decoded.
    dhash_flat: near-blank or tiny; its bits are noise and are never compared."""

    reads = ("grey", "flat")
    distance = "hamming"
    threshold = 2  # of 64 bits: looser, strangers meet sooner than under phash

    def __init__(self, size: int = 8):
        if size % 4 or not 4 <= size <= 256:
            raise CurateError(f"dhash(size={size}): size is a multiple of 4 (whole bytes) up to 256, such as 8 or 16")
        self.size = size
        self.made_by = {"algorithm": "imagehash dhash", "imagehash": imagehash.__version__, **images.DECODER}

    def measure(self, rows) -> dict[str, pa.Array]:
        method = brighter if agrees(self.size) else by_imagehash
        codes = [None if levels is None else method(levels, self.size) for levels in rows["grey"]]
        return {
            "dhash": pa.array(codes, pa.binary(self.size**2 // 8)),
            "dhash_flat": pa.array(rows["flat"], pa.bool_()),
        }


def brighter(levels: np.ndarray, size: int) -> bytes:
    """The hash of a grey uint8 [h, w] array."""
    small = images.lanczos(levels, size + 1, size)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


def by_imagehash(levels: np.ndarray, size: int) -> bytes:
    """The same by imagehash itself."""
    return np.packbits(imagehash.dhash(Image.fromarray(levels), size).hash).tobytes()


@functools.lru_cache(maxsize=8)
def agrees(size: int) -> bool:
    """Whether `brighter` gives what the installed imagehash gives, on noise of a few shapes."""
    return all(brighter(levels, size) == by_imagehash(levels, size) for levels in images.trials())
