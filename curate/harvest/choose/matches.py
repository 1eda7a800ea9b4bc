"""Match some files of a pool: the pairs that a query stands in, as runs sorted by uid."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import ranges
from curate.errors import BadShard
from curate.files import Folder
from curate.harvest.choose import uids
from curate.match.matcher import Matcher
from curate.memory import keep_freed_memory
from curate.pools import open_pool
from curate.work import Number, Report

WORK = "work/harvest"
INDEX = f"{WORK}/index"
RUNS = f"{WORK}/runs"
WEB = -1  # the part and the row of a pair whose image is not in a pool
RUN_ROWS = 500_000  # matched pairs sorted at a time
RUN_BYTES = 1 << 28  # or so many bytes of them
BATCH_ROWS, BATCH_BYTES = 1 << 14, 1 << 21  # matched at a time, at least
GROUP_BYTES = 1 << 25  # files smaller than this are matched together: a task for each takes longer than its work
GROUP_PARTS = 1_000


@dataclass(frozen=True)
class Part:
    """One file of a pool."""

    number: int
    pool: str  # as the user wrote it
    path: str
    size: int  # bytes; 0 where its store does not tell

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Group:
    """Files of a pool that one task matches."""

    number: int
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return str(self.parts[0])

    @property
    def marker(self) -> str:
        """The file that says that its runs are whole, and counts them."""
        return f"{WORK}/matched/{self.number:06d}.json"


def grouped(parts: Iterable[Part]) -> list[Group]:
    """Neighbours together until they are large enough; a file of unknown size stays alone."""
    groups: list[list[Part]] = []
    size = GROUP_BYTES
    for part in parts:
        if size + part.size > GROUP_BYTES or not part.size or len(groups[-1]) >= GROUP_PARTS:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part.size or GROUP_BYTES
    return [Group(number, tuple(group)) for number, group in enumerate(groups)]


@dataclass(frozen=True)
class Match:
    """Write the matched pairs of a group as runs, then the marker.

    A part that breaks halfway keeps the pairs before the damage; the marker says so, and another run tries it again.
    """

    folder: Folder
    made_by: str  # fingerprint of the query list and the way to match
    every: bool = False  # query 0 stands in every text, and there is no index

    def __call__(self, group: Group) -> Report:
        wanted = [self.made_by, [[part.path, part.size] for part in group.parts]]
        done = self.folder.read_json(group.marker) if self.folder.exists(group.marker) else {}
        if done.get("made_by") == wanted and not done["damaged"]:
            return Report(str(group), sum(done["read"]), _counts(done), skipped=True)
        done = {"made_by": wanted, "read": [], "unusable": 0, "matched": 0, "bytes": 0, "runs": 0, "damaged": {}}
        found = (self._matched(rows, done) for rows in joined(_usable_of(group, done), BATCH_ROWS, BATCH_BYTES))
        for run in joined(found, RUN_ROWS, RUN_BYTES):
            ranges.write(self.folder, run_of(group, done["runs"]), sorted_by_uid(run), "high", {})
            done["runs"] += 1
        self.folder.write_json(group.marker, done)
        return Report(str(group), sum(done["read"]), _counts(done))

    def _matched(self, rows: pa.Table, done: dict[str, Any]) -> pa.Table:
        rows = rows.combine_chunks()
        if self.every:
            offsets, ids = np.arange(len(rows) + 1), np.zeros(len(rows), np.int32)
        else:
            offsets, ids = _matcher(self.folder, self.made_by).match(rows["caption"])
        hits = np.flatnonzero(np.diff(offsets))
        queries = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(ids))
        found = with_uids(rows.append_column("queries", queries).take(pa.array(hits)))
        done["matched"] += len(found)
        done["bytes"] += sum(pc.sum(pc.binary_length(found[name])).as_py() or 0 for name in ("url", "caption"))
        return found


def joined(tables: Iterable[pa.Table], rows: int, size: int) -> Iterator[pa.Table]:
    """Neighbours as one, until they have so many rows or bytes; without the empty ones."""
    waiting: list[pa.Table] = []
    held, held_bytes = 0, 0
    for table in tables:
        if len(table):
            waiting.append(table)
            held, held_bytes = held + len(table), held_bytes + table.nbytes
        if held >= rows or held_bytes >= size:
            yield pa.concat_tables(waiting)
            waiting, held, held_bytes = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)


def run_of(group: Group, number: int) -> str:
    return f"{RUNS}/{group.number:06d}.{number:05d}.arrow"


def with_uids(table: pa.Table) -> pa.Table:
    """The table with `high` and `low` in front, uint64: the two halves of each pair's uid."""
    high, low = uids.halves(table["url"], table["caption"])
    return pa.table({"high": high, "low": low, **{name: table[name] for name in table.column_names}})


def sorted_by_uid(table: pa.Table) -> pa.Table:
    """The table in the order of the uids, one row for each: the first whose image lies in a pool, if there is one."""
    high, low, part = (table[name].to_numpy() for name in ("high", "low", "part"))
    order = np.argsort(high, kind="stable")
    if len(high) == 0 or np.all(np.diff(high[order]) != 0):
        return table.take(pa.array(order)).combine_chunks()
    if part.max() != WEB:
        order = np.lexsort((table["row"].to_numpy(), part, part == WEB, low, high))
    else:
        order = np.lexsort((low, high))
    high, low = high[order], low[order]
    first = np.ones(len(order), bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return table.take(pa.array(order[first])).combine_chunks()


def _usable_of(group: Group, done: dict[str, Any]) -> Iterator[pa.Table]:
    """The usable rows of all parts; notes what was read, and which part broke."""
    for part in group.parts:
        done["read"].append(0)
        try:
            for table in _pool(part.pool).read(part.path):
                usable = _usable(table, part.number)
                done["read"][-1] += len(table)
                done["unusable"] += len(table) - len(usable)
                yield usable
        except BadShard as error:
            done["damaged"][part.path] = str(error)


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
    usable = pa.table({"url": url, "caption": table["caption"], **place})
    return usable if pc.all(fetchable, min_count=0).as_py() else usable.filter(fetchable)


def _counts(done: dict[str, Any]) -> dict[str, Number]:
    return {name: done[name] for name in ("unusable", "matched", "runs")}


@lru_cache(maxsize=2)
def _matcher(folder: Folder, made_by: str) -> Matcher:
    keep_freed_memory()
    with folder.local(INDEX) as path:
        return Matcher.load(path)


@lru_cache(maxsize=8)
def _pool(text: str) -> Any:
    return open_pool(text)  # once for all its parts: where its kind has to be told from a folder, that is listed
