"""Pairs become stars around the best image: a row is dropped only where it matches its keeper itself.

Transitive closure (connected components) chains unlike pictures together and deletes many good ones; a star cannot.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curate.dedup.ascending import find

CHAINED = -2  # matched_by of a row that only a chain of others connects with its keeper
Neighbours = Callable[[int, int], Iterable[tuple[int, float]]]
STRETCH = 65_536  # rows that are turned into Python's numbers at a time


@dataclass(frozen=True)
class Alike:
    """What one signal says. classes: int64 [rows], rows of one class have equal codes, -1 matches nothing.
    a, b, distance: pairs of classes that are near each other."""

    signal: str
    classes: np.ndarray
    a: np.ndarray
    b: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class Stars:
    """For each row: its keeper's row (-1: it is kept), which Alike matched them (-1, or CHAINED), their distance."""

    keeper: np.ndarray
    matched_by: np.ndarray
    distance: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        return self.keeper < 0


def stars(ranked: np.ndarray, likenesses: Sequence[Alike]) -> Stars:
    """Take the rows best first: one that matches a row taken before is dropped for it, any other is taken.

    ranked: the rows, best first. Where several signals match a row, the first signal names it; within a signal the best
    ranked of the keepers. Only rows that match another are visited, and equal codes cost no pairs.
    """
    star = Stars(*(np.full(len(ranked), nothing) for nothing in (-1, -1, np.nan)))
    near = [_neighbours(alike) for alike in likenesses]
    states = [State.of(np.zeros(classes, np.int64), np.zeros(classes)) for classes, _ in near]
    visited = ranked[_matching(likenesses, len(ranked))[ranked]]
    own = take(visited, [alike.classes[visited] for alike in likenesses], [of for _, of in near], states)
    for whole, part in zip((star.keeper, star.matched_by, star.distance), own, strict=True):
        whole[visited] = part
    return star


class State(NamedTuple):
    """Of each class the row that was taken for it, counted from 1, 0 for none, and how near that is. Views give plain
    numbers, and hold 8 bytes each."""

    taken: "memoryview[int]"
    gap: "memoryview[float]"

    @staticmethod
    def of(taken: np.ndarray, gap: np.ndarray) -> "State":
        return State(_view(taken), _view(gap))


