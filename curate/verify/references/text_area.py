"""text_area by Pillow, onnxruntime and boxes drawn one at a time: regions found by SciPy, corners turned by hand."""

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from curate.networks.onnx import session
from curate.signals.text_area import BOX, LEAST, PIXEL, STEP, UNCLIP, Signal
from curate.verify.references import of_pictures


class Reference:
    """The share alone: where two lines touch, the number of boxes is a matter of taste."""

    tolerance = 0.02

    def __init__(self, size: int = 512):
        self.signal = Signal(size)

    def measure(self, images, captions) -> dict[str, list]:
        return {"text_area": of_pictures(self._share, images)}

    def _share(self, image: Image.Image) -> float:
        scale = self.signal.size / max(image.size)
        wide, high = (max(STEP, round(side * scale / STEP) * STEP) for side in image.size)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(np.asarray(image), (wide, high), interpolation=how).astype(np.float64)
        values = np.moveaxis((small[:, :, ::-1] / 255 - 0.5) / 0.5, 2, 0)[None].astype(np.float32)
        network = session(str(self.signal.file))
        probability = network.run(None, {network.get_inputs()[0].name: values})[0][0, 0]
        return float(covered(probability).mean())


def covered(probability: np.ndarray) -> np.ndarray:
    """bool [height, width]: under a box whose mean probability is high enough."""
    cores = ndimage.binary_dilation(probability > PIXEL, [[1, 1], [1, 1]], origin=-1)
    regions, count = ndimage.label(cores, np.ones((3, 3)))
    found, grid = np.zeros(cores.shape, bool), np.indices(cores.shape)[::-1]
    for region in range(1, count + 1):
        points = np.argwhere(regions == region)[:, ::-1].astype(np.float32)
        (x, y), (width, height), angle = cv2.minAreaRect(points)
        if min(width, height) < LEAST or probability[_inside(grid, x, y, width, height, angle)].mean() < BOX:
            continue
        grown = UNCLIP * width * height / (width + height)
        found |= _inside(grid, x, y, width + grown, height + grown, angle)
    return found


def _inside(grid: np.ndarray, x: float, y: float, width: float, height: float, angle: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along = (grid[0] - x) * cosine + (grid[1] - y) * sine
    across = (grid[1] - y) * cosine - (grid[0] - x) * sine
    return (np.abs(along) <= width / 2 + 0.5) & (np.abs(across) <= height / 2 + 0.5)
