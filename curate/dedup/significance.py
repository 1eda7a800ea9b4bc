"""Whether a model is better on the test images that its pool holds than on the others.

Method: Radford et al. 2021, section 5: accuracy on all, the clean and the overlapping images; the chance of so many
right overlapping images, or more, were they no easier than the clean ones (one-tailed binomial); the 99.5 % interval of
Clopper and Pearson; Bonferroni's correction for the number of benchmarks.
"""

from typing import Any

import numpy as np
from scipy.special import betainc, betaincinv  # scipy.stats takes a CPU second to import

CONFIDENCE = 0.995
SIGNIFICANT = 0.05


def contamination(correct: np.ndarray, overlapping: np.ndarray) -> dict[str, Any]:
    """Of boolean arrays [images]: counts and accuracies of "all", "clean" and "overlap" images, "difference" (all less
    clean), "p" (one-tailed) and "interval" of the accuracy on the overlap; null where there are no such images."""
    clean = ~overlapping
    numbers: dict[str, Any] = {
        "all": _share(correct), "clean": _share(correct[clean]), "overlap": _share(correct[overlapping]),
        "difference": None, "p": None, "interval": None,
    }  # fmt: skip
    if clean.any():
        numbers["difference"] = round(float(correct.mean() - correct[clean].mean()), 6)
    if overlapping.any():
        right, number = int(correct[overlapping].sum()), int(overlapping.sum())
        numbers["interval"] = [round(bound, 6) for bound in _interval(right, number)]
        if clean.any():
            numbers["p"] = _at_least(right, number, float(correct[clean].mean()))
    return numbers


def corrected(benchmarks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same with "p_corrected", p times the number of benchmarks that have one, and "significant"."""
    number = sum(found["p"] is not None for found in benchmarks.values())
    result = {}
    for name, found in benchmarks.items():
        p = None if found["p"] is None else min(1.0, found["p"] * number)
        result[name] = {**found, "p_corrected": p, "significant": p is not None and p < SIGNIFICANT}
    return result


def _at_least(right: int, number: int, chance: float) -> float:
    """The chance of so many right ones of a number, or more, by the binomial distribution."""
    return float(betainc(right, number - right + 1, chance)) if right else 1.0


def _interval(right: int, number: int) -> tuple[float, float]:
    """Clopper and Pearson's: the shares under which so many, or so few, still have half of the chance left over."""
    beyond = (1 - CONFIDENCE) / 2
    low = float(betaincinv(right, number - right + 1, beyond)) if right else 0.0
    return low, float(betaincinv(right + 1, number - right, 1 - beyond)) if right < number else 1.0


def _share(correct: np.ndarray) -> dict[str, Any]:
    accuracy = round(float(correct.mean()), 6) if len(correct) else None
    return {"images": len(correct), "right": int(correct.sum()), "accuracy": accuracy}
