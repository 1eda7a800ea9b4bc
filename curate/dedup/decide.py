"""Which rows stay: what a benchmark holds goes first, then every row that matches a better one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.dedup.ascending import find
from curate.dedup.codes import Codes, Comparison
from curate.dedup.faiss_install import load_search
from curate.dedup.groups import CHAINED, Alike, Stars, closure, semantic, stars
from curate.dedup.likeness import Crowd, Likeness, Search, likeness
from curate.dedup.order import places, ranked
from curate.dedup.pool import Pool
from curate.dedup.spill import blocks
from curate.dedup.thorough import Views
from curate.memory import give_back_freed_memory

CROWDS = 100  # that the history names


@dataclass(frozen=True)
class Rule:
    """Which rows of a group go. closure: all that a chain of matches connects with the best, not only those that match
    it themselves. semdedup: by the vectors, those that any harder row resembles by 1 - semdedup or more; 0: none."""

    closure: bool = False
    semdedup: float = 0.0


@dataclass(frozen=True)
class Decision:
    """What is dropped of a pool of `of` rows. rows: int64, ascending. For each: reason, signal, its keeper's row
    (-1 where a benchmark holds it) and their distance (NaN where only a chain connects them)."""

    of: int
    rows: np.ndarray
    reason: np.ndarray
    signal: np.ndarray
    keeper: np.ndarray
    distance: np.ndarray
    crowds: list[Crowd]

    def outside(self) -> np.ndarray:
        """bool [of]: what is dropped."""
        found = np.zeros(self.of, bool)
        found[self.rows] = True
        return found

    def members(self) -> np.ndarray:
        """int64, ascending: the rows of all groups, dropped ones and keepers."""
        hanging = self.keeper >= 0
        return np.union1d(self.keeper[hanging], self.rows[hanging])

    def between(self, start: int, stop: int) -> slice:
        """Where the rows from start to stop stand."""
        return slice(*np.searchsorted(self.rows, [start, stop]).tolist())


def decide(
    pool: Pool, overlaps: Mapping[str, pa.Table], search: Search, rule: Rule = Rule(), views: Views | None = None
) -> Decision:
    """overlaps: benchmark -> matches (shard, uid, signal, distance); the first benchmark that holds a row names it.
    views: how what then stays is compared with itself, if at all."""
    found = _of_benchmarks(pool, overlaps)
    order = ranked(pool.rows)
    rank = places(order, len(order))
    first = [codes for codes in pool.codes if not rule.semdedup or codes.comparison.kind != "cosine"]
    alike = _likenesses(pool, first, rank, order, found, search)
    rows = np.unique(np.concatenate([found.rows[:0], *(each.rows for each in alike)]))
    found = _without_copies(found, rows, rank, [each.among(rows) for each in alike], rule)
    if views is not None:
        rows, seen = views.alike(pool, np.flatnonzero(~found.outside()))
        found = _without_copies(found, rows, rank, seen, rule)
    for codes in pool.codes:
        if rule.semdedup and codes.comparison.kind == "cosine":
            (near,) = _likenesses(pool, [codes], rank, order, found, search)
            hardness = _hardness(pool, near, codes.comparison, search)
            star = semantic(np.argsort(rank[near.rows]), near.alike, hardness)
            found = _drop(found, near.rows, star, [near.alike.signal], "semdedup")
    return found


def _of_benchmarks(pool: Pool, overlaps: Mapping[str, pa.Table]) -> Decision:
    held: dict[int, tuple[str, str, float]] = {}
    for benchmark, matches in overlaps.items():
        rows = pool.find(matches["shard"], matches["uid"])
        for row, name, gap in zip(rows.tolist(), matches["signal"].to_pylist(), matches["distance"].to_pylist()):
            if row >= 0:
                held.setdefault(row, (f"benchmark:{benchmark}", name, gap))
    rows = np.array(sorted(held), np.int64)
    reasons, signals, gaps = ([held[row][at] for row in rows.tolist()] for at in range(3))
    nobody = np.full(len(rows), -1, np.int64)
    return Decision(len(pool), rows, _objects(reasons), _objects(signals), nobody, np.array(gaps, np.float64), [])


def _likenesses(pool: Pool, columns: Sequence[Codes], rank: np.ndarray, order: np.ndarray, found: Decision,
                search: Search) -> list[Likeness]:  # fmt: skip
    alike, outside = [], found.outside()
    for codes in columns:
        near, crowded = likeness(pool, codes, rank, order, outside, search)
        alike.append(near)
        found.crowds.extend(crowded)
        give_back_freed_memory()
    return alike


def _without_copies(
    found: Decision, rows: np.ndarray, rank: np.ndarray, alike: Sequence[Alike], rule: Rule
) -> Decision:
    """The decision with what of some rows, ascending, goes for a better one. alike: by each signal, of these rows."""
    choose = closure if rule.closure else stars
    return _drop(found, rows, choose(np.argsort(rank[rows]), alike), [each.signal for each in alike])


def _drop(
    found: Decision, rows: np.ndarray, star: Stars, signals: Sequence[str], reason: str | None = None
) -> Decision:
    """The decision with what the stars of some rows drop."""
    dropped = star.keeper >= 0
    names = np.array([*signals, "closure"], object)
    by = names[np.where(star.matched_by[dropped] == CHAINED, len(signals), star.matched_by[dropped])]
    keeper = np.concatenate([found.keeper, rows[star.keeper[dropped]]])
    all_rows = np.concatenate([found.rows, rows[dropped]])
    order = np.argsort(all_rows)
    all_rows, keeper = all_rows[order], keeper[order]
    reasons = by if reason is None else np.full(len(by), reason, object)
    # a keeper that a later rule dropped is no keeper: what hung on it hangs on its own
    at, lost = find(all_rows, keeper)
    keeper = np.where(lost, keeper[at], keeper)
    return Decision(
        found.of, all_rows, np.concatenate([found.reason, reasons])[order], np.concatenate([found.signal, by])[order],
        keeper, np.concatenate([found.distance, star.distance[dropped]])[order], found.crowds,
    )  # fmt: skip


def _objects(values: Sequence[str | float]) -> np.ndarray:
    held = np.empty(len(values), object)
    held[:] = values
    return held


def _hardness(pool: Pool, near: Likeness, comparison: Comparison, search: Search) -> np.ndarray:
    """float64 [classes]: similarity of each class to the mean of its k-means cluster, among all."""
    vectors = pool.vectors(comparison, near.first, search.whitenings.get(comparison.signal))
    return load_search().hardness(vectors)[near.numbers]


def _undecodable(pool: Pool) -> int:
    """How many rows lack a hash of their picture; they stay, unless another file has the same bytes."""
    columns = [codes for codes in pool.codes if codes.comparison.kind != "cosine"]
    if not columns:
        return 0
    return sum(int((~np.logical_and.reduce([codes.comparable[part] for codes in columns])).sum())
               for part in blocks(len(pool)))  # fmt: skip


def counts(pool: Pool, decision: Decision, signals: Sequence[str]) -> dict[str, object]:
    """The numbers of the history: kept, of, undecodable, groups, duplicates by signal, the largest crowds by their best
    image."""
    inside = decision.signal[decision.keeper >= 0]
    crowds = sorted(set(decision.crowds), key=lambda crowd: (-crowd.codes, crowd.row, crowd.signal))
    named = [*signals, *sorted({*inside.tolist()} - {*signals})]
    return {
        "of": len(pool),
        "kept": len(pool) - len(decision.rows),
        "duplicates": {name: int((inside == name).sum()) for name in named},
        "undecodable": _undecodable(pool),
        "groups": len(np.unique(decision.keeper[decision.keeper >= 0])),
        "crowds": [
            {"signal": crowd.signal, "uid": pool.rows["uid"][crowd.row].as_py(), "codes": crowd.codes}
            for crowd in crowds[:CROWDS]
        ],
    }
