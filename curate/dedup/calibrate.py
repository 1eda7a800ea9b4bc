"""How often unlike images of this very pool lie near each other: which threshold costs how many good images.

Distances between a sample of the pool's images, all against all. Pairs that another signal also takes for duplicates
are left out, so that what is counted are false matches. Below the nearest pairs that were seen the rate is
extrapolated: the logarithm of the cumulative rate falls about linearly with the distance (on 13.9 million pairs of
photographs by 5.6, 7.9 and 10 times for each 10 bits of PDQ).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from curate.dedup.codes import Codes, classes
from curate.dedup.hamming import as_words
from curate.dedup.pool import Pool

SAMPLE = 20_000  # images; 200 million pairs
ROWS = 256  # of the matrix of distances that are held
STEP = 0.01  # of similarity between lines of the table
SEEN = 10  # pairs from which a rate counts as seen
FITTED = 1000.0  # rates up to this many times the least seen one tell how the tail falls
SEED = 0


@dataclass(frozen=True)
class Rates:
    """Of one signal. distance: float64 [k], ascending; bits, or 1 - similarity. pairs: how many of the `of` sampled
    pairs lie at most so far apart. rate: the chance of that, extrapolated where `seen` is false. partners: expected
    false partners of an image in a pool of `pool` images."""

    signal: str
    kind: str
    images: int
    of: int
    pool: int
    distance: np.ndarray
    pairs: np.ndarray
    rate: np.ndarray
    seen: np.ndarray

    @property
    def partners(self) -> np.ndarray:
        return self.rate * max(self.pool - 1, 0)

    def threshold(self, wished: float) -> tuple[float, bool] | None:
        """(the loosest threshold with at most `wished` false partners for an image, whether its rate was seen): bits,
        or a similarity; None where not even the strictest has so few."""
        good = np.flatnonzero(self.partners <= wished)
        if not len(good):
            return None
        at = good[-1]
        return self.as_threshold(float(self.distance[at])), bool(self.seen[at])

    def as_threshold(self, distance: float) -> float:
        return distance if self.kind == "hamming" else round(1 - distance, 6)

    def as_json(self, wished: float) -> dict[str, Any]:
        found = self.threshold(wished)
        lines = zip(self.distance.tolist(), self.pairs.tolist(), self.rate.tolist(), self.partners.tolist(),
                    self.seen.tolist(), strict=True)  # fmt: skip
        return {
            "images": self.images,
            "pairs": self.of,
            "pool": self.pool,
            "wished": wished,
            "threshold": None if found is None else found[0],
            "extrapolated": found is not None and not found[1],
            "table": [
                {"threshold": self.as_threshold(distance), "pairs": pairs, "rate": rate, "partners": partners,
                 "extrapolated": not seen}
                for distance, pairs, rate, partners, seen in lines
            ],
        }  # fmt: skip


def rates(pool: Pool, sides: Sequence[Codes], confirmed: Sequence[np.ndarray]) -> list[Rates]:
    """The rates of every perceptual signal. confirmed: for each, [pairs, 2] rows that count as true duplicates."""
    return [_rates(pool, codes, known) for codes, known in zip(sides, confirmed, strict=True)]


def _rates(pool: Pool, codes: Codes, confirmed: np.ndarray) -> Rates:
    _, first = classes(codes)
    rows = _sampled(pool, first)
    hamming = codes.comparison.kind == "hamming"
    count = _bits_apart if hamming else _angles_apart
    pairs = count(codes.values[rows])
    of = len(rows) * (len(rows) - 1) // 2
    pairs -= _of_confirmed(codes, rows, confirmed, len(pairs))
    of -= int(len(confirmed) and np.isin(confirmed, rows).all(axis=1).sum())
    distance = np.arange(len(pairs)) * (1.0 if hamming else STEP)
    seen, rate = _extrapolated(np.cumsum(pairs), of)
    used = rate < 0.5
    return Rates(codes.comparison.signal, codes.comparison.kind, len(rows), of, len(pool), distance[used],
                 np.cumsum(pairs)[used], rate[used], seen[used])  # fmt: skip


def _sampled(pool: Pool, rows: np.ndarray) -> np.ndarray:
    """At most SAMPLE of the rows, by a hash of their uid, ascending."""
    if len(rows) <= SAMPLE:
        return np.sort(rows)
    uids = pool.rows["uid"].take(rows).to_pylist()
    order = sorted(range(len(rows)), key=lambda at: (xxhash.xxh3_64_intdigest(uids[at].encode(), SEED), uids[at]))
    return np.sort(rows[order[:SAMPLE]])


def _bits_apart(codes: np.ndarray) -> np.ndarray:
    """int64 [bits + 1]: pairs of uint8 [n, bytes] codes at each distance."""
    words, found = as_words(codes), np.zeros(codes.shape[1] * 8 + 1, np.int64)
    for start in range(0, len(words), ROWS):
        gaps = np.zeros((len(words[start : start + ROWS]), len(words) - start), np.int16)
        for word in range(words.shape[1]):
            gaps += np.bitwise_count(words[start : start + ROWS, word, None] ^ words[None, start:, word])
        upper = gaps[np.triu(np.ones(gaps.shape, bool), 1)]
        found += np.bincount(upper, minlength=len(found))
    return found


def _angles_apart(vectors: np.ndarray) -> np.ndarray:
    """int64 [2 / STEP + 1]: pairs of unit vectors [n, d] by 1 - similarity, rounded up to a step."""
    found = np.zeros(int(2 / STEP) + 1, np.int64)
    for start in range(0, len(vectors), ROWS):
        similarity = vectors[start : start + ROWS] @ vectors[start:].T
        found += _steps(similarity[np.triu(np.ones(similarity.shape, bool), 1)], len(found))
    return found


def _steps(similarity: np.ndarray, steps: int) -> np.ndarray:
    # 5 digits first, as the search rounds them: what it takes at a threshold is counted at that threshold
    gaps = np.ceil(np.round((1 - similarity) / STEP, 3)).astype(np.int64)
    return np.bincount(np.clip(gaps, 0, steps - 1), minlength=steps)


def _of_confirmed(codes: Codes, rows: np.ndarray, confirmed: np.ndarray, steps: int) -> np.ndarray:
    """The same of the confirmed pairs alone, both of whose rows are in the sample."""
    if not len(confirmed):
        return np.zeros(steps, np.int64)
    a, b = codes.values[confirmed[np.isin(confirmed, rows).all(axis=1)]].swapaxes(0, 1)
    if codes.comparison.kind == "hamming":
        return np.bincount(np.bitwise_count(a ^ b).sum(axis=1), minlength=steps)
    return _steps(np.einsum("nd,nd->n", a, b), steps)


def _extrapolated(cumulative: np.ndarray, of: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rates were seen, and all of them: below the least seen one, a line through the logarithms above it."""
    seen = cumulative >= SEEN
    rate = cumulative / max(of, 1)
    if not seen.any():
        return seen, np.full(len(rate), np.nan if not of else SEEN / of)
    first = int(np.argmax(seen))
    near = np.flatnonzero(seen & (rate <= rate[first] * FITTED))
    if len(near) < 2:
        return seen, np.where(seen, rate, rate[first])
    slope = max(np.polyfit(near, np.log(rate[near]), 1)[0], 0)
    below = rate[first] * np.exp(-slope * (first - np.arange(len(rate))))
    return seen, np.where(seen, rate, below)
