"""Linear probe: logistic regression on frozen image features, regularised as the paper's sweep finds best.

Radford et al. 2021, appendix A.3: L-BFGS, at most 1,000 iterations; the L2 strength is one of the values that lie 8 a
decade between 1e-6 and 1e6, found on a validation split by a search that halves the interval around the best; then the
classifier is trained again on the training and validation images together. Unlike the paper's for its vision
transformers, the features are those after the projection, L2-normalised: what zero-shot and retrieval compare.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from curate.evaluate.order import by_hash
from curate.evaluate.zero_shot import accuracy

ITERATIONS = 1000
STEPS = 96  # between WEAKEST and STRONGEST
DECADES = (-6.0, 6.0)
COARSE = 16  # steps between the values tried first: 1e-6, 1e-4, ..., 1e6
TOLERANCE = 1e-5  # largest slope of the mean loss at which L-BFGS stops
HELD_OUT = 0.2  # of the training images of each class, where the benchmark has no validation split


@dataclass(frozen=True)
class Probe:
    """A classifier: scores of features [n, d] are features @ weights.T + bias; -inf for classes it has not seen."""

    weights: np.ndarray  # float64 [classes, d]
    bias: np.ndarray  # float64 [classes]
    iterations: int
    converged: bool

    def scores(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weights.T + self.bias


def linear_probe(train: np.ndarray, train_labels: np.ndarray, held_out: np.ndarray, test: np.ndarray,
                 test_labels: np.ndarray, classes: int) -> dict[str, Any]:  # fmt: skip
    """Accuracy on `test` of the probe of `train` (features [n, d], labels int [n] below `classes`), whose strength is
    the best on the rows `held_out` (bool [n]) of a probe of the others; as `accuracy`, with the sweep beside it."""
    strength, tried = sweep(train[~held_out], train_labels[~held_out], train[held_out], train_labels[held_out], classes)
    probe = fit(train, train_labels, classes, strength)
    return {
        **accuracy(probe.scores(test), test_labels),
        "train_images": int((~held_out).sum()),
        "validation_images": int(held_out.sum()),
        "strength": strength,
        "tried": [[value, round(score, 6)] for value, score in sorted(tried.items())],
        "iterations": probe.iterations,
        "converged": probe.converged,
    }


def sweep(train: np.ndarray, train_labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray,
          classes: int) -> tuple[float, dict[float, float]]:  # fmt: skip
    """(the best strength, the accuracy on the held-out images of every strength tried)."""

    def score(strength: float) -> float:
        scores = fit(train, train_labels, classes, strength).scores(held_out)
        return float((scores.argmax(axis=1) == held_out_labels).mean())

    return search(score)


def search(score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """(the strength with the highest score, every strength tried with its score); of equal ones the strongest."""
    tried: dict[int, float] = {}

    def best_of(steps: Sequence[int]) -> int:
        for step in steps:
            if 0 <= step <= STEPS and step not in tried:
                tried[step] = score(strength_at(step))
        return max(tried, key=lambda step: (tried[step], step))

    best, gap = best_of(range(0, STEPS + 1, COARSE)), COARSE // 2
    while gap:
        best, gap = best_of((best - gap, best + gap)), gap // 2
    return strength_at(best), {strength_at(step): value for step, value in tried.items()}


def strength_at(step: int) -> float:
    """The step-th of the values that lie evenly by their logarithm."""
    low, high = DECADES
    return float(f"{10 ** (low + (high - low) * step / STEPS):.6g}")


def fit(features: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> Probe:
    """Minimise the sum of the cross-entropies + strength / 2 * the squared weights (not the bias): scikit-learn's
    LogisticRegression with C = 1 / strength. From zero, in float64, over the classes that occur in `labels`."""
    seen, at = np.unique(labels, return_inverse=True)
    rows = np.hstack([features.astype(np.float64), np.ones((len(features), 1))])
    right = np.zeros((len(rows), len(seen)))
    right[np.arange(len(rows)), at] = 1
    found = minimize(loss, np.zeros(len(seen) * rows.shape[1]), (rows, right, strength), "L-BFGS-B", jac=True,
                     options={"maxiter": ITERATIONS, "maxfun": 10 * ITERATIONS, "gtol": TOLERANCE,
                              "ftol": 64 * np.finfo(float).eps})  # fmt: skip
    solved = found.x.reshape(len(seen), -1)
    weights, bias = np.zeros((classes, features.shape[1])), np.full(classes, -np.inf)
    weights[seen], bias[seen] = solved[:, :-1], solved[:, -1]
    return Probe(weights, bias, int(found.nit), bool(found.success))


def loss(flat: np.ndarray, rows: np.ndarray, right: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
    """(the mean objective, its gradient) at weights and bias `flat` [k * (d + 1)] for `rows` [n, d + 1], whose last
    column is 1, and `right` [n, k], 1 at the class of each row."""
    matrix = flat.reshape(right.shape[1], -1)
    logarithms = log_softmax(rows @ matrix.T, axis=1)
    penalised = matrix.copy()
    penalised[:, -1] = 0
    value = -(right * logarithms).sum() + strength / 2 * (penalised**2).sum()
    slope = (np.exp(logarithms) - right).T @ rows + strength * penalised
    return value / len(rows), slope.ravel() / len(rows)


def drawn_validation(keys: Sequence[str], labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """bool [n]: HELD_OUT of the images of each class (rounded up, never its only image), by a hash of key and seed."""
    order = by_hash(keys, seed)
    chosen = np.zeros(len(keys), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen[members[: min(int(np.ceil(HELD_OUT * len(members))), len(members) - 1)]] = True
    return chosen
