"""How often unlike images of this very pool lie near each other: which threshold costs how many good images.

Distances between a sample of the pool's images, all against all. Pairs that another signal also takes for duplicates
are left out, so that what is counted are false matches. Below the nearest pairs that were seen the rate is
extrapolated: the logarithm of the cumulative rate falls about linearly with the distance (on 13.9 million pairs of
photographs by 5.6, 7.9 and 10 times for each 10 bits of PDQ).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.dataset import Dataset
from curate.dedup.codes import comparisons
from curate.dedup.faiss_install import load_search
from curate.dedup.firsts import distinct
from curate.dedup.hamming import as_words
from curate.dedup.likeness import Likeness, Search, likeness
from curate.dedup.pool import Column, Pool, collect
from curate.dedup.whiten import Whitening
from curate.dedup.whitened import whiten_pool
from curate.errors import CurateError
from curate.measure import measure
from curate.work import Engine

WITNESSES = ("exact", "pdq", "phash")  # measured beside the signals asked for, to tell true duplicates
SEARCH = "work/dedup/calibrate"
REPORT = "reports/calibration.json"
SAMPLE = 20_000  # images; 200 million pairs
ROWS = 256  # of the matrix of distances that are held
STEP = 0.01  # of similarity between lines of the table
SEEN = 10  # pairs from which a rate counts as seen
FITTED = 1000.0  # rates up to this many times the least seen one tell how the tail falls
LINES = 12  # of the table that is shown
WORTH = 1000.0  # times the wished number of partners, more or less, that are worth a line


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


def calibrate(
    dataset: Dataset,
    signals: Sequence[str] = ("exact", "pdq"),
    wished: float = 0.01,
    whiten: bool | None = None,
    start: str | None = None,
    engine: str | Engine = "local",
) -> Dataset:
    """Write reports/calibration.json: for each perceptual signal the rates, and the threshold at which an image of this
    pool has `wished` false partners. No selection is made. Raises CurateError."""
    if not wished > 0:
        raise CurateError(
            f"--calibrate-rate {wished:g}: it is a number of false partners for each image, above 0; 0.01"
        )
    signals = list(dict.fromkeys([*signals, *WITNESSES]))
    compared = comparisons(signals, {})
    if any(comparison.kind == "cosine" for comparison in compared):
        load_search()
    parent = dataset.parent_for("dedup", start)
    dataset = measure(dataset, signals, engine)
    pool, whitenings = whiten_pool(collect(dataset, compared, parent, engine=engine), whiten, (), engine)
    found = rates(pool, whitenings, engine)
    for folder in (SEARCH, pool.source):
        dataset.folder.remove(folder)
    numbers = {each.signal: {**each.as_json(wished), "whitened": each.signal in whitenings} for each in found}
    dataset.folder.write_json(REPORT, numbers)
    summary = "\n".join(
        [f"calibrate: {len(pool):,} pairs, {wished:g} false partners wished for", *map(_shown(wished), found)]
    )
    options = {"signals": signals, "wished": wished, "parent": parent}
    return dataset.after("calibrate", options, summary, {"calibration": numbers}, pool.failures).save()


def rates(pool: Pool, whitenings: Mapping[str, Whitening], engine: str | Engine = "local") -> list[Rates]:
    """The rates of every perceptual signal of a pool."""
    search = Search(SEARCH, whitenings=whitenings, engine=engine)
    alike = [likeness(pool, codes, np.zeros(0, np.int64), search)[0] for codes in pool.codes]
    found = []
    for codes in pool.codes:
        if codes.comparison.kind != "equal":
            others = [each for each in alike if each.signal != codes.comparison.signal]
            folder = pool.dataset.folder.within(f"{SEARCH}/{codes.comparison.signal}")
            rows = distinct(pool, codes, SAMPLE, folder, engine)
            found.append(_rates(pool, codes, rows, others, whitenings.get(codes.comparison.signal)))
    return found


def _rates(pool: Pool, codes: Column, rows: np.ndarray, others: Sequence[Likeness],
           whitening: Whitening | None) -> Rates:  # fmt: skip
    known = _confirmed(rows, others)
    hamming = codes.comparison.kind == "hamming"
    values = pool.ranking.take(rows, codes.values) if hamming else pool.vectors(codes.comparison, rows, whitening)
    pairs = (_bits_apart if hamming else _angles_apart)(values)
    a, b = values[known[:, 0]], values[known[:, 1]]
    pairs -= np.bincount(np.bitwise_count(a ^ b).sum(axis=1), minlength=len(pairs)) if hamming else _steps(
        np.einsum("nd,nd->n", a, b), len(pairs))  # fmt: skip
    of = len(rows) * (len(rows) - 1) // 2 - len(known)
    seen, rate = _extrapolated(np.cumsum(pairs), of)
    used = rate < 0.5
    distance = np.arange(len(pairs)) * (1.0 if hamming else STEP)
    return Rates(codes.comparison.signal, codes.comparison.kind, len(rows), of, len(pool), distance[used],
                 np.cumsum(pairs)[used], rate[used], seen[used])  # fmt: skip


def _confirmed(rows: np.ndarray, others: Sequence[Likeness]) -> np.ndarray:
    """int64 [pairs, 2], places in `rows`, a < b: the pairs that another signal takes for duplicates."""
    found: set[tuple[int, int]] = set()
    for alike in (other.among(rows) for other in others):
        members: dict[int, list[int]] = {}
        for at, cls in enumerate(alike.classes.tolist()):
            if cls >= 0:
                members.setdefault(cls, []).append(at)
        for own in members.values():
            found |= {(a, b) for at, a in enumerate(own) for b in own[at + 1 :]}
        for i, j in zip(alike.a.tolist(), alike.b.tolist(), strict=True):
            found |= {(min(a, b), max(a, b)) for a in members.get(i, ()) for b in members.get(j, ())}
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _shown(wished: float) -> Any:
    """A function from the rates of a signal to the lines that are printed."""

    def lines(of: Rates) -> str:
        found = of.threshold(wished)
        bound = "at most" if of.kind == "hamming" else "at least"
        told = "no threshold is so strict" if found is None else f"{bound} {found[0]:g}" + (
            "" if found[1] else " (extrapolated: closer than any false pair that was seen)")  # fmt: skip
        text = [f"{of.signal}: {told}; from {of.of:,} pairs of {of.images:,} distinct images",
                f"  {'threshold':>9}  {'false pairs':>11}  {'rate':>9}  {'partners of an image':>20}"]  # fmt: skip
        worth = np.flatnonzero((of.partners > wished / WORTH) & (of.partners < wished * WORTH))
        for at in worth[:: max(1, -(-len(worth) // LINES))].tolist():
            threshold, partners = of.as_threshold(float(of.distance[at])), of.partners[at]
            mark = "" if of.seen[at] else "  extrapolated"
            text.append(f"  {threshold:>9g}  {of.pairs[at]:>11,}  {of.rate[at]:>9.1e}  {partners:>20.2g}{mark}")
        return "\n".join(text)

    return lines


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
