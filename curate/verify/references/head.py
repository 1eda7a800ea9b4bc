"""head in NumPy's float64 over the stored embeddings, one after the other."""

from collections.abc import Callable
from math import erf

import numpy as np

from curate.signals.head import Signal

EXACT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
    "gelu": lambda x: np.array([0.5 * one * (1 + erf(one / 2**0.5)) for one in x]),
    "softmax": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
}


class Reference:
    """It reads embeddings, not images: those that the signal `of` stored."""

    tolerance = 1e-3

    def __init__(self, path: str, of: str = "clip", activation: str = "none", final: str = "none",
                 outputs: str | tuple[str, ...] = ""):  # fmt: skip
        head = Signal(path, of, activation, final, outputs)
        self.of, self.columns = of, head.columns
        self.between, self.last = EXACT[activation], EXACT[final]
        self.layers = [(layer.weight.double().numpy(), 0.0 if layer.bias is None else layer.bias.double().numpy())
                       for layer in head.head.layers]  # fmt: skip

    def measure_embeddings(self, embeddings: np.ndarray) -> dict[str, list]:
        found = [self._values(row.astype(np.float64)) if row.any() else None for row in embeddings]
        return {name: [one and one[at] for one in found] for at, name in enumerate(self.columns)}

    def _values(self, x: np.ndarray) -> list[float]:
        for number, (weight, bias) in enumerate(self.layers, 1):
            x = weight @ x + bias
            x = self.last(x) if number == len(self.layers) else self.between(x)
        return x.tolist()
