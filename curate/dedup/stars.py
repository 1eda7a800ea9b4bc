"""Stars, range of ranks by range of ranks: the driver holds what the files of one say, and two bits a row.

Of each class it keeps which row was taken for it, and how near that is, in files of the machine's temporary space.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from curate.dedup.groups import Neighbours, Stars, State, closure, neighbours, take
from curate.dedup.likeness import Likeness
from curate.dedup.ranking import Ranking
from curate.dedup.spill import mapped

WORD = np.uint64(63)
Dropped = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # rows, keepers, places of signals, distances


class Counted:
    """Which rows stand for classes: a bit for each row, and for each 64 how many come before."""

    def __init__(self, ranking: Ranking, likenesses: Sequence[Likeness]):
        self.words = np.zeros(len(ranking) // 64 + 1, np.uint64)
        for number in ranking.ranges:
            for each in likenesses:
                rows, best = each.classes(number)
                own = rows[rows == best].astype(np.uint64)
                np.bitwise_or.at(self.words, own >> np.uint64(6), np.uint64(1) << (own & WORD))
        self.before = np.concatenate(([0], np.cumsum(np.bitwise_count(self.words), dtype=np.int64)))

    def __len__(self) -> int:
        return int(self.before[-1])

    def of(self, rows: np.ndarray) -> np.ndarray:
        """int64: how many such rows come before each of some rows."""
        rows = rows.astype(np.uint64)
        own = self.words[rows >> np.uint64(6)] & ((np.uint64(1) << (rows & WORD)) - np.uint64(1))
        return self.before[rows >> np.uint64(6)] + np.bitwise_count(own)


def stars_by_range(ranking: Ranking, likenesses: Sequence[Likeness]) -> Iterator[tuple[int, Dropped]]:
    """As `groups.stars`, of each range of ranks: its number, and what is dropped of it. Raises CurateError."""
    counted = Counted(ranking, likenesses)
    states = [State.of(mapped(len(counted), np.int64), mapped(len(counted), np.float64)) for _ in likenesses]
    for number in ranking.ranges:
        held = [each.classes(number) for each in likenesses]
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *(own for own, _ in held)]))
        best = [np.full(len(rows), -1, np.int64) for _ in held]
        for found, (own, cls) in zip(best, held, strict=True):
            found[np.searchsorted(rows, own)] = cls
        classes = [np.where(named < 0, -1, counted.of(np.maximum(named, 0))) for named in best]
        near = [_near(each, number, named, counted) for each, named in zip(likenesses, best, strict=True)]
        keeper, matched_by, distance = take(rows, classes, near, states)
        gone = np.flatnonzero(keeper >= 0)
        yield number, (rows[gone], keeper[gone], matched_by[gone], distance[gone])


def chained(ranking: Ranking, likenesses: Sequence[Likeness]) -> Iterator[tuple[int, Dropped]]:
    """The same by transitive closure, which holds all that is alike."""
    like = [each.classes(number)[0] for each in likenesses for number in ranking.ranges]
    rows = np.unique(np.concatenate([np.zeros(0, np.int64), *like]))
    found = [each.among(rows) for each in likenesses]
    gone = dropped(rows, closure(np.arange(len(rows)), found))
    for number in ranking.ranges:
        own = slice(*np.searchsorted(gone[0], ranking.starts[number : number + 2]).tolist())
        yield number, (gone[0][own], gone[1][own], gone[2][own], gone[3][own])


def dropped(rows: np.ndarray, star: Stars) -> Dropped:
    """What the stars of some rows drop."""
    gone = np.flatnonzero(star.keeper >= 0)
    return rows[gone], rows[star.keeper[gone]], star.matched_by[gone], star.distance[gone]


def _near(likeness: Likeness, number: int, best: np.ndarray, counted: Counted) -> Neighbours:
    """best: the classes of the rows of a range."""
    start, stop = likeness.ranking.starts[number : number + 2]
    first, last = counted.of(np.array([start, stop])).tolist()
    of, other, gap = likeness.near(number)
    here = neighbours(counted.of(of) - first, counted.of(other), gap, last - first)

    def found(place: int, cls: int) -> Iterable[tuple[int, float]]:
        if cls >= first:
            return here(cls - first)
        # another signal dropped the best row of its class, which lies in a range before
        row = int(best[place])
        of, other, gap = likeness.near(int(np.searchsorted(likeness.ranking.starts, row, "right")) - 1)
        own = slice(*np.searchsorted(of, [row, row + 1]).tolist())
        return zip(counted.of(other[own]).tolist(), gap[own].tolist())

    return found
