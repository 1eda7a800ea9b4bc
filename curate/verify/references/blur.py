"""blur by Pillow's grey levels, areas averaged and the Laplacian taken in float64."""

import numpy as np

from curate.signals.blur import LONGEST, SIDE
from curate.verify.references import of_pictures


class Reference:
    """The relative error of float32 sums and of a grey level rounded the other way; sharp photos reach thousands."""

    tolerance = 0.5

    def __init__(self, side: int = SIDE):
        self.side = side

    def measure(self, images, captions) -> dict[str, list]:
        return {"blur": of_pictures(self._sharpness, images)}

    def _sharpness(self, image) -> float:
        grey = np.asarray(image.convert("L"), np.float64)
        height, width = grey.shape
        scale = self.side / min(height, width)
        if scale < 1:
            high, wide = (min(round(side * scale), LONGEST * self.side) for side in (height, width))
            grey = np.round(covered(height, high) @ grey @ covered(width, wide).T)
        padded = np.pad(grey, 1, mode="reflect")
        around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        return float(np.var(around - 4 * grey))


def covered(before: int, after: int) -> np.ndarray:
    """float64 [after, before]: the share of every new pixel that each old one covers."""
    edges, old = np.linspace(0, before, after + 1), np.arange(before)
    left, right = edges[:-1, None], edges[1:, None]
    shares = np.clip(np.minimum(right, old + 1) - np.maximum(left, old), 0, None)
    return shares / shares.sum(axis=1, keepdims=True)
