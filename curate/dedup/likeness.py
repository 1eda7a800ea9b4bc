"""What each signal of a pool takes for alike: classes of equal codes, and the pairs of classes that are near.

The image that ranks best stands for its class, and classes are numbered by it: where a crowd of like codes is too large
to be compared in full, all of it is compared with its best images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from curate.dedup import join_bits, join_vectors
from curate.dedup.codes import Codes, Comparison, classes
from curate.dedup.faiss_install import load_search
from curate.dedup.groups import Alike
from curate.dedup.hamming import RECALL, Capped, Pairs, hamming_pairs
from curate.dedup.pool import Pool
from curate.dedup.whiten import Whitening
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


def likeness(
    pool: Pool, codes: Codes, rank: np.ndarray, outside: np.ndarray, search: Search
) -> tuple[Alike, list[Crowd]]:
    """What one column of codes says of the rows that are not `outside`. rank: int64 [rows], 0 is the best."""
    comparison = codes.comparison
    apart = _apart(pool, comparison)
    ids, first = _by_rank(*classes(codes.without(outside), apart), rank)
    capped: Capped = []
    if comparison.kind == "equal":
        pairs = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    elif comparison.kind == "hamming":
        pairs = _code_pairs(pool, codes, first, search, capped)
    else:
        pairs = _vector_pairs(pool, comparison, first, search, capped)
    i, j, distance = pairs
    same = ~told_apart(pool, first[i], first[j])
    crowds = [Crowd(comparison.signal, int(first[at]), size) for at, size in sorted(set(capped))]
    return Alike(comparison.signal, ids, i[same], j[same], distance[same].astype(np.float64)), crowds


def _code_pairs(pool: Pool, codes: Codes, first: np.ndarray, search: Search, capped: Capped) -> Pairs:
    own, threshold = codes.values[first], int(codes.comparison.threshold)
    if len(own) <= join_bits.BUCKET:
        return hamming_pairs(own, threshold, recall=search.recall, capped=capped)
    folder = pool.dataset.folder.within(f"{search.folder}/{codes.comparison.signal}")
    return join_bits.code_pairs(folder, own, threshold, search.recall, search.engine, capped)


def _vector_pairs(pool: Pool, comparison: Comparison, first: np.ndarray, search: Search, capped: Capped) -> Pairs:
    whitening = search.whitenings.get(comparison.signal)
    if len(first) <= join_vectors.EXACT:
        return load_search().cosine_pairs(pool.vectors(comparison, first, whitening), comparison.threshold)
    folder = pool.dataset.folder.within(f"{search.folder}/{comparison.signal}")
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


def _apart(pool: Pool, comparison: Comparison) -> np.ndarray | None:
    """uint8 [rows, k], in which rows must be equal to share a class; None where nothing but the code counts."""
    parts = [pool.moving[:, None].astype(np.uint8)] if pool.moving.any() else []
    if pool.colours is not None and comparison.kind != "equal":
        parts.append(pool.colours.reshape(len(pool.colours), -1))
    return np.hstack(parts) if parts else None


def _by_rank(ids: np.ndarray, first: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes numbered by the rank of their best row, and that row of each."""
    rows = np.flatnonzero(ids >= 0)
    rows = rows[np.argsort(rank[rows])]
    old, at = np.unique(ids[rows], return_index=True)
    order = np.argsort(at)
    number = np.empty(len(first), np.int64)
    number[old[order]] = np.arange(len(old))
    renamed = np.where(ids >= 0, number[np.maximum(ids, 0)] if len(number) else -1, -1)
    return renamed, rows[at[order]]
