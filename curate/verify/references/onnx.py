"""onnx by Pillow, colours in float64 and onnxruntime, one image at a time."""

import numpy as np
from PIL import Image

from curate.networks.onnx import session
from curate.signals.onnx import IMAGENET, Colour, Signal
from curate.verify.references import of_pictures


class Reference:
    """It takes the columns' names from the signal, no number."""

    tolerance = 1e-3

    def __init__(self, path: str, size: int | None = None, squash: bool = True, mean: Colour = IMAGENET[0],
                 std: Colour = IMAGENET[1], outputs: str | tuple[str, ...] = "", final: str = "none",
                 boxes: float | None = None):  # fmt: skip
        self.signal = Signal(path, size, squash, mean, std, outputs, final, boxes)

    def measure(self, images, captions) -> dict[str, list]:
        found = of_pictures(self._found, images)
        wide = 3 if self.signal.boxes is not None else len(next((one for one in found if one), ()))
        if self.signal.boxes is not None:
            names = ["onnx_boxes", "onnx_area", "onnx_score"]
        elif wide == 1 and not self.signal.outputs:
            names = ["onnx"]
        else:
            names = [f"onnx_{name}" for name in self.signal.outputs or range(wide)]
        return {name: [one and one[at] for one in found] for at, name in enumerate(names)}

    def _found(self, image: Image.Image) -> list[float | None]:
        network, (width, height) = session(self.signal.path), self.signal.side
        if not self.signal.squash:
            ratio = width / height
            wide, high = min(image.width, image.height * ratio), min(image.height, image.width / ratio)
            box = ((image.width - wide) / 2, (image.height - high) / 2, (image.width + wide) / 2,
                   (image.height + high) / 2)  # fmt: skip
            image = image.resize((width, height), Image.Resampling.BICUBIC, box)
        values, given = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)), network.get_inputs()[0]
        if "uint8" not in given.type:
            values = (values / 255.0 - self.signal.mean.astype(float)) / self.signal.std.astype(float)
            values = values.astype(np.float16 if "float16" in given.type else np.float32)
        values = values if self.signal.channels_last else np.moveaxis(values, 2, 0)
        first = network.run(None, {given.name: np.ascontiguousarray(values)[None]})[0].astype(np.float64)
        return self._covered(first.reshape(-1, first.shape[-1])) if self.signal.boxes is not None else self._last(first)

    def _last(self, first: np.ndarray) -> list[float | None]:
        values = first.reshape(-1)
        if self.signal.final == "sigmoid":
            return (1 / (1 + np.exp(-values))).tolist()
        return (np.exp(values) / np.exp(values).sum() if self.signal.final == "softmax" else values).tolist()

    def _covered(self, rows: np.ndarray) -> list[float | None]:
        width, height = self.signal.side
        sure = [[round(side) for side in row[:4]] for row in rows if row[4] >= self.signal.boxes]
        pixels = {(x, y) for left, top, right, bottom in sure for x in range(max(0, left), min(width, right))
                  for y in range(max(0, top), min(height, bottom))}  # fmt: skip
        return [len(sure), len(pixels) / (width * height), max((row[4] for row in rows), default=None)]
