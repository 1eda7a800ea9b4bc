"""What each signal of a pool takes for alike: classes of equal codes, and the pairs of classes that are near.

The image that ranks best stands for its class, and classes are numbered by it: where a crowd of like codes is too large
to be compared in full, all of it is compared with its best images. Only rows that are like another come back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from curate.dedup import join_bits, join_vectors
from curate.dedup.ascending import find
from curate.dedup.codes import Comparison
from curate.dedup.equal import repeated
from curate.dedup.faiss_install import load_search
from curate.dedup.firsts import Firsts, firsts
from curate.dedup.groups import Alike
from curate.dedup.hamming import RECALL, Capped, Pairs
from curate.dedup.pool import Column, Pool
from curate.dedup.whiten import Whitening
from curate.files import Folder
from curate.work import Engine

COLOURS_APART = 0.06  # mean difference of chroma; JPEG at quality 10 moves it by 0.02, brightness x 1.5 by 0.05 at most
GREY = 32  # levels added to the brightness that chroma is relative to: dark pixels have none


@dataclass(frozen=True)
class Search:
    """How pairs are found. recall: of the pairs right at the threshold, where codes are too long for an exact search.
    whitenings: by signal. folder: in the dataset, for what tasks hand on; its name says what decides the pairs."""

    folder: str
    recall: float = RECALL
    whitenings: Mapping[str, Whitening] = field(default_factory=dict)
    engine: str | Engine = "local"


@dataclass(frozen=True)
class Crowd:
    """Codes so alike that each was compared with the first of them only. row: the best image among them."""

    signal: str
    row: int
    codes: int


@dataclass(frozen=True)
class Likeness:
    """What one column says. rows: int64, ascending, those that are like another row; alike.classes holds the class of
    each of them. best: the best row of each of alike's classes, ascending. first: that of every class of the column, in
    files; None where codes are equal or nothing."""

    rows: np.ndarray
    alike: Alike
    best: np.ndarray
    first: Firsts | None = None

    def among(self, rows: np.ndarray) -> Alike:
        """The same for a list of rows."""
        classes = np.full(len(rows), -1, np.int64)
        at, own = find(self.rows, rows)
        classes[own] = self.alike.classes[at[own]]
        return replace(self.alike, classes=classes)


def likeness(pool: Pool, column: Column, outside: np.ndarray, search: Search) -> tuple[Likeness, list[Crowd]]:
    """What one column of codes says of the rows that are not among the ascending `outside`."""
    comparison = column.comparison
    folder = pool.dataset.folder.within(f"{search.folder}/{comparison.signal}")
    rows, best = repeated(pool, column, _apart(pool, comparison), outside, folder, search.engine)
    if comparison.kind == "equal":
        used, classes = np.unique(best, return_inverse=True)
        none = np.zeros(0, np.int64)
        return Likeness(rows, Alike(comparison.signal, classes, none, none, np.zeros(0)), used), []
    out = np.union1d(outside, rows[rows != best])
    first = firsts(pool, column, out, folder, search.engine)
    capped: Capped = []
    if comparison.kind == "hamming":
        bits, threshold = 8 * column.bytes, int(comparison.threshold)
        i, j, distance = join_bits.code_pairs(folder, first, bits, threshold, search.recall, search.engine, capped)
    else:
        i, j, distance = _vector_pairs(pool, column, first, out, search, folder, capped)
    same = ~told_apart(pool, i, j)
    i, j, distance = i[same], j[same], distance[same].astype(np.float64)
    crowds = [Crowd(comparison.signal, row, size) for row, size in sorted(set(capped))]
    used = np.unique(np.concatenate([i, j, best]))
    single = np.setdiff1d(used, best)
    rows, best = np.concatenate([rows, single]), np.concatenate([best, single])
    by_row = np.argsort(rows)
    classes, i, j = (np.searchsorted(used, held) for held in (best[by_row], i, j))
    return Likeness(rows[by_row], Alike(comparison.signal, classes, i, j, distance), used, first), crowds


def _vector_pairs(pool: Pool, column: Column, first: Firsts, out: np.ndarray, search: Search, folder: Folder,
                  capped: Capped) -> Pairs:  # fmt: skip
    comparison = column.comparison
    whitening = search.whitenings.get(comparison.signal)
    if len(first) <= join_vectors.EXACT:
        _, rows = first.read()
        vectors = pool.vectors(comparison, rows, whitening)
        i, j, distance = load_search().cosine_pairs(vectors, comparison.threshold)
        return rows[i], rows[j], distance
    return join_vectors.vector_pairs(pool, folder, column, out, len(first), whitening, search.engine, capped)


def told_apart(pool: Pool, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool: pairs of rows of which one is animated and the other is not, or that have other colours (if asked for)."""
    found, take = np.zeros(len(a), bool), pool.ranking.take
    if pool.moving:
        found = take(a, "moving") != take(b, "moving")
    if pool.colours:
        for start in range(0, len(a), 4096):
            part = slice(start, start + 4096)
            gap = np.abs(_chroma(take(a[part], "colours")) - _chroma(take(b[part], "colours"))).mean(axis=(1, 2, 3))
            found[part] |= gap > COLOURS_APART
    return found


def _chroma(colours: np.ndarray) -> np.ndarray:
    """uint8 [n, 8, 8, 3] -> float64: how far each channel lies from the grey of its cell, relative to it."""
    grey = colours.mean(axis=3, keepdims=True)
    return (colours - grey) / (grey + GREY)


def _apart(pool: Pool, comparison: Comparison) -> Sequence[str]:
    """Columns in which rows must be equal to share a class."""
    return [*["moving"] * pool.moving, *["colours"] * (pool.colours and comparison.kind != "equal")]
