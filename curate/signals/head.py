"""A head over stored embeddings: a linear layer or an MLP of your own, such as LAION's aesthetic predictors.

It reads what another signal (`of`) stored beside its table, so no image is decoded and no large network runs.
"""

import hashlib
import itertools
import pickle
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from curate.errors import CurateError
from curate.named import words
from curate.threads import one_thread

ROWS = 8192  # embeddings at a time
BETWEEN = {"none": torch.nn.Identity(), "relu": torch.nn.ReLU(), "gelu": torch.nn.GELU(), "tanh": torch.nn.Tanh(),
           "silu": torch.nn.SiLU(), "leaky_relu": torch.nn.LeakyReLU()}  # fmt: skip
LAST = {"none": torch.nn.Identity(), "sigmoid": torch.nn.Sigmoid(), "softmax": torch.nn.Softmax(dim=-1)}


class Layer(NamedTuple):
    """name: of its weight in the file. weight: float32 [out, in]; bias: float32 [out] or None."""

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None


class Signal:
    """head(path=aesthetic.safetensors, of=clip): null where the image had no embedding.

    path: a .safetensors file, a state dict of PyTorch (.pt, .pth, .ckpt, .bin) or an .npz: each matrix is a layer with
    the bias that is named like it, in the order of their names. of: the name of the signal whose unit vectors are read.
    activation: between the layers; LAION's predictors have none. final: after the last. outputs: names of the values
    where the last layer has several: columns head_<output>, else numbered.
    """

    reads = ()

    def __init__(self, path: str, of: str = "clip", activation: str = "none", final: str = "none",
                 outputs: str | tuple[str, ...] = ""):  # fmt: skip
        for option, value, known in (("activation", activation, BETWEEN), ("final", final, LAST)):
            if value not in known:
                raise CurateError(f"head: no {option} '{value}'; choose from: {', '.join(known)}")
        self.path, self.of = path, of
        self.between, self.last = BETWEEN[activation], LAST[final]
        if not Path(path).is_file():
            raise CurateError(f"no such head file: {path}")
        wide = len(self.layers[-1].weight)
        names = words(outputs)
        if names and len(names) != wide:
            raise CurateError(f"{path} gives {wide} values, outputs names {len(names)}: {', '.join(names)}")
        self.columns = [f"head_{name}" for name in names or range(wide)] if names or wide > 1 else ["head"]

    @cached_property
    def layers(self) -> list[Layer]:
        return _layers(_tensors(self.path), self.path)

    @cached_property
    def made_by(self) -> dict[str, Any]:
        return {"head": Path(self.path).name, "weights": hashlib.sha256(Path(self.path).read_bytes()).hexdigest()}

    def measure(self, rows) -> dict[str, pa.Array]:
        embeddings = rows.embedding(self.of)
        wanted = self.layers[0].weight.shape[1]
        if embeddings.shape[1] != wanted:
            raise CurateError(f"{self.path} takes vectors of {wanted} numbers (its layer {self.layers[0].name}), "
                              f"'{self.of}' has {embeddings.shape[1]}: a head belongs to one model; "
                              "name the signal of that model with of=")  # fmt: skip
        found = np.concatenate([self._values(embeddings[start : start + ROWS])
                                for start in range(0, max(1, len(embeddings)), ROWS)])  # fmt: skip
        return {name: pa.array(found[:, at], pa.float32(), from_pandas=True) for at, name in enumerate(self.columns)}

    @torch.inference_mode()
    def _values(self, embeddings: np.ndarray) -> np.ndarray:
        """float32 [n, outputs]; NaN where the embedding is all zero: there was no image."""
        x = torch.from_numpy(np.array(embeddings, np.float32))
        empty = (x == 0).all(dim=1)
        with one_thread():
            for layer in self.layers[:-1]:
                x = self.between(torch.nn.functional.linear(x, layer.weight, layer.bias))
            x = self.last(torch.nn.functional.linear(x, self.layers[-1].weight, self.layers[-1].bias))
        x[empty] = torch.nan
        return x.numpy()


def _tensors(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a file by name. Raises CurateError."""
    try:
        if path.lower().endswith(".safetensors"):
            return load_file(path)
        if path.lower().endswith(".npz"):
            with np.load(path, allow_pickle=False) as file:
                return {name: torch.from_numpy(file[name]) for name in file.files}
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).strip().split("\n", 1)[0][:120] or type(error).__name__
        raise CurateError(f"{path} is no .safetensors, .npz or PyTorch state dict: {reason}") from error
    found = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise CurateError(f"{path} holds no state dict: names and tensors are expected")
    return dict(found)


def _layers(tensors: dict[str, torch.Tensor], path: str) -> list[Layer]:
    """The layers in the order of their names (2 before 10). Raises CurateError where they make no MLP."""
    names = sorted((name for name, tensor in tensors.items() if tensor.ndim == 2), key=_natural)
    layers = []
    for name in names:
        bias = tensors.get(_bias_of(name))
        layers.append(Layer(name, tensors[name].float(), None if bias is None else bias.float().flatten()))
    known = {*names, *map(_bias_of, names)}
    others = sorted(set(tensors) - known)
    if others or not layers:
        what = f"'{others[0]}' {list(tensors[others[0]].shape)}" if others else "no matrix"
        raise CurateError(f"{path} holds {what}: a head is matrices [out, in] and their biases; for any other network "
                          "export it to ONNX and use the signal 'onnx'")  # fmt: skip
    for before, after in itertools.pairwise(layers):
        if len(before.weight) != after.weight.shape[1]:
            raise CurateError(f"{path}: layer {before.name} gives {len(before.weight)} numbers, the next, "
                              f"{after.name}, takes {after.weight.shape[1]}")  # fmt: skip
    for layer in layers:
        if layer.bias is not None and len(layer.bias) != len(layer.weight):
            raise CurateError(f"{path}: layer {layer.name} gives {len(layer.weight)} numbers, its bias has "
                              f"{len(layer.bias)}")  # fmt: skip
    return layers


def _bias_of(weight: str) -> str:
    """The name that the bias of a matrix has: layers.0.bias of layers.0.weight."""
    return weight.removesuffix("weight") + "bias"


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
