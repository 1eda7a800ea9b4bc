"""Pairs become stars around the best image: a row is dropped only where it matches its keeper itself.

Transitive closure (connected components) chains unlike pictures together and deletes many good ones; a star cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    """For each row: its keeper's row (-1 where it is kept), which Alike matched them (-1), and their distance."""

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
    taken: list[dict[int, tuple[int, float]]] = [{} for _ in likenesses]  # class -> (keeper, distance)
    class_of = [alike.classes for alike in likenesses]
    for row in ranked[_matching(likenesses, len(ranked))[ranked]].tolist():
        own = [int(classes[row]) for classes in class_of]
        match = next((at for at, cls in enumerate(own) if cls in taken[at]), None)
        if match is not None:
            matched_by[row] = match
            keeper[row], distance[row] = taken[match][own[match]]
            continue
        for at, cls in enumerate(own):
            if cls >= 0:
                taken[at][cls] = (row, 0.0)
                for other, gap in near[at].get(cls, ()):
                    taken[at].setdefault(other, (row, gap))
    return Stars(keeper, matched_by, distance)


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


def _neighbours(alike: Alike) -> dict[int, list[tuple[int, float]]]:
    near: dict[int, list[tuple[int, float]]] = {}
    for a, b, gap in zip(alike.a.tolist(), alike.b.tolist(), alike.distance.tolist(), strict=True):
        near.setdefault(a, []).append((b, gap))
        near.setdefault(b, []).append((a, gap))
    return near
