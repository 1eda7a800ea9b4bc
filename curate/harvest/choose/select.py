"""The tasks over ranges of uids: join the runs, select and write the candidates."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import ranges
from curate.files import Folder
from curate.harvest.choose import cap as caps
from curate.harvest.choose.matches import WEB, WORK, sorted_by_uid
from curate.harvest.choose.uids import hashes, hex_digits
from curate.shuffle import Piece
from curate.work import Number, Report

PARTS = f"{WORK}/parts.json"
QUERIES = f"{WORK}/queries.parquet"
LIMITS = f"{WORK}/limits.parquet"
REPEATED = ["queries.list.element", "selected_by.list.element"]  # columns worth a dictionary


@dataclass(frozen=True)
class Bucket:
    """One of `of` equal ranges of uids."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"candidates/{self.name}"

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Merge:
    """Write the distinct pairs of a bucket and how many of them each query has."""

    folder: Folder
    state: str  # fingerprint of the runs and of everything that decides what is drawn from them

    def __call__(self, piece: Piece) -> Report:
        bucket = Bucket(piece.number, piece.of)
        name = counts_of(bucket)
        made_by = {"state": self.state, "of": bucket.of}
        before = self.folder.made_by(name)
        if before is not None and {key: before.get(key) for key in made_by} == made_by:
            return Report(str(bucket), before["pairs"], skipped=True)
        start, stop = ranges.bounds(bucket.number, bucket.of)
        pairs = sorted_by_uid(ranges.between(self.folder, piece.sources, "high", start, stop))
        ranges.write(self.folder, piece.target, pairs, "high", made_by)
        table = _counted(lists(pairs["queries"])[1])
        self.folder.write_table(name, table, {**made_by, "pairs": len(pairs), "digest": _digest(pairs)})
        return Report(str(bucket), len(pairs))


@dataclass(frozen=True)
class Select:
    """Write the candidates of a bucket, and beside them the kept ones in the order in which shards read them."""

    folder: Folder
    state: str
    seed: int
    made_by: tuple[tuple[str, Any], ...]  # what the candidates say of themselves

    def __call__(self, bucket: Bucket) -> Report:
        said = dict(self.made_by)
        before = ranges.made_by(self.folder, kept_of(bucket)) or {}
        if before.get("state") == self.state and self.folder.made_by(f"{bucket}.parquet") == said:
            return Report(str(bucket), before["pairs"], before["counts"], skipped=True)
        pairs = ranges.between(self.folder, [pairs_of(bucket)], "high", 0, ranges.END)
        offsets, ids = lists(pairs["queries"])
        draws = drawn(self.folder, self.state, *order_of(pairs, self.seed), offsets, ids)
        drawn_offsets = np.concatenate(([0], np.cumsum(draws)))[offsets]
        table = pa.table(
            {
                "uid": hex_digits(pairs["high"].to_numpy(), pairs["low"].to_numpy()),
                "url": pairs["url"],
                "text": pairs["caption"],
                "queries": _lists(offsets, ids),
                "selected_by": _lists(drawn_offsets, ids[draws]),
                "part": pairs["part"],
                "row": pairs["row"],
            }
        )
        kept = np.flatnonzero(np.diff(drawn_offsets))
        counts: dict[str, Number] = {"selected": len(kept), "draws": int(draws.sum())}
        queries = _queries(self.folder, self.state)
        self.folder.write_table(f"{bucket}.parquet", _named(table, queries), said, dictionary=REPEATED)
        self.folder.write_table(draws_of(bucket), _counted(ids[draws]))
        placed = _named(by_place(table, _starts(self.folder, self.state), kept), queries)
        ranges.write(self.folder, kept_of(bucket), placed, "place",
                     {"state": self.state, "pairs": len(pairs), "counts": counts})  # fmt: skip
        return Report(str(bucket), len(pairs), counts)


def pairs_of(bucket: Bucket) -> str:
    return f"{WORK}/pairs/{bucket.name}.arrow"


def counts_of(bucket: Bucket) -> str:
    return f"{WORK}/counts/{bucket.name}.parquet"


