"""How far a share of n trials can be trusted: Wilson's interval, which stays inside [0, 1] and works for few trials."""

import math

Z95 = 1.959963984540054  # normal quantile of 97.5%


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927)."""
    share, square = successes / trials, Z95**2 / trials
    middle = (share + square / 2) / (1 + square)
    reach = Z95 / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def proportion(successes: float, trials: int) -> dict[str, float | list[float]]:
    """A share and its interval, as the JSON holds them."""
    low, high = wilson(successes, trials)
    return {"value": round(successes / trials, 6), "interval95": [round(low, 6), round(high, 6)]}
