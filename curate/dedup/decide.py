"""Which rows stay: what a benchmark holds goes first, then every row that matches a better one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.dedup.decided import DROPPED, Decided
from curate.dedup.faiss_install import load_search
from curate.dedup.groups import CHAINED, closure, semantic, stars
from curate.dedup.likeness import Crowd, Likeness, Search, likeness
from curate.dedup.pool import Column, Pool
from curate.dedup.stars import Dropped, chained, dropped, stars_by_range
from curate.dedup.thorough import CONFIRMED, Views
from curate.memory import give_back_freed_memory
from curate.work import Outcome

CROWDS = 100  # that the history names


@dataclass(frozen=True)
class Rule:
    """Which rows of a group go. closure: all that a chain of matches connects with the best, not only those that match
    it themselves. semdedup: by the vectors, those that any harder row resembles by 1 - semdedup or more; 0: none."""

    closure: bool = False
    semdedup: float = 0.0


def decide(pool: Pool, overlaps: Mapping[str, pa.Table], search: Search, rule: Rule = Rule(),
           views: Views | None = None) -> tuple[Decided, list[Crowd]]:  # fmt: skip
    """What is dropped, in files, and the crowds. overlaps: benchmark -> matches (shard, uid, signal, distance); the
    first benchmark that holds a row names it. views: how what then stays is compared with itself, if at all. Raises
    CurateError."""
    matches = [name for table in overlaps.values() for name in table["signal"].unique().to_pylist()]
    compared = [codes.comparison.signal for codes in pool.codes]
    seen = [*(each.signal for each in views.compared), CONFIRMED] if views else []
    benchmarks = [f"benchmark:{name}" for name in overlaps]
    said = tuple(dict.fromkeys([*benchmarks, *matches, *compared, *seen, "closure", "semdedup"]))
    decided = Decided(pool.dataset.folder.within(f"{search.folder}/decided"), said)
    held = _of_benchmarks(pool, overlaps, said)
    crowds: list[Crowd] = []
    first = [codes for codes in pool.codes if not rule.semdedup or codes.comparison.kind != "cosine"]
    likenesses = [_likeness(pool, column, held["row"], search, crowds) for column in first]
    signals = [each.signal for each in likenesses]
    choose = chained if rule.closure else stars_by_range
    for number, gone in choose(pool.ranking, likenesses):
        own = slice(*np.searchsorted(held["row"], pool.ranking.starts[number : number + 2]).tolist())
        both = np.concatenate([held[own], _as_dropped(gone, signals, said)])
        decided.write(number, both[np.argsort(both["row"])])
    if views is not None:
        rows, alike = views.alike(pool, np.setdiff1d(np.arange(len(pool)), decided.rows(len(pool.ranking.ranges))))
        star = (closure if rule.closure else stars)(np.arange(len(rows)), alike)
        decided.drop(pool.ranking, _as_dropped(dropped(rows, star), [each.signal for each in alike], said))
    for column in pool.codes:
        if rule.semdedup and column.comparison.kind == "cosine":
            near = _likeness(pool, column, decided.rows(len(pool.ranking.ranges)), search, crowds)
            rows, alone, best = near.whole()
            star = semantic(np.arange(len(rows)), alone, _hardness(pool, near, best, column, search))
            decided.drop(pool.ranking, _as_dropped(dropped(rows, star), [alone.signal], said, "semdedup"))
    return decided, crowds


def _of_benchmarks(pool: Pool, overlaps: Mapping[str, pa.Table], said: Sequence[str]) -> np.ndarray:
    """DROPPED, ascending."""
    held: dict[int, tuple[int, int, int, int, float]] = {}
    for benchmark, matches in overlaps.items():
        rows = pool.find(matches["shard"], matches["uid"])
        for row, name, gap in zip(rows.tolist(), matches["signal"].to_pylist(), matches["distance"].to_pylist()):
            if row >= 0:
                held.setdefault(row, (row, -1, said.index(f"benchmark:{benchmark}"), said.index(name), gap))
    return np.array([held[row] for row in sorted(held)], DROPPED)


def _likeness(pool: Pool, column: Column, outside: np.ndarray, search: Search, crowds: list[Crowd]) -> Likeness:
    near, crowded = likeness(pool, column, outside, search)
    crowds.extend(crowded)
    give_back_freed_memory()
    return near


def _as_dropped(star: Dropped, signals: Sequence[str], said: Sequence[str], reason: str | None = None) -> np.ndarray:
    """DROPPED. reason: the signal, where none is given."""
    rows, keeper, by, distance = star
    names = np.array([said.index(name) for name in (*signals, "closure")])
    found = np.zeros(len(rows), DROPPED)
    found["row"], found["keeper"], found["distance"] = rows, keeper, distance
    found["signal"] = names[np.where(by == CHAINED, len(signals), by)]
    found["reason"] = found["signal"] if reason is None else said.index(reason)
    return found


def _hardness(pool: Pool, near: Likeness, best: np.ndarray, column: Column, search: Search) -> np.ndarray:
    """float64 [classes]: similarity of each class to the mean of its k-means cluster, among all."""
    assert near.first is not None
    _, rows = near.first.read()
    vectors = pool.vectors(column.comparison, rows, search.whitenings.get(column.comparison.signal))
    return load_search().hardness(vectors)[np.searchsorted(rows, best)]


def counts(pool: Pool, said: Sequence[str], crowds: Sequence[Crowd], named: Outcome,
           signals: Sequence[str]) -> dict[str, object]:  # fmt: skip
    """The numbers of the history: kept, of, undecodable, groups, duplicates by signal, the largest crowds by their best
    image. said: as of Decided; named: what `name_rows` reports."""
    inside = {name: int(named.total(f"signal {at}")) for at, name in enumerate(said)}
    crowds = list(set(crowds))
    at = pool.places(np.array([crowd.row for crowd in crowds], np.int64)).tolist()
    told = sorted(zip(crowds, at), key=lambda each: (-each[0].codes, each[1], each[0].signal))
    crowds = [crowd for crowd, _ in told]
    names = pool.uids(np.array([crowd.row for crowd in crowds[:CROWDS]], np.int64)).to_pylist()
    others = sorted(name for name, count in inside.items() if count and name not in signals)
    return {
        "of": len(pool),
        "kept": len(pool) - named.rows,
        "duplicates": {name: inside.get(name, 0) for name in [*signals, *others]},
        "undecodable": pool.undecodable,
        "groups": int(named.total("groups")),
        "crowds": [{"signal": crowd.signal, "uid": uid, "codes": crowd.codes} for crowd, uid in zip(crowds, names)],
    }
