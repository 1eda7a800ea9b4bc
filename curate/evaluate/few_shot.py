"""Few-shot: a linear probe of k training images for each class, drawn several times, beside zero-shot.

Radford et al. 2021, figure 6. The strength of regularisation is chosen on the validation split, as for the full probe.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.evaluate.interval import mean_of_runs
from curate.evaluate.linear_probe import fit, sweep
from curate.evaluate.order import by_hash

SHOTS = (1, 2, 4, 8, 16)
DRAWS = 3


def few_shot(train: np.ndarray, train_labels: np.ndarray, keys: Sequence[str], held_out: np.ndarray, test: np.ndarray,
             test_labels: np.ndarray, classes: int, shots: Sequence[int] = SHOTS, draws: int = DRAWS,
             seed: int = 0) -> dict[str, Any]:  # fmt: skip
    """k -> mean top-1 accuracy on `test` over the draws, with Student's 95% interval, the standard deviation and every
    draw. A draw takes its images by a hash of seed, draw and key; more shots add to those of fewer."""
    found = {}
    for k in sorted(shots):
        reached = []
        for draw in range(draws):
            rows = drawn(train_labels, keys, held_out, k, seed * draws + draw)
            few, labels = train[rows], train_labels[rows]
            strength, _ = sweep(few, labels, train[held_out], train_labels[held_out], classes)
            scores = fit(few, labels, classes, strength).scores(test)
            reached.append(float((scores.argmax(axis=1) == test_labels).mean()))
        found[str(k)] = {**mean_of_runs(reached), "draws": [round(value, 6) for value in reached]}
    return {"images": len(test), "classes": classes, "shots": found}


def most_shots(train_labels: np.ndarray, held_out: np.ndarray, classes: int) -> tuple[int, int]:
    """(how many shots every class can give, the first class that can give no more)."""
    counts = np.bincount(train_labels[~held_out], minlength=classes)
    return int(counts.min()), int(counts.argmin())


def drawn(labels: np.ndarray, keys: Sequence[str], held_out: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """int64 [shots * classes]: the rows of one draw, in their order."""
    order = by_hash(keys, seed)
    order = order[~held_out[order]]
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels[order])
    places = np.concatenate([np.arange(count) for count in counts])
    return np.sort(by_class[places < shots])
