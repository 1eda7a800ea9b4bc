"""Features of pictures by a network that was exported to a TorchScript or ONNX file."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from curate import named
from curate.errors import BadShard, CurateError
from curate.networks.pictures import Preset

ONNX = ".onnx"


class Exported:
    """Images -> float32 [n, dimensions]. Raises CurateError where the file holds no such network."""

    def __init__(self, file: str, wanted: Preset, device: torch.device):
        self.file, self.wanted = file, wanted
        self.net = _onnx(file, device) if file.lower().endswith(ONNX) else _torchscript(file, device)
        # on the CPU one picture at a time is as fast, and its numbers do not depend on its neighbours
        self.together = wanted.squash and device.type != "cpu"

    def __call__(self, pictures: list[np.ndarray]) -> np.ndarray:
        values = [self.wanted.values(picture) for picture in pictures or [np.zeros((224, 224, 3), np.uint8)]]
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


def _torchscript(file: str, device: torch.device) -> Callable[[np.ndarray], Any]:
    try:
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # newer torch calls the form old
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
    networks = named.needed("curate.networks.onnx", file)
    session = networks.one_thread(file, on_gpu=device.type != "cpu")
    name = session.get_inputs()[0].name

    def run(batch: np.ndarray) -> Any:
        try:
            return session.run(None, {name: batch})[0]
        except networks.ERRORS as error:
            raise ValueError(str(error)) from error

    return run