def draws_of(bucket: Bucket) -> str:
    return f"{WORK}/draws/{bucket.name}.parquet"


def kept_of(bucket: Bucket) -> str:
    return f"{WORK}/kept/{bucket.name}.arrow"


def lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int64 [rows + 1] and values int32 of a column of lists of query numbers."""
    lengths = pc.list_value_length(column).to_numpy()
    offsets = np.zeros(len(column) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets, pc.list_flatten(column).to_numpy()


def drawn(folder: Folder, state: str, rank: np.ndarray, low: np.ndarray, offsets: np.ndarray,
          ids: np.ndarray) -> np.ndarray:  # fmt: skip
    """For each entry of `ids`, whether that query draws that pair, by what limits.py wrote."""
    limits = _limits(folder, state)
    if "salt" in limits:
        return caps.tossed(rank, offsets, ids, limits["rank"], limits["salt"])
    return caps.drawn(rank, low, offsets, ids, limits["rank"], limits["low"])


def order_of(pairs: pa.Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rank, low) of each pair."""
    high, low = pairs["high"].to_numpy(), pairs["low"].to_numpy()
    return caps.ranks(high, low, seed), low


def by_place(candidates: pa.Table, starts: np.ndarray, rows: np.ndarray | None = None) -> pa.Table:
    """Rows of a table sorted by uid, all by default, in the order in which shards read them: `place` in front, uint64.

    That is the hash of the url, so that all pairs of one url meet in one shard. Images in the pools keep the pools'
    order, so that a shard reads one stretch of them and not a bit of each.
    """
    rows = np.arange(len(candidates)) if rows is None else rows
    places = hashes(candidates["url"].take(pa.array(rows)))
    part, row = candidates["part"].to_numpy()[rows], candidates["row"].to_numpy()[rows]
    stored = part != WEB
    step = np.uint64((2**64 - 1) // max(int(starts[-1]), 1))
    places[stored] = (starts[part[stored]] + row[stored]).astype(np.uint64) * step
    order = np.argsort(places, kind="stable")
    return candidates.take(pa.array(rows[order])).add_column(0, "place", pa.array(places[order]))


def placed(kept: pa.Table) -> pa.Table:
    """The table in the order of the places."""
    return kept.sort_by([("place", "ascending"), ("uid", "ascending")])


def starts(folder: Folder) -> np.ndarray:
    """The rows in all parts before each part, int64 [parts + 1]."""
    return np.concatenate(([0], np.cumsum(folder.read_json(PARTS)["rows"], dtype=np.int64)))


def _counted(ids: np.ndarray) -> pa.Table:
    """How often each query stands in `ids`."""
    counts = np.bincount(ids)
    queries = np.flatnonzero(counts)
    return pa.table({"query": queries.astype(np.int32), "count": counts[queries].astype(np.int64)})


def _lists(offsets: np.ndarray, ids: np.ndarray) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(ids))


def _named(table: pa.Table, queries: pa.Array) -> pa.Table:
    """The table with the queries themselves in place of their numbers."""
    for name in ("queries", "selected_by"):
        offsets, ids = lists(table[name])
        named = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), queries.take(pa.array(ids)))
        table = table.set_column(table.column_names.index(name), name, named)
    return table


def _digest(pairs: pa.Table) -> int:
    """A sum over the uids: the same for any order, and the sum of the sums for any cut."""
    high, low = pairs["high"].to_numpy(), pairs["low"].to_numpy()
    return int(caps.mix(high ^ caps.mix(low)).sum(dtype=np.uint64))


@lru_cache(maxsize=2)
def _starts(folder: Folder, state: str) -> np.ndarray:
    return starts(folder)


@lru_cache(maxsize=2)
def _queries(folder: Folder, state: str) -> pa.Array:
    return folder.read_table(QUERIES)["query"].combine_chunks()


@lru_cache(maxsize=2)
def _limits(folder: Folder, state: str) -> dict[str, np.ndarray]:
    table = folder.read_table(LIMITS)
    return {name: table[name].to_numpy() for name in table.column_names}
