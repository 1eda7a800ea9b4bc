"""What each signal of a pool takes for alike: classes of equal codes, and the pairs of classes that are near.

The image that ranks best stands for its class, and classes are numbered by it: where a crowd of like codes is too large
to be compared in full, all of it is compared with its best images. Only rows that are like another come back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from curate.dedup import join_bits, join_vectors
from curate.dedup.ascending import find
from curate.dedup.codes import Codes, Comparison
from curate.dedup.equal import repeated
from curate.dedup.faiss_install import load_search
from curate.dedup.groups import Alike
from curate.dedup.hamming import RECALL, Capped, Pairs, hamming_pairs
from curate.dedup.pool import Pool
from curate.dedup.spill import Spill, blocks
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
    each of them. first: the best row of every class, best first, mapped; numbers: the place of alike's classes in it,
    ascending."""

    rows: np.ndarray
    alike: Alike
    first: np.ndarray
    numbers: np.ndarray

    def among(self, rows: np.ndarray) -> Alike:
        """The same for a list of rows, ascending."""
        classes = np.full(len(rows), -1, np.int64)
        at, own = find(self.rows, rows)
        classes[own] = self.alike.classes[at[own]]
        return replace(self.alike, classes=classes)


def likeness(
    pool: Pool, codes: Codes, rank: np.ndarray, order: np.ndarray, outside: np.ndarray, search: Search
) -> tuple[Likeness, list[Crowd]]:
    """What one column of codes says of the rows that are not `outside`. order: int64 [rows], best first; rank: int64
    [rows], 0 is the best."""
    comparison = codes.comparison
    folder = pool.dataset.folder.within(f"{search.folder}/{comparison.signal}")
    rows, ids = repeated(codes, _apart(pool, comparison), outside, folder, search.engine)
    if comparison.kind == "equal":
        best, ids = _best(rows, ids, rank)
        none = np.zeros(0, np.int64)
        alike = Alike(comparison.signal, ids, none, none, np.zeros(0))
        return Likeness(rows, alike, best, np.arange(len(best))), []
    first, numbers, ids = _firsts(codes, outside, order, rank, rows, ids)
    capped: Capped = []
    near = _code_pairs if comparison.kind == "hamming" else _vector_pairs
    i, j, distance = near(pool, codes, first, search, folder, capped)
    same = ~told_apart(pool, first[i], first[j])
    i, j, distance = i[same], j[same], distance[same].astype(np.float64)
    crowds = [Crowd(comparison.signal, int(first[at]), size) for at, size in sorted(set(capped))]
    single = np.setdiff1d(np.concatenate([i, j]), numbers)
    used = np.union1d(numbers, single)
    rows, classes = np.concatenate([rows, first[single]]), np.concatenate([numbers[ids], single])
    by_row = np.argsort(rows)
    classes, i, j = (np.searchsorted(used, held) for held in (classes[by_row], i, j))
    return Likeness(rows[by_row], Alike(comparison.signal, classes, i, j, distance), first, used), crowds


def _best(rows: np.ndarray, ids: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best row of each class, best first, and the classes of the rows numbered by it."""
    by_rank = np.argsort(rank[rows])
    old, at = np.unique(ids[by_rank], return_index=True)
    number = np.empty(len(old), np.int64)
    number[old[np.argsort(at)]] = np.arange(len(old))
    return rows[by_rank][np.sort(at)], number[ids]


def _firsts(codes: Codes, outside: np.ndarray, order: np.ndarray, rank: np.ndarray, rows: np.ndarray,
            ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The best row of every class, best first, mapped; where the best of `rows` stand in it; their classes by rank."""
    best, ids = _best(rows, ids, rank)
    masks = Spill()
    for part in blocks(len(codes)):
        masks.append(codes.usable(part) & ~outside[part])
    stands = masks.mapped()
    stands[rows] = False
    stands[best] = True
    spill, numbers, several = Spill(), [np.zeros(0, np.int64)], np.sort(best)
    for part in blocks(len(order)):
        own = order[part]
        own = own[stands[own]]
        numbers.append(np.flatnonzero(find(several, own)[1]) + spill.rows)
        spill.append(own)
    return (spill.mapped() if spill.rows else np.zeros(0, np.int64)), np.concatenate(numbers), ids


def _code_pairs(pool: Pool, codes: Codes, first: np.ndarray, search: Search, folder: Folder,
                capped: Capped) -> Pairs:  # fmt: skip
    threshold = int(codes.comparison.threshold)
    if len(first) <= min(join_bits.SMALL, join_bits.BUCKET):
        return hamming_pairs(codes.values[first], threshold, recall=search.recall, capped=capped)
    return join_bits.code_pairs(folder, codes.values, first, threshold, search.recall, search.engine, capped)


def _vector_pairs(pool: Pool, codes: Codes, first: np.ndarray, search: Search, folder: Folder,
                capped: Capped) -> Pairs:  # fmt: skip
    comparison = codes.comparison
    whitening = search.whitenings.get(comparison.signal)
    if len(first) <= join_vectors.EXACT:
        return load_search().cosine_pairs(pool.vectors(comparison, first, whitening), comparison.threshold)
    return join_vectors.vector_pairs(pool, folder, comparison, first, whitening, search.engine, capped)


def told_apart(pool: Pool, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool: pairs of rows of which one is animated and the other is not, or that have other colours (if asked for)."""
    found = pool.moving[a] != pool.moving[b]
    if pool.colours is not None:
        for start in range(0, len(a), 4096):
            part = slice(start, start + 4096)
            gap = np.abs(_chroma(pool.colours[a[part]]) - _chroma(pool.colours[b[part]])).mean(axis=(1, 2, 3))
            found[part] |= gap > COLOURS_APART
    return found


def _chroma(colours: np.ndarray) -> np.ndarray:
    """uint8 [n, 8, 8, 3] -> float64: how far each channel lies from the grey of its cell, relative to it."""
    grey = colours.mean(axis=3, keepdims=True)
    return (colours - grey) / (grey + GREY)


def _apart(pool: Pool, comparison: Comparison) -> Sequence[np.ndarray]:
    """Columns in which rows must be equal to share a class."""
    colours = [pool.colours] if pool.colours is not None and comparison.kind != "equal" else []
    return [*([pool.moving] if pool.moving.any() else []), *colours]
