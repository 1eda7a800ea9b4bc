"""Match one file of a pool: the pairs that a query stands in, as runs sorted by uid."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate.errors import BadShard
from curate.files import Folder
from curate.harvest import ranges
from curate.harvest.match import Matcher
from curate.pools import open_pool
from curate.work import Number, Report

WORK = "work/harvest"
INDEX = f"{WORK}/index"
WEB = -1  # the part and the row of a pair whose image is not in a pool
RUN_ROWS = 500_000  # matched pairs sorted at a time


@dataclass(frozen=True)
class Part:
    """One file of a pool."""

    number: int
    pool: str  # as the user wrote it
    path: str
    size: int

    def __str__(self) -> str:
        return self.path

    @property
    def prefix(self) -> str:
        return f"{WORK}/matches/{self.number:06d}"


@dataclass(frozen=True)
class Match:
    """Write the matched pairs of a part as runs, then PART.json, which says that they are whole and counts them.

    A part that breaks halfway keeps the pairs before the damage and raises BadShard.
    """

    folder: Folder
    made_by: str  # fingerprint of the query list and the way to match

    def __call__(self, part: Part) -> Report:
        marker = f"{part.prefix}.json"
        wanted = [self.made_by, part.path, part.size]
        done = self.folder.read_json(marker) if self.folder.exists(marker) else {}
        if done.get("made_by") == wanted and not done["damage"]:
            return Report(str(part), done["read"], _counts(done), skipped=True)
        done = {"made_by": wanted, "read": 0, "unusable": 0, "matched": 0, "runs": 0, "damage": None}
        waiting: list[pa.Table] = []
        try:
            for table in self._matched(part, done):
                waiting.append(table)
                if sum(map(len, waiting)) >= RUN_ROWS:
                    self._write_run(part, waiting, done)
        except BadShard as error:
            done["damage"] = str(error)
        self._write_run(part, waiting, done)
        self.folder.write_json(marker, done)
        if done["damage"]:
            raise BadShard(done["damage"])
        return Report(str(part), done["read"], _counts(done))

    def _matched(self, part: Part, done: dict[str, Any]) -> Iterator[pa.Table]:
        matcher = _matcher(self.folder, self.made_by)
        for table in open_pool(part.pool).read(part.path):
            usable = _usable(table, part.number)
            offsets, ids = matcher.match(usable["caption"])
            hits = np.flatnonzero(np.diff(offsets))
            done["read"] += len(table)
            done["unusable"] += len(table) - len(usable)
            done["matched"] += len(hits)
            queries = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
            yield with_uids(usable.append_column("queries", queries).take(pa.array(hits)))

    def _write_run(self, part: Part, waiting: list[pa.Table], done: dict[str, Any]) -> None:
        if sum(map(len, waiting)) == 0:
            return
        run = sorted_by_uid(pa.concat_tables(waiting))
        ranges.write(self.folder, f"{part.prefix}.{done['runs']:05d}.parquet", run, {"part": part.path})
        done["runs"] += 1
        waiting.clear()


def with_uids(table: pa.Table) -> pa.Table:
    """The table with `high` and `low` in front, uint64: the two halves of each pair's uid."""
    urls, texts = (table[name].cast(pa.binary()).to_pylist() for name in ("url", "caption"))
    digests = b"".join(xxhash.xxh3_128_digest(b"%b\0%b" % pair) for pair in zip(urls, texts, strict=True))
    halves = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
    return pa.table({"high": halves[:, 0], "low": halves[:, 1], **{n: table[n] for n in table.column_names}})


def hex_uids(table: pa.Table) -> pa.Array:
    """The uids as 32 hex digits."""
    halves = zip(table["high"].to_pylist(), table["low"].to_pylist(), strict=True)
    return pa.array([f"{high:016x}{low:016x}" for high, low in halves], pa.string())


def sorted_by_uid(table: pa.Table) -> pa.Table:
    """The table in the order of the uids, one row for each: the first whose image lies in a pool, if there is one."""
    high, low, part = (table[name].to_numpy() for name in ("high", "low", "part"))
    if len(part) and part.max() != WEB:
        order = np.lexsort((table["row"].to_numpy(), part, part == WEB, low, high))
    else:
        order = np.lexsort((low, high))
    high, low = high[order], low[order]
    first = np.ones(len(order), bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return table.take(pa.array(order[first])).combine_chunks()


def _usable(table: pa.Table, part: int) -> pa.Table:
    """The rows whose image can be had: columns url (no blanks around it), caption, part, row.

    An image in the pool itself is row `row` of part `part`; both are WEB where the url has to be fetched.
    """
    url = pc.utf8_trim_whitespace(table["url"])
    stored = "row" in table.column_names
    nowhere = pa.repeat(pa.scalar(WEB, pa.int64()), len(table))
    place = {"part": pa.repeat(pa.scalar(part if stored else WEB, pa.int32()), len(table)),
             "row": table["row"].cast(pa.int64()) if stored else nowhere}  # fmt: skip
    fetchable = pc.greater(pc.utf8_length(url), 0) if stored else pc.match_substring_regex(url, r"(?i)^https?://[^/]")
    return pa.table({"url": url, "caption": table["caption"], **place}).filter(fetchable)


def _counts(done: dict[str, Any]) -> dict[str, Number]:
    return {name: done[name] for name in ("unusable", "matched", "runs")}


@lru_cache(maxsize=2)
def _matcher(folder: Folder, made_by: str) -> Matcher:
    with folder.local(INDEX) as path:
        return Matcher.load(path)
