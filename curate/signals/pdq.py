"""PDQ: 256 bits that say which of the 16 x 16 low frequencies lie above their median, bit for bit those of pdqhash.

Method: Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019: luma, two box
filters along either side, one pixel of each of 64 x 64 cells, a cosine transform, the median. All before the median is
linear: cached sparse matrices from the luma to 64 x 64, a dense one to 16 x 16. The reference sums in float32 in an
order of its own; where that could decide a bit or the quality, its sums are repeated in its order.
"""

import functools
import math

import cv2
import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from curate import images

SIDE = 64  # of the reduced luma
SMALLEST = 5  # pixels on a side; the hash of less is 0, as in pdqhash
LARGEST = 4096  # pixels on a side; beyond, the reference's running sums stray too far from any other
QUALITY = 50  # least quality at which two hashes are worth comparing, of 100
DOUBTFUL_BIT = 0.01  # gap at the median; both ways of summing differ by up to 0.003 on photographs
DOUBTFUL_STEP = 0.001  # of a step of grey; they differ by up to 0.0008
MADE_BY = {"algorithm": "PDQ of pdqhash 0.2", **images.DECODER}
LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)


class Signal:
    """pdq: binary(32), bit k of the 16 x 16 frequencies first, as pdqhash's vector packed by numpy.packbits; null where
    the image cannot be decoded. pdq_quality: 0 to 100, how much there is to see. pdq_flat: near-blank, tiny or of a
    quality under 50; its bits are noise and are never compared."""

    reads = ("pixels", "flat")
    distance = "hamming"
    threshold = 31  # of 256 bits: what PDQ's makers call a confident match
    made_by = MADE_BY

    def measure(self, rows) -> dict[str, pa.Array]:
        found = [None if pixels is None else pdq(pixels) for pixels in rows["pixels"]]
        flat = [None if hashed is None else flat or hashed[1] < QUALITY for hashed, flat in zip(found, rows["flat"])]
        return {
            "pdq": pa.array([None if hashed is None else hashed[0] for hashed in found], pa.binary(32)),
            "pdq_quality": pa.array([None if hashed is None else hashed[1] for hashed in found], pa.int8()),
            "pdq_flat": pa.array(flat, pa.bool_()),
        }

    def turned(self, pixels: np.ndarray) -> np.ndarray | None:
        """The codes uint8 [8, 32] of a picture in all its turns, from one transform; None where they are noise."""
        hashes, quality = pdq_dihedral(pixels)
        return hashes if quality >= QUALITY and min(pixels.shape[:2]) >= images.MIN_SIDE else None


def pdq(pixels: np.ndarray) -> tuple[bytes, int]:
    """(hash, quality) of RGB uint8 [height, width, 3]."""
    if min(pixels.shape[:2]) < SMALLEST:
        return bytes(32), 0
    frequencies, quality = _frequencies(pixels, SIGNS[:1])
    return _bits(frequencies).tobytes(), quality


