"""How far a number can be trusted: intervals of a share, of a mean of shares, and of a mean of a few runs."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a CPU second to import

Z95 = 1.959963984540054  # normal quantile of 97.5%


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927), which stays inside [0, 1] and works for few trials."""
    share, square = successes / trials, Z95**2 / trials
    middle = (share + square / 2) / (1 + square)
    reach = Z95 / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def proportion(successes: float, trials: int) -> dict[str, float | list[float]]:
    """A share and its interval, as the JSON holds them."""
    return _told(successes / trials, *wilson(successes, trials))


def difference(first: tuple[float, int], second: tuple[float, int]) -> dict[str, float | list[float]]:
    """First share less second, each (successes, trials) of its own sample, with the 95% interval of Newcombe (1998),
    method 10: of the two Wilson intervals."""
    (low1, high1), (low2, high2) = wilson(*first), wilson(*second)
    share1, share2 = first[0] / first[1], second[0] / second[1]
    low = share1 - share2 - math.hypot(share1 - low1, high2 - share2)
    high = share1 - share2 + math.hypot(high1 - share1, share2 - low2)
    return _told(share1 - share2, low, high)


def mean_of_shares(successes: np.ndarray, trials: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the unweighted mean of shares of independent samples (mean recall over classes): normal, with
    the variance of each share as Jeffreys' posterior has it, so that shares of 0 and 1 are not taken for certain."""
    a, b = successes + 0.5, trials - successes + 0.5
    deviation = math.sqrt(float((a * b / ((a + b) ** 2 * (a + b + 1))).sum())) / len(trials)
    mean = float((successes / trials).mean())
    return max(0.0, mean - Z95 * deviation), min(1.0, mean + Z95 * deviation)


def mean_of_runs(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Mean, standard deviation and Student's 95% interval of the mean of a few runs; of one run its value alone."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"value": round(mean, 6)}
    deviation = float(np.std(values, ddof=1))
    reach = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return {**_told(mean, mean - reach, mean + reach), "deviation": round(deviation, 6)}


def _told(value: float, low: float, high: float) -> dict[str, float | list[float]]:
    return {"value": round(value, 6), "interval95": [round(low, 6), round(high, 6)]}
