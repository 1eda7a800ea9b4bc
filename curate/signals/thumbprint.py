"""What colours are where: the mean red, green and blue of 8 x 8 cells. Perceptual hashes see no colour; this does.

Two pictures that a hash takes for one, of which one was recoloured, lie far apart here: a turn of the hue by 85 degrees
moves PDQ by 8 of 256 bits and these means by dozens of levels.
"""

import numpy as np
import pyarrow as pa

from curate import images

CELLS = 8  # along a side


class Signal:
    """thumbprint: binary(192), uint8 [8, 8, 3] in rows, exact means rounded half up; null where the image cannot be
    decoded. thumbprint_flat: near-blank or tiny. Two are duplicates where all 192 bytes are equal."""

    reads = ("pixels", "flat")
    distance = "equal"
    made_by = images.DECODER

    def measure(self, rows) -> dict[str, pa.Array]:
        means = [None if pixels is None else thumbprint(pixels).tobytes() for pixels in rows["pixels"]]
        return {
            "thumbprint": pa.array(means, pa.binary(3 * CELLS**2)),
            "thumbprint_flat": pa.array(rows["flat"], pa.bool_()),
        }


def thumbprint(pixels: np.ndarray) -> np.ndarray:
    """RGB uint8 [height, width, 3] -> uint8 [8, 8, 3]. A picture with fewer pixels than cells repeats them."""
    height, width = pixels.shape[:2]
    (top, bottom), (left, right) = _bounds(height), _bounds(width)
    lines = pixels.reshape(height, width * 3)
    narrow = np.uint16 if height <= 2048 else np.uint32  # 256 lines of 255 fit 16 bits
    rows = np.stack([lines[start:end].sum(0, narrow) for start, end in zip(top, bottom, strict=True)])
    at = np.arange(width)
    inside = (at >= left[:, None]) & (at < right[:, None])
    # whole numbers below 2**53, so float64 is exact and has the fast product
    sums = (inside.astype(np.float64) @ rows.reshape(CELLS, width, 3).astype(np.float64)).astype(np.int64)
    counts = ((bottom - top)[:, None] * (right - left)[None, :])[:, :, None]
    return ((2 * sums + counts) // (2 * counts)).astype(np.uint8)


def _bounds(size: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixel of each cell and the one after its last; none is empty."""
    edges = np.arange(CELLS + 1) * size // CELLS
    return edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)
