"""A head over stored embeddings: a linear layer or an MLP of your own, such as LAION's aesthetic predictors.

It reads what another signal (`of`) stored beside its table, so no image is decoded and no large network runs.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate import named
from curate.errors import CurateError
from curate.storage.disk import sha256


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
        self.path, self.of = path, of
        self._options, self._outputs = (path, activation, final), named.words(outputs)
        if not Path(path).is_file():
            raise CurateError(f"no such head file: {path}")

    @cached_property
    def head(self) -> Any:
        """The Head, and torch with it, once something is to be measured."""
        return named.needed("curate.networks.heads", "head").Head(*self._options)

    @property
    def columns(self) -> list[str]:
        wide, names = len(self.head.layers[-1].weight), self._outputs
        if names and len(names) != wide:
            raise CurateError(f"{self.path} gives {wide} values, outputs names {len(names)}: {', '.join(names)}")
        return [f"head_{name}" for name in names or range(wide)] if names or wide > 1 else ["head"]

    @cached_property
    def made_by(self) -> dict[str, Any]:
        return {"head": Path(self.path).name, "weights": sha256(self.path)}

    def measure(self, rows) -> dict[str, pa.Array]:
        embeddings = rows.embedding(self.of)
        first, columns = self.head.layers[0], self.columns
        if embeddings.shape[1] != first.weight.shape[1]:
            raise CurateError(f"{self.path} takes vectors of {first.weight.shape[1]} numbers (its layer {first.name}), "
                              f"'{self.of}' has {embeddings.shape[1]}: a head belongs to one model; "
                              "name the signal of that model with of=")  # fmt: skip
        found = self.head(embeddings)
        return {name: pa.array(found[:, at], pa.float32(), from_pandas=True) for at, name in enumerate(columns)}