def take(rows: np.ndarray, classes: Sequence[np.ndarray], near: Sequence[Neighbours],
         states: Sequence[State]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Keeper, matched_by and distance of some rows, best first, after those that made the states, which change.

    classes: for each signal of each row, -1 matches nothing; near: for each signal the neighbours of the class of the
    row at some place of `rows`."""
    keeper, matched_by = np.full(len(rows), -1, np.int64), np.full(len(rows), -1, np.int64)
    distance = np.full(len(rows), np.nan)
    for start in range(0, len(rows), STRETCH):
        part = slice(start, start + STRETCH)
        each = zip(rows[part].tolist(), *(own[part].tolist() for own in classes), strict=True)
        for place, (row, *own) in enumerate(each, start):
            match = next((at for at, cls in enumerate(own) if cls >= 0 and states[at].taken[cls]), None)
            if match is not None:
                taken, gap_to = states[match]
                matched_by[place] = match
                keeper[place], distance[place] = taken[own[match]] - 1, gap_to[own[match]]
                continue
            for at, cls in enumerate(own):
                if cls >= 0:
                    taken, gap_to = states[at]
                    taken[cls] = row + 1
                    for other, gap in near[at](place, cls):
                        if not taken[other]:
                            taken[other], gap_to[other] = row + 1, gap
    return keeper, matched_by, distance


def closure(ranked: np.ndarray, likenesses: Sequence[Alike]) -> Stars:
    """Transitive closure: of all rows that a chain of matches connects the best stays.

    matched_by is CHAINED, and the distance NaN, where a row does not match its keeper itself.
    """
    rows, rank = len(ranked), np.empty(len(ranked), np.int64)
    rank[ranked] = np.arange(rows)
    nodes, edges = rows, [np.zeros((2, 0), np.int64)]
    for alike in likenesses:
        own = np.flatnonzero(alike.classes >= 0)
        edges += [np.stack([own, alike.classes[own] + nodes]), np.stack([alike.a, alike.b]) + nodes]
        nodes += int(alike.classes.max(initial=-1)) + 1
    i, j = np.concatenate(edges, axis=1)
    _, group = connected_components(coo_array((np.ones(len(i), np.int8), (i, j)), shape=(nodes, nodes)), directed=False)
    best = np.full(group.max(initial=0) + 1, rows)
    np.minimum.at(best, group[:rows], rank)
    keeper = ranked[best[group[:rows]]] if rows else ranked
    keeper = np.where(keeper == np.arange(rows), -1, keeper)
    dropped = np.flatnonzero(keeper >= 0)
    matched_by, distance = np.full(rows, -1, np.int64), np.full(rows, np.nan)
    matched_by[dropped] = CHAINED
    for at, alike in reversed(list(enumerate(likenesses))):
        gap = _between(alike, alike.classes[dropped], alike.classes[keeper[dropped]])
        known = ~np.isnan(gap)
        matched_by[dropped[known]], distance[dropped[known]] = at, gap[known]
    return Stars(keeper, matched_by, distance)


def semantic(ranked: np.ndarray, alike: Alike, hardness: np.ndarray) -> Stars:
    """SemDeDup (Abbas et al. 2023, arXiv:2303.09540): a row goes where it matches any row that comes before it, whether
    that one stays or not; rows far from the middle of their cluster come first.

    hardness: float64 [classes], similarity to that middle. The keeper of a row is the one that the row it matched best
    hangs on, and the distance is that between this row and the one it matched.
    """
    rank = np.empty(len(ranked), np.int64)
    rank[ranked] = np.arange(len(ranked))
    valid = np.flatnonzero(alike.classes >= 0)
    best = np.full(len(hardness), len(ranked), np.int64)  # of the rows of each class
    np.minimum.at(best, alike.classes[valid], rank[valid])
    order = np.empty(len(hardness), np.int64)
    order[np.lexsort((best, hardness))] = np.arange(len(hardness))
    early = np.where(order[alike.a] < order[alike.b], alike.a, alike.b)
    late = alike.a + alike.b - early
    hangs_on, distance = np.arange(len(hardness)), np.zeros(len(hardness))
    chosen = np.lexsort((order[early], alike.distance, late))
    chosen = chosen[np.concatenate(([True], late[chosen][1:] != late[chosen][:-1]))[: len(chosen)]]
    for cls, on, gap in sorted(zip(late[chosen].tolist(), early[chosen].tolist(), alike.distance[chosen].tolist()),
                               key=lambda match: order[match[0]]):  # fmt: skip
        hangs_on[cls], distance[cls] = hangs_on[on], gap
    keeper = np.full(len(ranked), -1, np.int64)
    keeper[valid] = ranked[best[hangs_on[alike.classes[valid]]]]
    keeper = np.where(keeper == np.arange(len(ranked)), -1, keeper)
    dropped = keeper >= 0
    gaps = np.full(len(ranked), np.nan)
    gaps[dropped] = distance[alike.classes[dropped]]
    return Stars(keeper, np.where(dropped, 0, -1), gaps)


def _between(alike: Alike, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The distance between classes a and b, NaN where they do not match."""
    found = np.where((a == b) & (a >= 0), 0.0, np.nan)
    if not len(alike.a):
        return found
    size = int(max(alike.a.max(), alike.b.max(), alike.classes.max())) + 1
    keys = np.minimum(alike.a, alike.b) * size + np.maximum(alike.a, alike.b)
    order = np.argsort(keys)
    wanted = np.minimum(a, b) * size + np.maximum(a, b)
    at, near = find(keys[order], wanted)
    near &= (np.minimum(a, b) >= 0) & np.isnan(found)
    return np.where(near, alike.distance[order][at], found)


def _matching(likenesses: Sequence[Alike], rows: int) -> np.ndarray:
    """Rows that share a class with another row, or whose class is near another."""
    found = np.zeros(rows, bool)
    for alike in likenesses:
        valid = alike.classes >= 0
        sizes = np.bincount(alike.classes[valid])
        busy = sizes > 1
        busy[alike.a] = busy[alike.b] = True
        found[valid] |= busy[alike.classes[valid]]
    return found


def _neighbours(alike: Alike) -> tuple[int, Neighbours]:
    """How many classes there are, and what is near each."""
    classes = int(max(held.max(initial=-1) for held in (alike.classes, alike.a, alike.b))) + 1
    of, others = np.concatenate([alike.a, alike.b]), np.concatenate([alike.b, alike.a])
    order = np.argsort(of, kind="stable")
    find = neighbours(of[order], others[order], np.tile(np.asarray(alike.distance, np.float64), 2)[order], classes)
    return classes, lambda place, cls: find(cls)


def neighbours(of: np.ndarray, others: np.ndarray, gaps: np.ndarray,
               classes: int) -> Callable[[int], Iterable[tuple[int, float]]]:  # fmt: skip
    """(class, distance) of the neighbours of each of so many classes. of: ascending."""
    starts = _view(np.searchsorted(of, np.arange(classes + 1)).astype(np.int64))
    others_, gaps_ = _view(others.astype(np.int64)), _view(np.asarray(gaps, np.float64))
    return lambda cls: zip(others_[starts[cls] : starts[cls + 1]], gaps_[starts[cls] : starts[cls + 1]])


def _view(held: np.ndarray) -> "memoryview[Any]":
    return np.ascontiguousarray(held).data
