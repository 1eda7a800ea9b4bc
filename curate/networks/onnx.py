"""Networks of others in ONNX files: an array in, arrays out, on one thread, with the same numbers in every worker."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from curate.errors import CurateError

ERRORS = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented,
          state.RuntimeException)  # fmt: skip  # no common class but Exception
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


@functools.lru_cache(maxsize=4)
def session(path: str) -> onnxruntime.InferenceSession:
    """A file as onnxruntime opens it by itself: what a Network is compared with."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def one_thread(network: str | bytes, on_gpu: bool = False) -> onnxruntime.InferenceSession:
    """A file, or the bytes of one, with the same sums in the same order in every worker. Raises CurateError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"][0 if on_gpu else 1 :]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(network, options, providers=providers)
    except ERRORS as error:
        name = network if isinstance(network, str) else "this"
        raise CurateError(f"{name} is no ONNX file that onnxruntime {onnxruntime.__version__} can read") from error


class Network:
    """An ONNX file with one image input. shape: of its input, None where a length is free. type: of its numbers."""

    def __init__(self, path: str):
        if not Path(path).is_file():
            raise CurateError(f"no such ONNX file: {path}")
        self.path = path
        self._session = one_thread(path)
        given = self._session.get_inputs()
        if len(given) != 1 or len(given[0].shape) != 4 or given[0].type not in TYPES:
            what = ", ".join(f"{each.name} {each.type} {each.shape}" for each in given)
            raise CurateError(f"{path} takes {what}; one batch of images is expected, of float or uint8")
        self._name, self.type = given[0].name, TYPES[given[0].type]
        self.shape = [side if isinstance(side, int) and side > 0 else None for side in given[0].shape]

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Every output for a batch. Raises CurateError where the network cannot take it."""
        try:
            found: list[Any] = self._session.run(None, {self._name: batch.astype(self.type, copy=False)})
        except ERRORS as error:
            shape = " x ".join(map(str, batch.shape))
            reason = str(error).strip().split("\n", 1)[0][:200]
            raise CurateError(f"{self.path} cannot take a batch of {shape}: {reason}") from error
        return [np.asarray(each) for each in found]
