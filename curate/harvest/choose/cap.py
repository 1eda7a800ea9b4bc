"""At most `cap` pairs a query: the ones with the smallest seeded hash, found from counts and narrow windows of hashes.

Every pair has one place in a random order, (rank, low), which its uid and the seed decide alone. A query draws its
first min(count, cap) pairs in that order and a pair is kept where any of its queries draws it (MetaCLIP's union, with
an exact bottom-k sample instead of coin flips). So the result does not depend on how the pool is cut, a repeated pair
counts once, and the pairs drawn under cap 10 are among those drawn under cap 20.

MetaCLIP's own balancing (Xu et al. 2023, algorithm 2) is `tossed`: each query draws each of its pairs with probability
min(1, cap / count), here by a seeded hash of the two in place of a random number.
"""

from dataclasses import dataclass

import numpy as np

LAST = np.uint64(2**64 - 1)
MARGIN = 20  # added to every window, so that small caps do not miss it


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a one-to-one scrambling of uint64."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def ranks(high: np.ndarray, low: np.ndarray, seed: int) -> np.ndarray:
    """The seeded hash, uint64, of uids given as their upper and lower 64 bits.

    (rank, low) is one-to-one with the uid, so ordering by the two never ties.
    """
    salt = mix(np.array([seed % 2**64], np.uint64))
    return mix(high + mix(low + salt))


@dataclass(frozen=True)
class Window:
    """For each of some queries, the range of ranks [first, last] in which its cap-th smallest is looked for."""

    slots: np.ndarray  # int32 [queries]: the place of a query in the arrays below, -1 for the others
    first: np.ndarray  # uint64
    last: np.ndarray  # uint64


def window(counts: np.ndarray, wanted: np.ndarray, cap: int | np.ndarray, spread: float) -> Window:
    """Ranks are uniform, so the cap-th smallest of `count` lies at cap / count, give or take sqrt(cap) / count.

    `counts` [queries], `wanted` the indices of the queries to look at, `cap` one or one for each of them, `spread` in
    standard deviations.
    """
    slots = np.full(len(counts), -1, np.int32)
    slots[wanted] = np.arange(len(wanted), dtype=np.int32)
    margin = _margin(cap, spread)
    low, high = (cap - margin) / counts[wanted], (cap + margin) / counts[wanted]
    return Window(slots, _rank_at(low), _rank_at(high))


def expected(cap: int | np.ndarray, spread: float) -> np.ndarray:
    """How many pairs of a query lie in its window, about."""
    return 2 * _margin(cap, spread)


def look(seen: Window, rank: np.ndarray, low: np.ndarray, offsets: np.ndarray, ids: np.ndarray):
    """What one batch of pairs shows in a window: (below, slot, rank, low).

    Pair i has the queries ids[offsets[i]:offsets[i + 1]]. `below` int64 counts, for each slot, the pairs that rank
    before the window; the other three list the pairs inside it.
    """
    row = np.repeat(np.arange(len(rank)), np.diff(offsets))
    slot = seen.slots[ids]
    row, slot = row[slot >= 0], slot[slot >= 0]
    value = rank[row]
    below = np.bincount(slot[value < seen.first[slot]], minlength=len(seen.first)).astype(np.int64)
    inside = (value >= seen.first[slot]) & (value <= seen.last[slot])
    return below, slot[inside], value[inside], low[row[inside]]


def cut(below: np.ndarray, slot: np.ndarray, rank: np.ndarray, low: np.ndarray, cap: int | np.ndarray):
    """The cap-th smallest (rank, low) of each slot, from all that `look` found: (found, rank, low).

    `found` is False where the window missed it; the other two then hold nothing of use.
    """
    order = np.lexsort((low, rank, slot))
    slots = np.arange(len(below))
    start = np.searchsorted(slot[order], slots)
    inside = np.searchsorted(slot[order], slots, side="right") - start
    need = cap - below
    found = (need >= 1) & (need <= inside)
    at = order[np.where(found, start + need - 1, 0)] if len(order) else np.zeros(len(below), np.int64)
    if not len(order):
        return found, np.zeros(len(below), np.uint64), np.zeros(len(below), np.uint64)
    return found, rank[at], low[at]


def drawn(rank: np.ndarray, low: np.ndarray, offsets: np.ndarray, ids: np.ndarray, last_rank: np.ndarray,
          last_low: np.ndarray) -> np.ndarray:  # fmt: skip
    """For each entry of `ids`, whether that query draws that pair: its (rank, low) is at most the query's last one."""
    row = np.repeat(np.arange(len(rank)), np.diff(offsets))
    value, limit = rank[row], last_rank[ids]
    return (value < limit) | ((value == limit) & (low[row] <= last_low[ids]))


def tossed(rank: np.ndarray, offsets: np.ndarray, ids: np.ndarray, limit: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """For each entry of `ids`, whether that query draws that pair, by a hash of the two, for every query its own.

    `limit` is `chances` of the queries, `salt` uint64 one random number for each.
    """
    row = np.repeat(np.arange(len(rank)), np.diff(offsets))
    return mix(rank[row] ^ salt[ids]) <= limit[ids]


def chances(counts: np.ndarray, cap: int) -> np.ndarray:
    """The probability min(1, cap / count) of each query as the largest hash, uint64, that draws."""
    return _rank_at(cap / np.maximum(counts, 1))


def cap_of_tail(counts: np.ndarray, share: float) -> int:
    """The smallest cap for which the queries that match at most `cap` pairs hold at least `share` of all matches.

    `counts` int64 [queries] are the pairs of each query; their sum is the number of matches. MetaCLIP: 20,000 for its
    400M, 170,000 for its 2.5B pairs, "where the 6% tail falls".
    """
    ascending = np.sort(counts[counts > 0])
    held = np.cumsum(ascending)
    last = int(np.searchsorted(held, share * held[-1]))
    return int(ascending[min(last, len(held) - 1)])


def _margin(cap: int | np.ndarray, spread: float) -> np.ndarray:
    return spread * np.sqrt(cap) + MARGIN


def _rank_at(share: np.ndarray) -> np.ndarray:
    # float64 has 53 bits: the largest value under 2**64 that it holds is 2**64 - 2048
    scaled = np.clip(share, 0.0, 1.0) * 2.0**64
    return np.where(share >= 1.0, LAST, np.minimum(scaled, 2.0**64 - 2048).astype(np.uint64))
