"""PDQ of the picture inside its plain border: letterboxes, frames and white margins move every bit of a hash.

A second look at the same picture, never the only one: a photograph of a bird before a white wall has a border too, and
its uncropped copies must still be found.
"""

import cv2
import numpy as np
import pyarrow as pa

from curate import images
from curate.signals.pdq import MADE_BY, QUALITY, pdq

TOLERANCE = 24  # grey levels of 255: JPEG rings that far from an edge
PLAIN = 0.98  # share of a line's pixels that have the colour of the border
LEAST = 0.02  # of a side: a thinner border moves few bits
SMALLEST = 32  # pixels on a side of what is left
REMAINING = 0.2  # of a side: less is no picture in a frame


class Signal:
    """trimmed: binary(32), as `pdq`; null where the image has no plain border or cannot be decoded. trimmed_flat: what
    is inside is near-blank, tiny or of a quality under 50."""

    reads = ("pixels",)
    distance = "hamming"
    threshold = 31
    made_by = MADE_BY

    def measure(self, rows) -> dict[str, pa.Array]:
        found = [None if pixels is None else _hashed(pixels) for pixels in rows["pixels"]]
        return {
            "trimmed": pa.array([None if one is None else one[0] for one in found], pa.binary(32)),
            "trimmed_flat": pa.array([None if one is None else one[1] for one in found], pa.bool_()),
        }


def _hashed(pixels: np.ndarray) -> tuple[bytes, bool] | None:
    inside = trimmed(pixels)
    if inside is None:
        return None
    bits, quality = pdq(inside)
    return bits, quality < QUALITY or min(inside.shape[:2]) < images.MIN_SIDE


def trimmed(pixels: np.ndarray) -> np.ndarray | None:
    """What lies inside the plain border of RGB uint8 [height, width, 3], or None where there is none.

    A border has one colour on each side, that of its outermost line; a side counts where it is 2 % or more.
    """
    height, width = pixels.shape[:2]
    top, bottom = _plain(pixels), height - _plain(pixels[::-1])
    if bottom - top < max(SMALLEST, REMAINING * height):
        return None
    columns = pixels[top:bottom].transpose(1, 0, 2)
    left, right = _plain(columns), width - _plain(columns[::-1])
    if right - left < max(SMALLEST, REMAINING * width):
        return None
    if max(top, height - bottom) < LEAST * height and max(left, width - right) < LEAST * width:
        return None
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _plain(lines: np.ndarray) -> int:
    """How many of the first lines of uint8 [lines, pixels, 3] have the colour of the first, which must have one."""
    levels = np.sort(lines[0], axis=0).astype(np.int16)
    colour = (levels[(len(levels) - 1) // 2] + levels[len(levels) // 2]) // 2  # the median
    least, most = (tuple((colour + shift).tolist()) for shift in (-TOLERANCE, TOLERANCE))
    block, done = 16, 0
    while done < len(lines):
        near = cv2.inRange(np.ascontiguousarray(lines[done : done + block]), least, most)
        plain = np.count_nonzero(near, axis=1) / near.shape[1] >= PLAIN
        if not plain.all():
            return done + int(np.argmin(plain))
        done, block = done + block, block * 2
    return done
