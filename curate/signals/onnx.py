"""Any classifier or detector of your own in an ONNX file: watermarks, faces, logos, aesthetics.

No weights for these were found that a package carries (OpenCV's face cascades are slow and see little), so the file is
yours; what the network needs beyond size and colours belongs into its graph.
"""

import functools
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from curate.errors import CurateError
from curate.named import words
from curate.networks.onnx import Network
from curate.networks.pictures import IMAGENET, Colour, check_size, three
from curate.storage.disk import sha256

FINAL = ("none", "sigmoid", "softmax")


class Signal:
    """onnx(path=watermark.onnx, outputs=clean marked, final=softmax, as=watermark): columns watermark_clean and
    watermark_marked; one number for each output of the first tensor [1, k], float32; of a single one just the name.

    onnx(path=faces.onnx, boxes=0.5, as=faces): the first tensor is [1, n, 5 or more], rows of left, top, right, bottom
    in pixels of the input, score. faces_boxes: int32, those of that score or more; faces_area: float32, the share of
    the image under them; faces_score: float32, the best score of any, null where there is none.

    size: pixels of a side where the file leaves it free. squash: both sides are resized, else the middle is cut out.
    mean, std: of RGB values from 0 to 1, one number or three, ImageNet's by default; a network of uint8 gets the pixels
    as they are. Channels first or last is told by the shape. Null where the image cannot be decoded.
    """

    reads = ("pixels",)

    def __init__(self, path: str, size: int | None = None, squash: bool = True, mean: Colour = IMAGENET[0],
                 std: Colour = IMAGENET[1], outputs: str | tuple[str, ...] = "", final: str = "none",
                 boxes: float | None = None):  # fmt: skip
        if final not in FINAL:
            raise CurateError(f"onnx: no final '{final}'; choose from: {', '.join(FINAL)}")
        self.path, self.squash, self.final, self.boxes = path, squash, final, boxes
        self.outputs = words(outputs)
        self.mean, self.std = (np.array(each, np.float32) for each in three("onnx", mean, std))
        shape = self.network.shape
        self.channels_last = shape[3] == 3 and shape[1] != 3
        sides = shape[1:3] if self.channels_last else shape[2:]
        height, width = (side or size for side in sides)
        if not height or not width:
            raise CurateError(f"{path} takes images of any size: say which, onnx(path={path}, size=224)")
        check_size("onnx", max(width, height))
        check_size("onnx", min(width, height))
        self.side = (width, height)

    @functools.cached_property
    def network(self) -> Network:
        return Network(self.path)

    @functools.cached_property
    def made_by(self) -> dict[str, Any]:
        return {"model": self.path.rsplit("/", 1)[-1], "weights": sha256(self.path)}

    def measure(self, rows) -> dict[str, pa.Array]:
        found = [None if pixels is None else self._found(pixels) for pixels in rows["pixels"]]
        columns = self._columns(found)
        return {name: pa.array([one and one[at] for one in found], kind) for at, (name, kind) in enumerate(columns)}

    def _columns(self, found: list[tuple | None]) -> list[tuple[str, pa.DataType]]:
        if self.boxes is not None:
            return [("onnx_boxes", pa.int32()), ("onnx_area", pa.float32()), ("onnx_score", pa.float32())]
        blank = np.zeros((*self.side[::-1], 3), np.uint8)
        wide = len(next((one for one in found if one), None) or self._found(blank))
        if self.outputs and len(self.outputs) != wide:
            raise CurateError(f"{self.path} gives {wide} values, outputs names {len(self.outputs)}: "
                              f"{', '.join(self.outputs)}")  # fmt: skip
        names = self.outputs or tuple(map(str, range(wide)))
        return [("onnx" if wide == 1 and not self.outputs else f"onnx_{name}", pa.float32()) for name in names]

    def _found(self, pixels: np.ndarray) -> tuple:
        """One picture at a time, so that its numbers do not depend on its neighbours."""
        first = self.network(self._batch(pixels))[0].astype(np.float32)
        if self.boxes is not None:
            return self._detected(first)
        if len(first) != 1 or first.size > 1000:
            raise CurateError(f"{self.path} gives {list(first.shape)} for one image; a few numbers are expected")
        return tuple(_squeezed(first.reshape(-1), self.final).tolist())

    def _detected(self, first: np.ndarray) -> tuple[int, float, float | None]:
        rows = first.reshape(-1, first.shape[-1]) if first.ndim in (2, 3) else first
        if rows.ndim != 2 or rows.shape[1] < 5:
            raise CurateError(f"{self.path} gives {list(first.shape)}; boxes= expects [1, n, 5]: left, top, right, "
                              "bottom, score")  # fmt: skip
        mask = np.zeros(self.side[::-1], np.uint8)
        sure = rows[rows[:, 4] >= self.boxes]
        for left, top, right, bottom in np.round(sure[:, :4]).astype(int).tolist():
            mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 1
        return len(sure), float(mask.mean()), float(rows[:, 4].max()) if len(rows) else None

    def _batch(self, pixels: np.ndarray) -> np.ndarray:
        """[1, 3, height, width] or [1, height, width, 3] of the network's own type."""
        width, height = self.side
        image = Image.fromarray(pixels)
        scale = min(image.width / width, image.height / height)
        wide, high = (image.width, image.height) if self.squash else (width * scale, height * scale)
        left, top = (image.width - wide) / 2, (image.height - high) / 2
        box = (left, top, left + wide, top + high)
        values = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box))
        if self.network.type != np.uint8:
            values = ((values.astype(np.float32) / 255 - self.mean) / self.std).astype(self.network.type)
        return np.ascontiguousarray(values if self.channels_last else values.transpose(2, 0, 1))[None]


def _squeezed(values: np.ndarray, final: str) -> np.ndarray:
    if final == "sigmoid":
        return 1 / (1 + np.exp(-values))
    if final == "softmax":
        raised = np.exp(values - values.max())
        return raised / raised.sum()
    return values
