"""Robustness to natural shifts: accuracy on photographs of another kind against accuracy on the base set.

The gap is what a shift costs. Effective robustness (Taori et al. 2020, Measuring Robustness to Natural Distribution
Shifts in Image Classification) is accuracy on the shift above what other models with the same accuracy on the base set
reach: a line through their accuracies, both on the logit scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

from curate.errors import CurateError
from curate.evaluate.interval import difference, proportion, wilson

LEAST = 3  # baseline models that a line needs
BORDER = 1e-3  # accuracies nearer than this to 0 or 1 are taken for it: their logit would decide the line alone


@dataclass(frozen=True)
class Line:
    """logit(accuracy on the shift) = slope * logit(accuracy on the base set) + offset, and the models that it is of."""

    slope: float
    offset: float
    models: int

    def predicted(self, base: float) -> float:
        return float(expit(self.slope * _logits([base])[0] + self.offset))


def subset(shift: Sequence[str], base: Sequence[str], name: str, base_name: str) -> np.ndarray:
    """int64 [classes of the shift]: the class of the base set of each, by its name. Raises CurateError where it has
    none, or several."""
    if list(shift) == list(base):
        return np.arange(len(base))
    doubled = next((each for each in base if list(base).count(each) > 1 and each in shift), None)
    if doubled is not None:
        raise CurateError(f"{base_name} has two classes called '{doubled}': which of them {name} means cannot be told")
    missing = [each for each in shift if each not in base]
    if missing:
        raise CurateError(f"{len(missing)} of {len(shift)} classes of {name} are none of {base_name}, such as "
                          f"'{missing[0]}'; robustness compares sets by the names in classnames.txt")  # fmt: skip
    return np.array([list(base).index(each) for each in shift], np.int64)


def restricted(scores: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> tuple[int, int]:
    """(right images, images) of scores [n, k] of the base set among the classes `kept` alone: images of other classes
    are left out, and so are the scores of other classes (the rule of ImageNet-A and ImageNet-R)."""
    place = np.full(scores.shape[1], -1)
    place[kept] = np.arange(len(kept))
    used = place[labels] >= 0
    predicted = scores[used][:, kept].argmax(axis=1)
    return int((predicted == place[labels[used]]).sum()), int(used.sum())


def compared(base: tuple[int, int], shift: tuple[int, int], line: Line | None) -> dict[str, Any]:
    """Accuracies, each (right images, images), and the gap, base less shift, with 95% intervals; with a line, the
    accuracy that it predicts and the effective robustness, whose interval is that of the accuracy on the shift."""
    found = {"base": proportion(*base), "shift": proportion(*shift), "gap": difference(base, shift)}
    if line:
        predicted = line.predicted(base[0] / base[1])
        low, high = wilson(*shift)
        value = shift[0] / shift[1] - predicted
        found["effective_robustness"] = {
            "value": round(value, 6),
            "interval95": [round(low - predicted, 6), round(high - predicted, 6)],
            "predicted": round(predicted, 6),
        }
        found["line"] = {"slope": round(line.slope, 6), "offset": round(line.offset, 6), "models": line.models}
    return found


def line_through(points: Sequence[tuple[float, float]], name: str) -> Line:
    """Least squares on the logit scale through (accuracy on the base set, on the shift) of other models. Raises
    CurateError where they are too few, or all alike."""
    if len(points) < LEAST:
        raise CurateError(f"{len(points)} baseline models tell of {name}, a line needs {LEAST}")
    x, y = _logits([base for base, _ in points]), _logits([shift for _, shift in points])
    if np.ptp(x) < 1e-9:
        raise CurateError(f"all baseline models have the same accuracy on the base set of {name}: no line")
    slope, offset = np.polyfit(x, y, 1)
    return Line(float(slope), float(offset), len(points))


def _logits(shares: Sequence[float]) -> np.ndarray:
    return logit(np.clip(np.array(shares, float), BORDER, 1 - BORDER))
