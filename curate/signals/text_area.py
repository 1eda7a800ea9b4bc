"""How much of an image is covered by writing: the share of its area and the number of text boxes.

The boxes are those of PP-OCRv4's text detector (Y. Du et al., PP-OCR, arXiv:2009.09941) and of differentiable
binarisation (M. Liao et al. 2020, arXiv:1911.08947), from the PyPI package rapidocr-onnxruntime, of which only the
weights are read. T-MARS (P. Maini et al. 2023, arXiv:2307.03132) found pairs harmful whose picture is mainly its own
caption.
"""

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from curate.errors import CurateError
from curate.named import INSTALL
from curate.networks.onnx import Network
from curate.storage.disk import sha256

PACKAGE, PATTERN = "rapidocr_onnxruntime", "models/*_det_infer.onnx"
STEP = 32  # the network halves the sides five times
PIXEL, BOX = 0.3, 0.5  # least probability of a pixel, least mean of a box: RapidOCR's
UNCLIP = 1.6  # the network marks the cores of the lines; boxes grow by this times their area over their perimeter
LARGEST = 8192  # pixels: a longer side takes tens of gigabytes
LEAST = 3  # pixels: narrower boxes are noise


class Signal:
    """text_area: float32 share of the image, 0 to 1; text_area_boxes: int32. Null where the image cannot be decoded.

    size: pixels of the longer side as the detector sees it; small writing needs more, and the time grows by its square.
    """

    reads = ("pixels",)

    def __init__(self, size: int = 512):
        if not 2 * STEP <= size <= LARGEST:
            raise CurateError(f"text_area: size={size}: at least {2 * STEP} pixels are needed, at most {LARGEST}")
        self.size, self.file = size, _model_file()

    @functools.cached_property
    def made_by(self) -> dict[str, str]:
        return {"model": self.file.name, "weights": sha256(self.file), "opencv": cv2.__version__}

    def measure(self, rows) -> dict[str, pa.Array]:
        found = [None if pixels is None else self._covered(pixels) for pixels in rows["pixels"]]
        return {
            "text_area": pa.array([one and one[0] for one in found], pa.float32()),
            "text_area_boxes": pa.array([one and one[1] for one in found], pa.int32()),
        }

    def _covered(self, pixels: np.ndarray) -> tuple[float, int]:
        """(share of the area in boxes, number of boxes)."""
        scale = self.size / max(pixels.shape[:2])
        height, width = (max(STEP, round(side * scale / STEP) * STEP) for side in pixels.shape[:2])
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        values = small[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1  # it learned from BGR
        boxes = text_boxes(_network(str(self.file))(values)[0][0, 0])
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(cv2.boxPoints(box)).astype(np.int32) for box in boxes], 1)
        return float(mask.mean()), len(boxes)


def text_boxes(probability: np.ndarray) -> list[tuple]:
    """float32 [height, width] -> rotated rectangles ((x, y), (width, height), degrees) around the lines of text."""
    cores = cv2.dilate((probability > PIXEL).astype(np.uint8), np.ones((2, 2), np.uint8))
    boxes = []
    for contour in cv2.findContours(cores, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < LEAST or _mean_inside(probability, (centre, (width, height), angle)) < BOX:
            continue
        grown = UNCLIP * width * height / (width + height)  # both sides of each: twice area over perimeter
        boxes.append((centre, (width + grown, height + grown), angle))
    return boxes


def _mean_inside(probability: np.ndarray, box: tuple) -> float:
    corners = cv2.boxPoints(box)
    (left, top), (right, bottom) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    part = probability[max(0, top) : bottom, max(0, left) : right]
    mask = np.zeros(part.shape, np.uint8)
    cv2.fillPoly(mask, [(corners - (max(0, left), max(0, top))).astype(np.int32)], 1)
    return float(cv2.mean(part, mask)[0])


@functools.lru_cache(maxsize=1)
def _network(path: str) -> Network:
    return Network(path)


def _model_file() -> Path:
    package = importlib.util.find_spec(PACKAGE)  # found, not imported: it wants a second OpenCV
    if package is None or not package.submodule_search_locations:
        raise CurateError(f"'text_area' needs the package {PACKAGE}: {INSTALL[PACKAGE]}")
    found = sorted(Path(package.submodule_search_locations[0]).glob(PATTERN))
    if not found:
        raise CurateError(f"{PACKAGE} came without {PATTERN}: {INSTALL[PACKAGE]}")
    return found[0]
