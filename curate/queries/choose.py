"""Fill a list of a given size from ranked sources: first each source's share, then what is left, in the same order."""

from collections.abc import Sequence

import xxhash

from curate.errors import CurateError


def ranked(counts: dict[str, int]) -> list[str]:
    """Keys by falling count; equal counts by a hash of the key, so that a cut is no stretch of the alphabet."""
    return sorted(counts, key=lambda key: (-counts[key], xxhash.xxh3_64_intdigest(key.encode("utf-8", "replace")), key))


def quotas(shares: Sequence[float | None], size: int) -> list[int]:
    """Entries that each source may take first. Sources without a share (None) split what the others leave.

    Raises CurateError where the shares are negative or add up to more than 1.
    """
    stated = [share for share in shares if share is not None]
    if any(share < 0 for share in stated) or sum(stated) > 1 + 1e-9:
        raise CurateError(f"the shares of the sources must be 0 to 1 and add up to at most 1, not {sum(stated):g}")
    rest = (1 - sum(stated)) / max(1, len(shares) - len(stated))
    return [int(size * (rest if share is None else share) + 1e-6) for share in shares]


def choose(orders: Sequence[Sequence[str]], first: Sequence[int], size: int) -> list[list[str]]:
    """The keys taken from each source, at most `size` together, each key once and in its source's order.

    Round one: source by source, up to `first` entries that no earlier source has taken. Round two, where places are
    left: source by source again, all that remains.
    """
    taken: set[str] = set()
    chosen: list[list[str]] = [[] for _ in orders]
    pending = [iter(order) for order in orders]
    for limits in (first, [size] * len(orders)):
        for source, limit in enumerate(limits):
            room = min(limit, size - len(taken))
            while room and (key := next(pending[source], None)) is not None:
                if key not in taken:
                    taken.add(key)
                    chosen[source].append(key)
                    room -= 1
    return chosen