def pdq_dihedral(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """(hashes uint8 [8, 32], quality) of a picture, its three rotations and its four mirror images.

    In the order of pdqhash.compute_dihedral: as it is, turned by 90, 180, 270 degrees, flipped upside down, left to
    right, along one diagonal, along the other. Mirroring an axis only changes the sign of its odd frequencies.
    """
    if min(pixels.shape[:2]) < SMALLEST:
        return np.zeros((8, 32), np.uint8), 0
    found, quality = _frequencies(pixels, SIGNS)
    same, across, down, both = found * SIGNS
    return np.stack([_bits(each) for each in (same, across.T, both, down.T, down, across, same.T, both.T)]), quality


def _bits(frequencies: np.ndarray) -> np.ndarray:
    """uint8 [32]: pdqhash gives the bits from the last frequency to the first."""
    flat = frequencies.ravel()
    return np.packbits((flat > np.partition(flat, 127)[127])[::-1])


def _frequencies(pixels: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, int]:
    """(float32 [16, 16], quality) whose bits, under any of the signs [n, 16, 16], and quality are the reference's."""
    if max(pixels.shape[:2]) <= LARGEST:
        small = _reduced(pixels)
        frequencies = COSINES @ small @ COSINES.T
        middle = np.partition((frequencies * signs).reshape(len(signs), -1), (127, 128))[:, 127:129]
        least, most = _qualities(small)
        if (middle[:, 1] - middle[:, 0]).min() > DOUBTFUL_BIT and least == most:
            return frequencies, least
    small = _reduced_in_order(pixels)
    return _transformed_in_order(small), _qualities(small, 0.0)[0]


def _qualities(small: np.ndarray, doubtful: float = DOUBTFUL_STEP) -> tuple[int, int]:
    """(least, most) quality of float32 [64, 64] grey levels, if steps within `doubtful` of a whole number may be one
    less: the whole per cents of black to white between neighbours, summed, 90 of them a point."""
    steps = [np.abs((small[:-1] - small[1:]) * np.float32(100) / np.float32(255)),
             np.abs((small[:, :-1] - small[:, 1:]) * np.float32(100) / np.float32(255))]  # fmt: skip
    doubt = np.float32(doubtful)
    least, most = (sum(int((step + shift).astype(np.int32).sum()) for step in steps) for shift in (-doubt, doubt))
    return min(least // 90, 100), min(most // 90, 100)


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """RGB uint8 [h, w, 3] -> float32 [64, 64]: luma, blurred, one pixel of each of 64 x 64 cells."""
    height, width = pixels.shape[:2]
    luma = np.empty((height, width), np.float32)
    rows = max(1, images.STRIP // width)
    for top in range(0, height, rows):
        luma[top : top + rows] = cv2.transform(pixels[top : top + rows].astype(np.float32), LUMA)
    columns = _tent(height) @ luma
    return np.ascontiguousarray((_tent(width) @ np.ascontiguousarray(columns.T)).T)


@functools.lru_cache(maxsize=1024)
def _tent(size: int) -> csr_array:
    """Sparse float32 [64, size]: two box filters, whose windows shrink at the ends, at the middle of each 64th."""
    window = _window(size)
    after, before = (window + 2) // 2, (window - 1) // 2
    at = np.arange(size)
    ends = np.minimum(at + after, size)
    starts = np.maximum(at - before, 0)
    weight = 1 / (ends - starts)
    tent = np.zeros((SIDE, size))
    for row, middle in enumerate(_middles(size)):
        for place in range(starts[middle], ends[middle]):
            tent[row, starts[place] : ends[place]] += weight[middle] * weight[place]
    return csr_array(tent.astype(np.float32))


def _window(size: int) -> int:
    return -(-size // (2 * SIDE))


def _middles(size: int) -> list[int]:
    return [int((cell + 0.5) * size / SIDE) for cell in range(SIDE)]


def _reduced_in_order(pixels: np.ndarray) -> np.ndarray:
    """The same with every sum in float32 in the order of the reference code."""
    height, width = pixels.shape[:2]
    luma = np.empty((height, width), np.float32)
    for top in range(0, height, SIDE):
        red, green, blue = np.moveaxis(pixels[top : top + SIDE].astype(np.float64), 2, 0)
        luma[top : top + SIDE] = red * 0.299 + green * 0.587 + blue * 0.114
    if (height, width) != (SIDE, SIDE):
        for _ in range(2):
            for top in range(0, height, 512):
                luma[top : top + 512] = _box_in_order(np.ascontiguousarray(luma[top : top + 512].T), _window(width)).T
            luma = _box_in_order(luma, _window(height))
    return luma[np.ix_(_middles(height), _middles(width))]


def _box_in_order(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` neighbours along the first axis of float32 [n, m] by a running sum."""
    size, after = len(values), (window + 2) // 2
    means, total, count = np.empty_like(values), np.zeros(values.shape[1], np.float32), 0
    for new in range(size + after - 1):
        if new < size:
            total += values[new]
            count += 1
        if new >= window:
            total -= values[new - window]
            count -= 1
        if new >= after - 1:
            np.divide(total, np.float32(count), out=means[new - after + 1])
    return means


def _transformed_in_order(small: np.ndarray) -> np.ndarray:
    down, frequencies = np.zeros((16, SIDE), np.float32), np.zeros((16, 16), np.float32)
    for at in range(SIDE):
        down += COSINES[:, at, None] * small[at]
    for at in range(SIDE):
        frequencies += down[:, at, None] * COSINES[:, at]
    return frequencies


def _cosines() -> np.ndarray:
    """float32 [16, 64]: the frequencies 1 to 16 of the type-2 cosine transform of 64 values."""
    scale = float(np.float32(math.sqrt(2 / SIDE)))
    angle = math.pi / 2 / SIDE
    rows = [[scale * math.cos(angle * (i + 1) * (2 * j + 1)) for j in range(SIDE)] for i in range(16)]
    return np.array(rows).astype(np.float32)


def _signs() -> np.ndarray:
    """float32 [4, 16, 16]: none, then mirrored across, down, both; frequencies count from 1, so the first is odd."""
    sign = np.where(np.arange(16) % 2, np.float32(1), np.float32(-1))
    across, down = np.broadcast_to(sign[None, :], (16, 16)), np.broadcast_to(sign[:, None], (16, 16))
    return np.stack([np.ones((16, 16), np.float32), across, down, across * down])


COSINES = _cosines()
SIGNS = _signs()
