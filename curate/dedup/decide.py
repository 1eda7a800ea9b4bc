"""Which rows stay: what a benchmark holds goes first, then every row that matches a better one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.dedup.ascending import find
from curate.dedup.faiss_install import load_search
from curate.dedup.groups import CHAINED, Alike, Stars, closure, semantic, stars
from curate.dedup.likeness import Crowd, Likeness, Search, likeness
from curate.dedup.pool import Column, Pool
from curate.dedup.ranking import uids_of
from curate.dedup.spill import Texts, blocks
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
    """What is dropped of a pool of `of` rows. rows: int64, ascending, ranks until `by_shard`. For each: reason, signal,
    its keeper's row (-1 where a benchmark holds it) and their distance (NaN where only a chain connects them)."""

    of: int
    rows: np.ndarray
    reason: np.ndarray
    signal: np.ndarray
    keeper: np.ndarray
    distance: np.ndarray
    crowds: list[Crowd]

    def members(self) -> np.ndarray:
        """int64, ascending: the rows of all groups, dropped ones and keepers."""
        hanging = self.keeper >= 0
        return np.union1d(self.keeper[hanging], self.rows[hanging])

    def between(self, start: int, stop: int) -> slice:
        """Where the rows from start to stop stand."""
        return slice(*np.searchsorted(self.rows, [start, stop]).tolist())

    def by_shard(self, pool: Pool) -> tuple["Decision", "Uids"]:
        """The same of places among the rows of all shards, not of ranks; and what they are called."""
        ranks = np.union1d(self.rows, self.keeper[self.keeper >= 0])
        places, texts = np.zeros(len(ranks), np.int64), Texts()
        for part in blocks(len(ranks)):
            keys = pool.ranking.take(ranks[part], "keys")
            places[part] = keys[:, -1]
            texts.append(uids_of(keys))
        rows = places[np.searchsorted(ranks, self.rows)]
        keeper = np.append(places, -1)[np.where(self.keeper < 0, -1, np.searchsorted(ranks, self.keeper))]
        order, by_place = np.argsort(rows), np.argsort(places)
        told = Decision(self.of, rows[order], self.reason[order], self.signal[order], keeper[order],
                        self.distance[order], self.crowds)  # fmt: skip
        return told, Uids(places[by_place], by_place, texts.mapped())


@dataclass(frozen=True)
class Uids:
    """Of some places among the rows of all shards. places: int64, ascending; at: where the uid of each stands."""

    places: np.ndarray
    at: np.ndarray
    texts: pa.LargeStringArray

    def of(self, places: np.ndarray, absent: np.ndarray | None = None) -> pa.StringArray:
        """Null where the boolean array `absent` is true."""
        at = self.at[find(self.places, places)[0]] if len(self.at) else places
        return self.texts.take(pa.array(at, pa.int64(), mask=absent)).cast(pa.string())


def decide(
    pool: Pool, overlaps: Mapping[str, pa.Table], search: Search, rule: Rule = Rule(), views: Views | None = None
) -> Decision:
    """overlaps: benchmark -> matches (shard, uid, signal, distance); the first benchmark that holds a row names it.
    views: how what then stays is compared with itself, if at all."""
    found = _of_benchmarks(pool, overlaps)
    first = [codes for codes in pool.codes if not rule.semdedup or codes.comparison.kind != "cosine"]
    alike = _likenesses(pool, first, found, search)
    rows = np.unique(np.concatenate([found.rows[:0], *(each.rows for each in alike)]))
    found = _without_copies(found, rows, [each.among(rows) for each in alike], rule)
    if views is not None:
        rows, seen = views.alike(pool, np.setdiff1d(np.arange(len(pool)), found.rows))
        found = _without_copies(found, rows, seen, rule)
    for codes in pool.codes:
        if rule.semdedup and codes.comparison.kind == "cosine":
            (near,) = _likenesses(pool, [codes], found, search)
            star = semantic(np.arange(len(near.rows)), near.alike, _hardness(pool, near, codes, search))
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


def _likenesses(pool: Pool, columns: Sequence[Column], found: Decision, search: Search) -> list[Likeness]:
    alike = []
    for column in columns:
        near, crowded = likeness(pool, column, found.rows, search)
        alike.append(near)
        found.crowds.extend(crowded)
        give_back_freed_memory()
    return alike


def _without_copies(found: Decision, rows: np.ndarray, alike: Sequence[Alike], rule: Rule) -> Decision:
    """The decision with what of some rows, ascending, goes for a better one. alike: by each signal, of these rows."""
    choose = closure if rule.closure else stars
    return _drop(found, rows, choose(np.arange(len(rows)), alike), [each.signal for each in alike])


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


def _hardness(pool: Pool, near: Likeness, column: Column, search: Search) -> np.ndarray:
    """float64 [classes]: similarity of each class to the mean of its k-means cluster, among all."""
    assert near.first is not None
    _, rows = near.first.read()
    vectors = pool.vectors(column.comparison, rows, search.whitenings.get(column.comparison.signal))
    return load_search().hardness(vectors)[np.searchsorted(rows, near.best)]


def counts(pool: Pool, decision: Decision, signals: Sequence[str]) -> dict[str, object]:
    """The numbers of the history: kept, of, undecodable, groups, duplicates by signal, the largest crowds by their best
    image."""
    inside = decision.signal[decision.keeper >= 0]
    crowds = list(set(decision.crowds))
    at = pool.places(np.array([crowd.row for crowd in crowds], np.int64)).tolist()
    told = sorted(zip(crowds, at), key=lambda each: (-each[0].codes, each[1], each[0].signal))
    crowds = [crowd for crowd, _ in told]
    names = pool.uids(np.array([crowd.row for crowd in crowds[:CROWDS]], np.int64)).to_pylist()
    named = [*signals, *sorted({*inside.tolist()} - {*signals})]
    return {
        "of": len(pool),
        "kept": len(pool) - len(decision.rows),
        "duplicates": {name: int((inside == name).sum()) for name in named},
        "undecodable": pool.undecodable,
        "groups": len(np.unique(decision.keeper[decision.keeper >= 0])),
        "crowds": [{"signal": crowd.signal, "uid": uid, "codes": crowd.codes} for crowd, uid in zip(crowds, names)],
    }
