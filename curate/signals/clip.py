"""How well image and caption belong together: the cosine of their CLIP embeddings (CLIPScore without its factor 2.5;
Radford et al. 2021, arXiv:2103.00020; Hessel et al. 2021, arXiv:2104.08718). The image embedding is kept for dedup."""

import functools
import importlib
import os
from typing import Any

import numpy as np
import pyarrow as pa

from curate.clip import model_config
from curate.dataset import fingerprint
from curate.errors import CurateError


class Signal:
    """clip(pretrained=RUN|FILE), clip(model=ViT-B-32-quickgelu, pretrained=openai); the weights load on first use.

    precision: fp32; bf16, about twice as fast (scores within 0.002); auto, bf16 where the processor has it natively.
    """

    reads = ("pixels", "caption")
    distance = "cosine"
    threshold = 0.95

    def __init__(self, pretrained: str, model: str | None = None, device: str = "auto", precision: str = "fp32"):
        self._options = (model, pretrained, device, precision)
        if precision not in model_config.PRECISIONS:
            raise CurateError(f"no precision '{precision}'; choose from: {', '.join(model_config.PRECISIONS)}")

    @property
    def made_by(self) -> dict[str, Any]:
        """Model, its config and weights, the version of the preprocessing, and the precision that is used here: "auto"
        may mean another one on another machine."""
        model, pretrained, device, precision = self._options
        if precision == "auto":
            precision = _models().scoring_precision(precision, _models().torch_device(device))
        config = fingerprint(model_config.config_of(model, pretrained)[1])
        return {**model_config.made_by(model, pretrained), "config": config, "precision": precision,
                "preprocessing": model_config.PREPROCESSING}  # fmt: skip

    @property
    def decode_threads(self) -> int:
        """Threads that decode the next batch while this one is measured: none on a CPU, which has other work."""
        return os.cpu_count() or 1 if _models().torch_device(self._options[2]).type == "cuda" else 0

    def measure(self, rows) -> dict[str, pa.Array | np.ndarray]:
        """clip: float32 cosine and float32 [n, d] unit image embedding; null and zeros where the image is broken."""
        model = _load(self.made_by["weights"], *self._options)
        whole = np.flatnonzero([pixels is not None for pixels in rows.pixels])
        images = model.encode_images([rows.pixels[index] for index in whole])
        captions = rows["caption"].to_pylist()
        # web captions repeat ("image", a shop's name): each distinct one of a shard is encoded once
        known: dict[str, np.ndarray] = rows.shard.setdefault(self, {})
        new = sorted({captions[index] for index in whole} - known.keys())
        known.update(zip(new, model.encode_texts(new), strict=True))
        embedding = np.zeros((len(captions), images.shape[1]), np.float32)
        embedding[whole] = images
        cosine = np.full(len(captions), np.nan, np.float32)
        for index, image in zip(whole, images, strict=True):
            cosine[index] = image @ known[captions[index]]
        return {"clip": pa.array(cosine, pa.float32(), from_pandas=True), "clip_embedding": embedding}


@functools.lru_cache(maxsize=2)
def _load(weights: str, *options) -> Any:
    """The ClipModel, loaded anew where a file of the same name has other weights than before."""
    return _models().load(*options)


def _models() -> Any:
    """curate.clip.models, and torch with it, once something is to be measured."""
    return importlib.import_module("curate.clip.models")
