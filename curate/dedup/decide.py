"""Which rows stay: what a benchmark holds goes first, then every row that matches a better one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.dataset import Dataset
from curate.dedup.codes import Codes, Comparison
from curate.dedup.faiss_install import load_search
from curate.dedup.groups import CHAINED, Alike, Stars, closure, semantic, stars
from curate.dedup.likeness import Crowd, Search, likeness
from curate.dedup.pool import Pool, ranked
from curate.errors import BadShard

CROWDS = 100  # that the history names
GROUPS = pa.schema(
    [("keeper", pa.string()), ("shard", pa.string()), ("size", pa.int32()), ("texts", pa.list_(pa.string())),
     ("uids", pa.list_(pa.string())), ("shards", pa.list_(pa.string())), ("signals", pa.list_(pa.string())),
     ("distances", pa.list_(pa.float64()))]
)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """Which rows of a group go. closure: all that a chain of matches connects with the best, not only those that match
    it themselves. semdedup: by the vectors, those that any harder row resembles by 1 - semdedup or more; 0: none."""

    closure: bool = False
    semdedup: float = 0.0


@dataclass(frozen=True)
class Decision:
    """For each row of the pool: reason and signal (None where it is kept), its keeper's row (-1 where it is kept or a
    benchmark holds it) and their distance (NaN where it is kept, or where only a chain connects them)."""

    reason: np.ndarray
    signal: np.ndarray
    keeper: np.ndarray
    distance: np.ndarray
    crowds: list[Crowd]

    @property
    def kept(self) -> np.ndarray:
        return self.reason == None  # noqa: E711 - elementwise on an object array


def decide(pool: Pool, overlaps: Mapping[str, pa.Table], search: Search, rule: Rule = Rule()) -> Decision:
    """overlaps: benchmark -> matches (shard, uid, signal, distance); the first benchmark that holds a row names it."""
    found = _of_benchmarks(pool, overlaps)
    order = ranked(pool.rows)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    outside = ~found.kept
    first = [codes for codes in pool.codes if not rule.semdedup or codes.comparison.kind != "cosine"]
    alike = _likenesses(pool, first, rank, outside, search, found.crowds)
    _drop(found, (closure if rule.closure else stars)(order, alike), [each.signal for each in alike])
    for codes in pool.codes:
        if rule.semdedup and codes.comparison.kind == "cosine":
            (near,) = _likenesses(pool, [codes], rank, ~found.kept, search, found.crowds)
            star = semantic(order, near, _hardness(pool, near, codes.comparison, search))
            _drop(found, star, [near.signal], "semdedup")
    return found


def _of_benchmarks(pool: Pool, overlaps: Mapping[str, pa.Table]) -> Decision:
    reason, signal = np.full(len(pool), None, object), np.full(len(pool), None, object)
    distance = np.full(len(pool), np.nan)
    for benchmark, matches in overlaps.items():
        rows = pool.find(matches["shard"], matches["uid"])
        for row, name, gap in zip(rows.tolist(), matches["signal"].to_pylist(), matches["distance"].to_pylist()):
            if row >= 0 and reason[row] is None:
                reason[row], signal[row], distance[row] = f"benchmark:{benchmark}", name, gap
    return Decision(reason, signal, np.full(len(pool), -1, np.int64), distance, [])


def _likenesses(pool: Pool, columns: Sequence[Codes], rank: np.ndarray, outside: np.ndarray, search: Search,
                crowds: list[Crowd]) -> list[Alike]:  # fmt: skip
    alike = []
    for codes in columns:
        found, crowded = likeness(pool, codes, rank, outside, search)
        alike.append(found)
        crowds += crowded
    return alike


def _drop(found: Decision, star: Stars, signals: Sequence[str], reason: str | None = None) -> None:
    """Write what the stars drop into a decision."""
    dropped = star.keeper >= 0
    names = np.array([*signals, "closure"], object)
    by = np.where(star.matched_by[dropped] == CHAINED, len(signals), star.matched_by[dropped])
    found.signal[dropped], found.reason[dropped] = names[by], reason or names[by]
    found.keeper[dropped], found.distance[dropped] = star.keeper[dropped], star.distance[dropped]
    # a keeper that a later rule dropped is no keeper: what hung on it hangs on its own
    lost = np.flatnonzero((found.keeper >= 0) & dropped[np.maximum(found.keeper, 0)])
    found.keeper[lost] = found.keeper[found.keeper[lost]]


def _hardness(pool: Pool, alike: Alike, comparison: Comparison, search: Search) -> np.ndarray:
    """float64 [classes]: similarity of each class to the mean of its k-means cluster."""
    valid = np.flatnonzero(alike.classes >= 0)
    rows = np.zeros(int(alike.classes.max(initial=-1)) + 1, np.int64)
    rows[alike.classes[valid]] = valid
    return load_search().hardness(pool.vectors(comparison, rows, search.whitenings.get(comparison.signal)))


def selection_table(pool: Pool, decision: Decision, at: int) -> pa.Table:
    """The rows of one shard as a selection holds them: uid, weight (0 = dropped), reason, keeper, signal, distance."""
    part = slice(int(pool.bounds[at]), int(pool.bounds[at + 1]))
    weight = np.where(decision.kept[part], pool.rows["weight"].to_numpy()[part], 0).astype(np.int32)
    keeper = decision.keeper[part]
    distance = decision.distance[part]
    columns = {
        "uid": pool.rows["uid"].slice(part.start, part.stop - part.start),
        "weight": pa.array(weight),
        "reason": pa.array(decision.reason[part], pa.string()),
        "keeper": pool.rows["uid"].take(pa.array(keeper, mask=keeper < 0)),
        "signal": pa.array(decision.signal[part], pa.string()),
        "distance": pa.array(distance, pa.float64(), mask=np.isnan(distance)),
    }
    return pa.table(columns).combine_chunks()


def groups_table(dataset: Dataset, pool: Pool, decision: Decision) -> pa.Table:
    """One row for each keeper that others were dropped for, sorted by keeper: its uid and shard, all distinct texts of
    the group (its own first), and the uid, shard, signal and distance of each dropped row, by uid. Raises BadShard."""
    dropped = np.flatnonzero(decision.keeper >= 0)
    uids, shards = _strings(pool.rows, "uid", dropped), _strings(pool.rows, "shard", dropped)
    members: dict[int, list[tuple[str, str, int]]] = {}
    for row, uid, shard in zip(dropped.tolist(), uids, shards, strict=True):
        members.setdefault(int(decision.keeper[row]), []).append((uid, shard, row))
    keepers = np.array(sorted(members), np.int64)
    texts = _texts(dataset, pool, np.concatenate([keepers, dropped]).astype(np.int64))
    names = zip(_strings(pool.rows, "uid", keepers), _strings(pool.rows, "shard", keepers), keepers.tolist())
    groups = []
    for uid, shard, keeper in sorted(names):
        group = sorted(members[keeper])
        rows = [row for _, _, row in group]
        others = sorted({texts[row] for row in rows} - {texts[keeper]})
        groups.append(
            {
                "keeper": uid,
                "shard": shard,
                "size": len(group) + 1,
                "texts": [texts[keeper], *others],
                "uids": [member for member, _, _ in group],
                "shards": [where for _, where, _ in group],
                "signals": decision.signal[rows].tolist(),
                "distances": decision.distance[rows].tolist(),
            }
        )
    return pa.Table.from_pylist(groups, GROUPS)


def _texts(dataset: Dataset, pool: Pool, rows: np.ndarray) -> dict[int, str]:
    """The captions of some rows; only the shards that hold them are read."""
    found: dict[int, str] = {}
    for at, shard in enumerate(pool.shards):
        own = np.unique(rows[(rows >= pool.bounds[at]) & (rows < pool.bounds[at + 1])])
        if len(own):
            table = shard.rows().select(["uid", "caption"])
            captions = dict(zip(table["uid"].to_pylist(), table["caption"].to_pylist(), strict=True))
            uids = _strings(pool.rows, "uid", own)
            if any(uid not in captions for uid in uids):
                raise BadShard(f"{shard}: its rows changed while dedup ran; run it again")
            found |= {row: captions[uid] for row, uid in zip(own.tolist(), uids, strict=True)}
    return found


def _strings(rows: pa.Table, column: str, at: np.ndarray) -> list[str]:
    return rows[column].take(pa.array(at, pa.int64())).to_pylist()


def _undecodable(pool: Pool) -> np.ndarray:
    """bool [rows]: what lacks a hash of its picture; such rows stay, unless another file has the same bytes."""
    columns = [codes for codes in pool.codes if codes.comparison.kind != "cosine"]
    return ~np.logical_and.reduce([np.ones(len(pool), bool), *(codes.comparable for codes in columns)])


def counts(pool: Pool, decision: Decision, signals: Sequence[str]) -> dict[str, object]:
    """The numbers of the history: kept, of, undecodable, groups, duplicates by signal, the largest crowds by their best
    image."""
    inside = decision.signal[decision.keeper >= 0]
    crowds = sorted(set(decision.crowds), key=lambda crowd: (-crowd.codes, crowd.row, crowd.signal))
    chained = bool((inside == "closure").any())
    return {
        "of": len(pool),
        "kept": int(decision.kept.sum()),
        "duplicates": {name: int((inside == name).sum()) for name in [*signals, *(["closure"] * chained)]},
        "undecodable": int(_undecodable(pool).sum()),
        "groups": len(np.unique(decision.keeper[decision.keeper >= 0])),
        "crowds": [
            {"signal": crowd.signal, "uid": pool.rows["uid"][crowd.row].as_py(), "codes": crowd.codes}
            for crowd in crowds[:CROWDS]
        ],
    }
