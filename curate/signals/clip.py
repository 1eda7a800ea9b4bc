"""How well image and caption belong together: the cosine of their CLIP embeddings (CLIPScore without its factor 2.5;
Radford et al. 2021, arXiv:2103.00020; Hessel et al. 2021, arXiv:2104.08718). The image embedding is kept for dedup."""

import functools

import numpy as np
import pyarrow as pa

from curate import models


class Signal:
    """clip(pretrained=RUN|FILE), clip(model=ViT-B-32-quickgelu, pretrained=openai); the weights load on first use."""

    reads = ("pixels", "caption")
    distance = "cosine"
    threshold = 0.95

    def __init__(self, pretrained: str, model: str | None = None, device: str = "auto", precision: str = "fp32"):
        self._options = (model, pretrained, device, precision)
        self.made_by = {**models.made_by(model, pretrained), "precision": precision}

    def measure(self, rows) -> dict[str, pa.Array | np.ndarray]:
        """clip: float32 cosine and float32 [n, d] unit image embedding; null and zeros where the image is broken."""
        model = _load(*self._options)
        whole = np.flatnonzero([pixels is not None for pixels in rows.pixels])
        images = model.encode_images([rows.pixels[index] for index in whole])
        captions = rows["caption"].to_pylist()
        # web captions repeat ("image", a shop's name): each distinct one is encoded once
        distinct, place = np.unique(np.array([captions[index] for index in whole], object), return_inverse=True)
        texts = model.encode_texts(list(distinct))
        embedding = np.zeros((len(captions), images.shape[1]), np.float32)
        embedding[whole] = images
        cosine = np.full(len(captions), np.nan, np.float32)
        cosine[whole] = np.einsum("nd,nd->n", images, texts[place])
        return {"clip": pa.array(cosine, pa.float32(), from_pandas=True), "clip_embedding": embedding}


@functools.lru_cache(maxsize=2)
def _load(*options) -> models.ClipModel:
    return models.load(*options)
