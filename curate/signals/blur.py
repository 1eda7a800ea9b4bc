"""How sharp an image is: the variance of its Laplacian (Pech-Pacheco et al. 2000), low where it is blurred or blank.

The variance depends on the size of the picture, so each is first brought to one: grey levels, the shorter side reduced
to `side` pixels by area, never enlarged.
"""

import cv2
import numpy as np
import pyarrow as pa

from curate import images
from curate.errors import CurateError

SIDE = 256
LONGEST = 8  # times the shorter side, so that a long strip stays small


class Signal:
    """blur: float32, grey levels squared; null where the image cannot be decoded. `side`: pixels."""

    reads = ("grey",)

    def __init__(self, side: int = SIDE):
        if side < 16:
            raise CurateError(f"blur: side={side}: at least 16 pixels are needed")
        self.side = side
        self.made_by = {"opencv": cv2.__version__, **images.DECODER}

    def measure(self, rows) -> dict[str, pa.Array]:
        return {
            "blur": pa.array([None if grey is None else self._sharpness(grey) for grey in rows["grey"]], pa.float32())
        }

    def _sharpness(self, grey: np.ndarray) -> float:
        height, width = grey.shape
        scale = self.side / min(height, width)
        if scale < 1:
            longest = LONGEST * self.side
            shape = min(round(width * scale), longest), min(round(height * scale), longest)
            grey = cv2.resize(grey, shape, interpolation=cv2.INTER_AREA)
        return float(cv2.Laplacian(grey, cv2.CV_32F).var(dtype=np.float64))
