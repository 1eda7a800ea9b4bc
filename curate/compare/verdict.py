"""Who is better, and who only seems so: differences of means over seeds, with intervals that hold for all together.

Rule: a side is better where the interval of its difference lies above 0. The intervals are Welch's (1947), for samples
of unlike variance, at 95 % corrected by Bonferroni for all comparisons of the table; a variance of 0 (runs that agree
by chance) is taken for that of rounding. A winner is a selection that is better than every other and its own control.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from curate.compare.arms import Arm

LEVEL = 0.05  # chance that any interval of the table misses
LEAST = 1e-4**2 / 12  # variance of shares rounded to a ten-thousandth


class Interval(NamedTuple):
    """Difference of two means and its interval."""

    value: float
    low: float
    high: float


def judge(reached: Mapping[str, Sequence[Mapping[str, float]]], arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """For each measure: the comparisons, each with its difference, interval and who is better (None: nobody), and the
    winner (None: nobody). `reached`: arm -> of each seed the measures."""
    pairs = comparisons(arms)
    measures = list(next(iter(reached.values()))[0])
    number = len(pairs) * len(measures)
    judged = []
    for measure in measures:
        values = {name: [run[measure] for run in runs] for name, runs in reached.items()}
        found = [_told(first, second, welch(values[first], values[second], LEVEL / number)) for first, second in pairs]
        judged.append(
            {"measure": measure, "comparisons": found, "winner": winner(found, arms), "corrected_for": number}
        )
    return judged


def comparisons(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Each selection with its control, and each two selections; controls are not compared with one another."""
    controls = [(arm.control_of, arm.name) for arm in arms if arm.control_of]
    selections = [arm.name for arm in arms if not arm.control_of]
    return [*controls, *itertools.combinations(selections, 2)]


def welch(first: Sequence[float], second: Sequence[float], level: float) -> Interval:
    """Mean of `first` less mean of `second`, with an interval that misses with chance `level`."""
    parts = [max(float(np.var(values, ddof=1)), LEAST) / len(values) for values in (first, second)]
    spread = sum(parts)
    freedom = spread**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
    reach = float(stdtrit(freedom, 1 - level / 2)) * math.sqrt(spread)
    value = float(np.mean(first) - np.mean(second))
    return Interval(value, value - reach, value + reach)


def winner(found: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> str | None:
    """The selection that is better in all its comparisons, of which it needs one."""
    for arm in arms:
        own = [each for each in found if arm.name in (each["first"], each["second"])]
        if not arm.control_of and own and all(each["better"] == arm.name for each in own):
            return arm.name
    return None


def _told(first: str, second: str, found: Interval) -> dict[str, Any]:
    better = first if found.low > 0 else second if found.high < 0 else None
    interval = [round(found.low, 6), round(found.high, 6)]
    return {
        "first": first,
        "second": second,
        "difference": round(found.value, 6),
        "interval": interval,
        "better": better,
    }
