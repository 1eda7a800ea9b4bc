"""The tasks over ranges of uids: join the runs, look at the windows, select and write the candidates."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate.files import Folder
from curate.harvest import cap as caps
from curate.harvest import ranges
from curate.harvest.matches import WEB, WORK, hex_uids, sorted_by_uid
from curate.work import Number, Report

RUNS = f"{WORK}/runs.json"
PARTS = f"{WORK}/parts.json"
QUERIES = f"{WORK}/queries.parquet"
LIMITS = f"{WORK}/limits.parquet"


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

    def __call__(self, bucket: Bucket) -> Report:
        name = counts_of(bucket)
        made_by = {"state": self.state, "of": bucket.of}
        before = self.folder.made_by(name)
        if before is not None and {key: before.get(key) for key in made_by} == made_by:
            return Report(str(bucket), before["pairs"], skipped=True)
        runs = self.folder.read_json(RUNS)["runs"]
        pairs = sorted_by_uid(ranges.between(self.folder, runs, "high", *ranges.bounds(bucket.number, bucket.of)))
        _, ids = lists(pairs["queries"])
        counted = np.unique(ids, return_counts=True)
        self.folder.write_table(pairs_of(bucket), pairs, made_by)
        table = pa.table({"query": counted[0].astype(np.int32), "count": counted[1].astype(np.int64)})
        self.folder.write_table(name, table, {**made_by, "pairs": len(pairs), "digest": _digest(pairs)})
        return Report(str(bucket), len(pairs))


@dataclass(frozen=True)
class Look:
    """Write what a bucket shows in the windows of one pass: the pairs below each, and the ranks inside."""

    folder: Folder
    state: str
    seed: int
    number: int  # of the pass

    def __call__(self, bucket: Bucket) -> Report:
        below_name, inside_name = seen_in(self.number, bucket)
        made_by = {"state": self.state, "of": bucket.of}
        if self.folder.made_by(below_name) == made_by:
            return Report(str(bucket), skipped=True)
        pairs = self.folder.read_table(pairs_of(bucket), ["high", "low", "queries"])
        rank, low = _order_of(pairs, self.seed)
        below, *inside = caps.look(_window(self.folder, self.state, self.number), rank, low, *lists(pairs["queries"]))
        self.folder.write_table(inside_name, pa.table(dict(zip(("slot", "rank", "low"), inside, strict=True))), made_by)
        self.folder.write_table(below_name, pa.table({"below": below}), made_by)
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
        before = self.folder.made_by(kept_of(bucket)) or {}
        if before.get("state") == self.state and self.folder.made_by(f"{bucket}.parquet") == said:
            return Report(str(bucket), before["pairs"], before["counts"], skipped=True)
        pairs = self.folder.read_table(pairs_of(bucket))
        queries, last_rank, last_low = _limits(self.folder, self.state)
        offsets, ids = lists(pairs["queries"])
        drawn = caps.drawn(*_order_of(pairs, self.seed), offsets, ids, last_rank, last_low)
        drawn_offsets = np.concatenate(([0], np.cumsum(drawn)))[offsets]
        table = pa.table(
            {
                "uid": hex_uids(pairs),
                "url": pairs["url"],
                "text": pairs["caption"],
                "queries": _named(offsets, ids, queries),
                "selected_by": _named(drawn_offsets, ids[drawn], queries),
                "part": pairs["part"],
                "row": pairs["row"],
            }
        )
        kept = table.filter(pa.array(np.diff(drawn_offsets) > 0))
        counts: dict[str, Number] = {"selected": len(kept), "draws": int(drawn.sum())}
        self.folder.write_table(f"{bucket}.parquet", table, said)
        ranges.write(self.folder, kept_of(bucket), _by_place(kept, _starts(self.folder)),
                     {"state": self.state, "pairs": len(pairs), "counts": counts})  # fmt: skip
        return Report(str(bucket), len(pairs), counts)


def pairs_of(bucket: Bucket) -> str:
    return f"{WORK}/pairs/{bucket.name}.parquet"


def counts_of(bucket: Bucket) -> str:
    return f"{WORK}/counts/{bucket.name}.parquet"


def kept_of(bucket: Bucket) -> str:
    return f"{WORK}/kept/{bucket.name}.parquet"


def window_of(number: int) -> str:
    return f"{WORK}/windows/{number}.parquet"


def seen_in(number: int, bucket: Bucket) -> tuple[str, str]:
    """The files with what a bucket shows below and inside the windows of a pass."""
    return tuple(f"{WORK}/windows/{number}/{bucket.name}-{part}.parquet" for part in ("below", "inside"))  # type: ignore


def lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int64 [rows + 1] and values int32 of a column of lists of query numbers."""
    lengths = pc.list_value_length(column).to_numpy()
    offsets = np.zeros(len(column) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets, pc.list_flatten(column).to_numpy()


def place(url: str) -> int:
    """Where a url lies among the shards, uint64: its hash, so that all pairs of one url meet in one shard."""
    return xxhash.xxh3_64_intdigest(url.encode())


def _by_place(kept: pa.Table, starts: np.ndarray) -> pa.Table:
    places = np.array([place(url) for url in kept["url"].to_pylist()], np.uint64)
    part, row = kept["part"].to_numpy(), kept["row"].to_numpy()
    stored = part != WEB
    # images in the pools keep the pools' order, so that a shard reads one stretch of them and not a bit of each
    step = np.uint64((2**64 - 1) // max(int(starts[-1]), 1))
    places[stored] = (starts[part[stored]] + row[stored]).astype(np.uint64) * step
    return kept.add_column(0, "place", pa.array(places)).sort_by([("place", "ascending"), ("uid", "ascending")])


def _starts(folder: Folder) -> np.ndarray:
    """The rows in all parts before each part, int64 [parts + 1]."""
    return np.concatenate(([0], np.cumsum(folder.read_json(PARTS)["rows"], dtype=np.int64)))


def _order_of(pairs: pa.Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    high, low = pairs["high"].to_numpy(), pairs["low"].to_numpy()
    return caps.ranks(high, low, seed), low


def _named(offsets: np.ndarray, ids: np.ndarray, queries: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), queries.take(pa.array(ids)))


def _digest(pairs: pa.Table) -> int:
    """A sum over the uids: the same for any order, and the sum of the sums for any cut."""
    high, low = pairs["high"].to_numpy(), pairs["low"].to_numpy()
    return int(caps.mix(high ^ caps.mix(low)).sum(dtype=np.uint64))


@lru_cache(maxsize=2)
def _window(folder: Folder, state: str, number: int) -> caps.Window:
    slots = folder.read_table(f"{WORK}/windows/{number}-slots.parquet")["slot"].to_numpy()
    table = folder.read_table(window_of(number))
    return caps.Window(slots, table["first"].to_numpy(), table["last"].to_numpy())


@lru_cache(maxsize=2)
def _limits(folder: Folder, state: str) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    table = folder.read_table(LIMITS)
    queries = folder.read_table(QUERIES)["query"].combine_chunks()
    return queries, table["rank"].to_numpy(), table["low"].to_numpy()
