"""Pairs become stars around the best image: a row is dropped only where it matches its keeper itself.

Transitive closure (connected components) chains unlike pictures together and deletes many good ones; a star cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curate.dedup.ascending import find

CHAINED = -2  # matched_by of a row that only a chain of others connects with its keeper
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
    keeper = np.full(len(ranked), -1, np.int64)
    matched_by = np.full(len(ranked), -1, np.int64)
    distance = np.full(len(ranked), np.nan)
    near = [_neighbours(alike) for alike in likenesses]
    # of each class: the row that was taken for it, and how near; views give plain numbers, and hold 8 bytes each
    taken = [_view(np.full(len(starts), -1, np.int64)) for starts, _, _ in near]
    gap_to = [_view(np.zeros(len(starts))) for starts, _, _ in near]
    class_of = [_view(alike.classes) for alike in likenesses]
    visited = ranked[_matching(likenesses, len(ranked))[ranked]]
    for row in (row for start in range(0, len(visited), STRETCH) for row in visited[start : start + STRETCH].tolist()):
        own = [classes[row] for classes in class_of]
        match = next((at for at, cls in enumerate(own) if cls >= 0 and taken[at][cls] >= 0), None)
        if match is not None:
            matched_by[row] = match
            keeper[row], distance[row] = taken[match][own[match]], gap_to[match][own[match]]
            continue
        for at, cls in enumerate(own):
            if cls >= 0:
                taken[at][cls] = row
                starts, others, gaps = near[at]
                for place in range(starts[cls], starts[cls + 1]):
                    if taken[at][others[place]] < 0:
                        taken[at][others[place]], gap_to[at][others[place]] = row, gaps[place]
    return Stars(keeper, matched_by, distance)


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


def _neighbours(alike: Alike) -> tuple[memoryview, memoryview, memoryview]:
    """(start, class, distance): the neighbours of class c stand from start[c] to start[c + 1]."""
    classes = int(max(held.max(initial=-1) for held in (alike.classes, alike.a, alike.b))) + 1
    of, others = np.concatenate([alike.a, alike.b]), np.concatenate([alike.b, alike.a])
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(classes + 1)).astype(np.int64)
    gaps = np.tile(np.asarray(alike.distance, np.float64), 2)[order]
    return _view(starts), _view(others[order].astype(np.int64)), _view(gaps)


def _view(held: np.ndarray) -> memoryview:
    return np.ascontiguousarray(held).data
