"""The rows of a pool in the order in which they are taken as keepers, best first: a row's number is its rank.

A task for each group of shards sorts its rows, one for each range of ranks puts together what all groups have of it.
What is known of the rows of a range then lies in one file, as records, and no process holds more than a range.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.dedup.codes import numbers
from curate.files import Folder
from curate.shard import Shard
from curate.work import Engine, Report, run_all

RANGE = 500_000  # rows of a group, and about of a range: 75 MB of records, sorted in three times as much
DRAWN = 64  # rows of each group that tell where ranges end
SORTED_BY = ["uid", "pixels", "original", "clip"]
ENDS = "ends.npy"  # the first keys of every range but the first
SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class Part:
    """A shard and the number of its first row among those of all shards."""

    shard: Shard
    first: int

    def __str__(self) -> str:
        return str(self.shard)


@dataclass(frozen=True)
class Group:
    """Neighbouring shards that a task takes together."""

    number: int
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Ranking:
    """The ranges of ranks. folder: of their files, its name tells what is in them; starts: int64 [ranges + 1], the rank
    that each begins with; like: of a record. A record holds "keys", uint64 [words + 4], which compare as the rows rank
    (the last is the row's place among those of all shards), and the columns of what was read of each row."""

    folder: Folder
    starts: np.ndarray
    like: np.dtype

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def name(self) -> str:
        return self.folder.url.rpartition("/")[2]

    @property
    def ranges(self) -> range:
        return range(len(self.starts) - 1)

    def records(self, number: int) -> np.ndarray:
        """Those of a range, best first."""
        return self.folder.read_array(ranked_of(number))

    def parts(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Each range that holds some of the rows, and where in `rows` these stand."""
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], self.starts)
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            yield number, order[bounds[number] : bounds[number + 1]]

    def take(self, rows: np.ndarray, column: str) -> np.ndarray:
        """A column of some rows, in any order."""
        of = self.like[column]
        found = np.zeros((len(rows), *of.shape), of.base)
        for number, own in self.parts(rows):
            found[own] = self.records(number)[column][rows[own] - self.starts[number]]
        return found

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64: the rows of these keys, all of which are there."""
        found = np.zeros(len(keys), np.int64)
        ranges = np.zeros(len(keys), np.int64)
        if len(self.ranges) > 1:
            ranges = places(self.folder.read_array(ENDS), keys)
        for number in np.unique(ranges).tolist():
            own = np.flatnonzero(ranges == number)
            found[own] = self.starts[number] + places(self.records(number)["keys"], keys[own])
        return found


@dataclass(frozen=True)
class SortRows:
    """Write the records of a group of shards, best first, and some of their keys, unless they are there already."""

    source: Folder  # what ReadRows wrote
    folder: Folder
    like: np.dtype

    def __call__(self, group: Group) -> Report:
        if self.folder.exists(sorted_of(group.number)):
            return Report(str(group), skipped=True)
        held = np.concatenate([self._records(part) for part in group.parts])
        held = held[_order(held["keys"])]
        drawn = np.unique(np.linspace(0, len(held) - 1, DRAWN).astype(np.int64))
        self.folder.write_array(drawn_of(group.number), held["keys"][drawn])
        self.folder.write_array(sorted_of(group.number), held)
        return Report(str(group), len(held))

    def _records(self, part: Part) -> np.ndarray:
        table = self.source.read_table(f"{part.shard.name}.parquet")
        held = np.zeros(len(table), self.like)
        held["keys"] = keys_of(table, part.first, self.like["keys"].shape[0])
        for name in (self.like.names or ())[1:]:
            held[name] = numbers(table[name]).reshape(held[name].shape)
        return held


@dataclass(frozen=True)
class SplitRows:
    """Write where each range ends in the file of a group, unless it is there already: int64 [ranges + 1]."""

    folder: Folder

    def __call__(self, number: int) -> Report:
        name = bounds_of(number)
        if not self.folder.exists(name):
            keys = self.folder.read_array(sorted_of(number))["keys"]
            inner = places(keys, self.folder.read_array(ENDS))
            self.folder.write_array(name, np.concatenate(([0], inner, [len(keys)])))
        return Report(name)


@dataclass(frozen=True)
class RankRows:
    """Write the records of a range of ranks, unless they are there already."""

    folder: Folder
    groups: int

    def __call__(self, number: int) -> Report:
        name = ranked_of(number)
        if self.folder.exists(name):
            return Report(name, len(self.folder.read_array(name)), skipped=True)
        held = np.concatenate([self._own(group, number) for group in range(self.groups)])
        held = held[_order(held["keys"])]
        self.folder.write_array(name, held)
        return Report(name, len(held))

    def _own(self, group: int, number: int) -> np.ndarray:
        start, stop = self.folder.read_rows(bounds_of(group), number, number + 2).tolist()
        return self.folder.read_rows(sorted_of(group), start, stop)


def rank(parts: Sequence[Part], rows: Sequence[int], source: Folder, said: str, like: np.dtype,
         engine: str | Engine) -> Ranking:  # fmt: skip
    """rows: of each part. source: what ReadRows wrote; said: tells these very rows. Raises CurateError."""
    folder = source.within(f"ranks-{said}-{RANGE}")
    of, groups = -(-sum(rows) // RANGE), neighbours(parts, rows, RANGE)
    if not all(folder.exists(ranked_of(number)) for number in range(of)):
        run_all(SortRows(source, folder, like), groups, engine, "sort rows").whole("run it again")
        drawn = np.concatenate([folder.read_rows(drawn_of(group.number)) for group in groups])
        drawn = drawn[_order(drawn)]
        folder.write_array(ENDS, drawn[np.linspace(0, len(drawn), of + 1).astype(np.int64)[1:-1]])
        run_all(SplitRows(folder), range(len(groups)), engine, "split rows").whole("run it again")
    ranges = run_all(RankRows(folder, len(groups)), range(of), engine, "rank rows").whole("run it again")
    for name in ("sorted", "drawn", "bounds"):
        folder.remove(name)
    counts = [report.rows for report in ranges.reports]
    return Ranking(folder, np.concatenate(([0], np.cumsum(np.array(counts, np.int64)))), like)


def record(words: int, columns: dict[str, np.dtype]) -> np.dtype:
    """Of a pool whose uids fit into so many words."""
    return np.dtype([("keys", np.uint64, (words + 4,)), *columns.items()])


def keys_of(table: pa.Table, first: int, width: int) -> np.ndarray:
    """uint64 [rows, width]: of the rows of a shard, by what SORTED_BY names: most pixels come first, then most pixels
    before resizing, the best CLIP score, the first uid, the first row, which is `first` for the shard's own first."""
    held = np.empty((len(table), width), np.uint64)
    clip = (table["clip"].to_numpy() + 0.0).view(np.int64)  # -0.0 is 0.0
    clip = np.where(np.isnan(table["clip"].to_numpy()), np.iinfo(np.int64).min, clip ^ ((clip >> 63) & (1 << 63) - 1))
    for at, column in enumerate((table["pixels"].to_numpy(), table["original"].to_numpy(), clip)):
        held[:, at] = ~(column.view(np.uint64) ^ SIGN)
    uids = np.array(table["uid"].cast(pa.binary()).to_pylist(), f"S{8 * (width - 4)}")
    held[:, 3:-1] = uids.view(">u8").reshape(len(uids), width - 4)
    held[:, -1] = np.arange(first, first + len(table))
    return held


def uids_of(keys: np.ndarray) -> pa.StringArray:
    """The uids that such keys hold."""
    held = np.ascontiguousarray(keys[:, 3:-1].astype(">u8")).view(f"S{8 * (keys.shape[1] - 4)}")
    return pa.array(held[:, 0].tolist(), pa.binary()).cast(pa.string())


def places(held: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64: how many of the ascending keys `held` come before each of some keys."""
    low, high = np.zeros(len(wanted), np.int64), np.full(len(wanted), len(held), np.int64)
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) // 2
        a, b = held[middle], wanted[open_]
        column = (a != b).argmax(axis=1)[:, None]  # the first that tells them apart
        before = (np.take_along_axis(a, column, 1) < np.take_along_axis(b, column, 1))[:, 0]
        low[open_], high[open_] = np.where(before, middle + 1, low[open_]), np.where(before, high[open_], middle)
    return low


def _order(keys: np.ndarray) -> np.ndarray:
    """int64: the place of the first of these keys, of the next one ..."""
    columns = np.ascontiguousarray(keys.T)
    return np.lexsort([column for column in columns[::-1] if (column != column[:1]).any()] or columns[:1])


def neighbours(parts: Sequence[Part], rows: Sequence[int], most: int) -> list[Group]:
    """Shards in groups of at most so many rows, unless one shard alone has more; rows: of each part."""
    groups: list[list[Part]] = []
    held = most
    for part, count in zip(parts, rows, strict=True):
        if count:
            if held + count > most:
                groups.append([])
                held = 0
            groups[-1].append(part)
            held += count
    return [Group(number, tuple(each)) for number, each in enumerate(groups)]


def sorted_of(group: int) -> str:
    return f"sorted/{group:05d}.npy"


def drawn_of(group: int) -> str:
    return f"drawn/{group:05d}.npy"


def bounds_of(group: int) -> str:
    return f"bounds/{group:05d}.npy"


def ranked_of(number: int) -> str:
    return f"ranked/{number:05d}.npy"
