"""What each signal of a pool takes for alike: classes of equal codes, and the pairs of classes that are near.

The image that ranks best stands for its class, and classes are numbered by it: where a crowd of like codes is too large
to be compared in full, all of it is compared with its best images. Only rows that are like another are told of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from curate.dedup import join_bits, join_vectors
from curate.dedup.ascending import find
from curate.dedup.by_number import in_files
from curate.dedup.codes import Comparison
from curate.dedup.equal import Equal, LeftOut, listed, repeated
from curate.dedup.faiss_install import load_search
from curate.dedup.firsts import Firsts, firsts
from curate.dedup.groups import Alike
from curate.dedup.hamming import RECALL, Capped, Pairs
from curate.dedup.pairs import SCHEMA as PAIRS
from curate.dedup.pairs import Near, few_pairs
from curate.dedup.pool import Column, Pool
from curate.dedup.ranking import Ranking
from curate.dedup.whiten import Whitening
from curate.files import Folder
from curate.work import Engine, Report, run_all

COLOURS_APART = 0.06  # mean difference of chroma; JPEG at quality 10 moves it by 0.02, brightness x 1.5 by 0.05 at most
NEAR = np.dtype([("row", np.int64), ("other", np.int64), ("distance", np.float64)])
NONE = np.zeros(0, np.int64)
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
    """What one column says, in files by range of ranks. A class is named by its best row. first: that of every class of
    the column; None where codes are equal or nothing."""

    signal: str
    folder: Folder
    ranking: Ranking
    first: Firsts | None = None

    def classes(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """int64: the rows of a range that are like another row, ascending, and the class of each."""
        rows, best = self.folder.read_rows(classes_of(number))
        return rows, best

    def near(self, number: int) -> Pairs:
        """Class, other class and distance of the pairs whose class is in a range, sorted."""
        held = self.folder.read_rows(near_of(number))
        return held["row"], held["other"], held["distance"]

    def whole(self) -> tuple[np.ndarray, Alike, np.ndarray]:
        """All rows that are like another, ascending, what is said of them, and the best row of each of its classes."""
        held = [self.classes(number) for number in self.ranking.ranges] or [(NONE, NONE)]
        rows, best = (np.concatenate(column) for column in zip(*held, strict=True))
        near = [self.near(number) for number in self.ranking.ranges] or [(NONE, NONE, np.zeros(0))]
        i, j, distance = (np.concatenate(column) for column in zip(*near, strict=True))
        once = i < j
        used, classes = np.unique(best, return_inverse=True)
        a, b = (np.searchsorted(used, side[once]) for side in (i, j))
        return rows, Alike(self.signal, classes, a, b, distance[once]), used

    def among(self, rows: np.ndarray) -> Alike:
        """What is said of a list of rows."""
        own, alike, _ = self.whole()
        classes = np.full(len(rows), -1, np.int64)
        at, known = find(own, rows)
        classes[known] = alike.classes[at[known]]
        return replace(alike, classes=classes)


@dataclass(frozen=True)
class Gather:
    """Write what `Likeness` reads of a range of ranks."""

    folder: Folder
    ranking: Ranking
    moving: bool
    colours: bool
    equal: Equal
    pairs: Near

    def __call__(self, number: int) -> Report:
        start, stop = self.ranking.starts[number : number + 2].tolist()
        rows, best = self.equal.rows(start, stop)
        i, j, distance = self.pairs.pairs(start, stop)
        same = ~told_apart(self.ranking, self.moving, self.colours, i, j)
        near = np.zeros(int(same.sum()), NEAR)
        near["row"], near["other"], near["distance"] = i[same], j[same], distance[same]
        single = np.setdiff1d(near["row"], rows)
        rows, best = np.concatenate([rows, single]), np.concatenate([best, single])
        order = np.argsort(rows)
        self.folder.write_array(near_of(number), near)
        self.folder.write_array(classes_of(number), np.stack([rows[order], best[order]]))
        return Report(near_of(number), len(rows))


def likeness(pool: Pool, column: Column, outside: np.ndarray, search: Search) -> tuple[Likeness, list[Crowd]]:
    """What one column of codes says of the rows that are not among the ascending `outside`. Raises CurateError."""
    comparison, ranking, capped = column.comparison, pool.ranking, list[tuple[int, int]]()
    folder = pool.dataset.folder.within(f"{search.folder}/{comparison.signal}")
    left = listed(folder, outside)
    equal = repeated(pool, column, _apart(pool, comparison), left, folder, search.engine)
    out, first, pairs = replace(left, equal=equal), None, Near(in_files(folder, PAIRS))
    if comparison.kind != "equal":
        first = firsts(pool, column, out, folder, search.engine)
    if first and comparison.kind == "hamming":
        bits, threshold = 8 * column.bytes, int(comparison.threshold)
        pairs = join_bits.code_pairs(folder, first, bits, threshold, search.recall, search.engine, capped)
    elif first:
        pairs = _vector_pairs(pool, column, first, out, search, folder, capped)
    own = folder.within(f"alike-{equal.name}")
    gather = Gather(own, ranking, pool.moving, pool.colours, equal, pairs)
    run_all(gather, ranking.ranges, search.engine, "gather pairs").whole("run it again")
    crowds = [Crowd(comparison.signal, row, size) for row, size in sorted(set(capped))]
    return Likeness(comparison.signal, own, ranking, first), crowds


def _vector_pairs(pool: Pool, column: Column, first: Firsts, out: LeftOut, search: Search, folder: Folder,
                  capped: Capped) -> Near:  # fmt: skip
    comparison = column.comparison
    whitening = search.whitenings.get(comparison.signal)
    if len(first) <= join_vectors.EXACT:
        _, rows = first.read()
        vectors = pool.vectors(comparison, rows, whitening)
        i, j, distance = load_search().cosine_pairs(vectors, comparison.threshold)
        return few_pairs(folder, first.name, (rows[i], rows[j], distance))
    return join_vectors.vector_pairs(pool, folder, column, out, first, whitening, search.engine, capped)


def told_apart(ranking: Ranking, moving: bool, colours: bool, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool: pairs of rows of which one is animated and the other is not, or that have other colours (if asked for)."""
    found, take = np.zeros(len(a), bool), ranking.take
    if moving:
        found = take(a, "moving") != take(b, "moving")
    if colours:
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


def classes_of(number: int) -> str:
    return f"classes/{number:05d}.npy"


def near_of(number: int) -> str:
    return f"near/{number:05d}.npy"
