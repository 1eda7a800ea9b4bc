"""Heads over embeddings by torch: a linear layer or an MLP, read from a file of tensors."""

import itertools
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from curate.errors import NO_WEIGHTS, CurateError
from curate.networks.threads import one_thread

ROWS = 8192  # embeddings at a time
BETWEEN = {"none": torch.nn.Identity(), "relu": torch.nn.ReLU(), "gelu": torch.nn.GELU(), "tanh": torch.nn.Tanh(),
           "silu": torch.nn.SiLU(), "leaky_relu": torch.nn.LeakyReLU()}  # fmt: skip
LAST = {"none": torch.nn.Identity(), "sigmoid": torch.nn.Sigmoid(), "softmax": torch.nn.Softmax(dim=-1)}


class Layer(NamedTuple):
    """name: of its weight in the file. weight: float32 [out, in]; bias: float32 [out] or None."""

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None


class Head:
    """Embeddings [n, dimensions] -> float32 [n, outputs]; NaN where the embedding is all zero: there was no image."""

    def __init__(self, path: str, activation: str, final: str):
        for option, value, known in (("activation", activation, BETWEEN), ("final", final, LAST)):
            if value not in known:
                raise CurateError(f"head: no {option} '{value}'; choose from: {', '.join(known)}")
        self.between, self.last = BETWEEN[activation], LAST[final]
        self.layers = _layers(_tensors(path), path)

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        starts = range(0, max(1, len(embeddings)), ROWS)
        return np.concatenate([self._values(embeddings[start : start + ROWS]) for start in starts])

    @torch.inference_mode()
    def _values(self, embeddings: np.ndarray) -> np.ndarray:
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
    except (SafetensorError, zipfile.BadZipFile, zlib.error, *NO_WEIGHTS) as error:
        told = "" if isinstance(error, pickle.UnpicklingError) else str(error)  # how to load it without protection
        reason = told.strip().split("\n", 1)[0][:120] or type(error).__name__
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
