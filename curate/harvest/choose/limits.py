"""How far each query draws: tasks that find the last pair of every query over the cap, bounded at any size.

The windows of 16,000 queries hold 27 million hashes at cap 20,000. No process holds them all: the buckets write what
they see in the windows sorted by query, and each cut reads its own queries from all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from curate import ranges
from curate.dataset import fingerprint
from curate.files import Folder
from curate.harvest.choose import cap as caps
from curate.harvest.choose import uids
from curate.harvest.choose.matches import WORK
from curate.harvest.choose.select import LIMITS, Bucket, lists, order_of, pairs_of
from curate.work import Engine, Report, run_all

SPREAD = 6.0  # standard deviations: the first windows miss about once in 1e9 queries
STRETCHES = 256  # tasks that look at the windows: each cut opens what all of them wrote
CUT_ROWS = 2_000_000  # hashes in a cut, about: 200 MB while they are sorted


Entries = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # rank, low, offsets, ids, as caps.look takes them
Read = Callable[[Any], Entries]  # a frozen dataclass with __call__: the entries of one source


@dataclass(frozen=True)
class Matched:
    """The pairs of a bucket, as they were joined."""

    folder: Folder
    seed: int

    def __call__(self, bucket: Bucket) -> Entries:
        columns = ["high", "low", "queries"]
        pairs = ranges.between(self.folder, [pairs_of(bucket)], "high", 0, ranges.END, columns)
        return *order_of(pairs, self.seed), *lists(pairs["queries"])


@dataclass(frozen=True)
class Stretch:
    """Neighbouring sources of entries, buckets say, that one task looks at, one after the other."""

    number: int
    sources: tuple[Any, ...]

    def __str__(self) -> str:
        return f"stretch {self.number} of the windows"


@dataclass(frozen=True)
class Look:
    """Write what a stretch shows in the windows of one pass: the pairs below each, and the ranks inside."""

    folder: Folder
    place: str  # folder of this search
    state: str
    read: Read
    number: int  # of the pass

    def __call__(self, stretch: Stretch) -> Report:
        made_by = {"state": self.state, "sources": fingerprint([str(source) for source in stretch.sources])}
        below_name, inside_name = seen_in(self.place, self.number, stretch)
        if self.folder.made_by(below_name) == made_by:
            return Report(str(stretch), skipped=True)
        window = _window(self.folder, self.place, self.state, self.number)
        below, found = np.zeros(len(window.first), np.int64), []
        for source in stretch.sources:
            more, *inside = caps.look(window, *self.read(source))
            below += more
            found.append(inside)
        slot, rank, low = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(slot, kind="stable")
        table = pa.table({"slot": slot[order].astype(np.uint64), "rank": rank[order], "low": low[order]})
        ranges.write(self.folder, inside_name, table, "slot", made_by)
        self.folder.write_table(below_name, pa.table({"below": below}), made_by)
        return Report(str(stretch), len(table))


@dataclass(frozen=True)
class Slots:
    """The slots of a window from `start` to before `stop`, whose limits one task finds."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"queries {self.start} to {self.stop} over the cap"


@dataclass(frozen=True)
class Cut:
    """Write the k-th smallest (rank, low) of some slots, and which of them the windows missed."""

    folder: Folder
    place: str
    state: str
    number: int  # of the pass
    inside: tuple[str, ...]

    def __call__(self, slots: Slots) -> Report:
        name = cut_in(self.place, self.number, slots)
        made_by = {"state": self.state, "stop": slots.stop}
        if self.folder.made_by(name) == made_by:
            return Report(str(slots), skipped=True)
        seen = ranges.between(self.folder, self.inside, "slot", slots.start, slots.stop)
        below, k = _below(self.folder, self.place, self.state, self.number)
        slot, rank, low = (seen[column].to_numpy() for column in ("slot", "rank", "low"))
        found, rank, low = caps.cut(below[slots.start : slots.stop], slot.astype(np.int64) - slots.start, rank, low,
                                    k[slots.start : slots.stop])  # fmt: skip
        self.folder.write_table(name, pa.table({"found": found, "rank": rank, "low": low}), made_by)
        return Report(str(slots), len(seen))


@dataclass(frozen=True)
class Search:
    """Looks for places in the random order of the queries, over sources that together hold all their pairs."""

    folder: Folder
    place: str  # a folder for its files
    read: Read
    sources: Sequence[Any]
    state: str  # changes with what the sources hold, and with what is asked
    engine: str | Engine

    def kth(self, counts: np.ndarray, wanted: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k-th smallest (rank, low) of each wanted query, uint64 [wanted] both.

        `counts` [queries]: the ranks of a query lie as close as those of so many pairs would over all of uint64. A
        query whose window missed is looked for in a wider one.
        """
        rank, low = np.zeros(len(wanted), np.uint64), np.zeros(len(wanted), np.uint64)
        missing, number, spread = np.arange(len(wanted)), 0, SPREAD
        while len(missing):
            queries, of = wanted[missing], k[missing]
            seen = caps.window(counts, queries, of, spread)
            expected = np.minimum(counts[queries], caps.expected(of, spread))
            found, ranks, lows = self._pass(number, seen, of, expected)
            rank[missing[found]], low[missing[found]] = ranks[found], lows[found]
            missing, number, spread = missing[~found], number + 1, spread * 4
        return rank, low

    def _pass(self, number: int, seen: caps.Window, k: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, ...]:
        """(found, rank, low) of each slot of a window."""
        name = f"{self.place}/{number}"
        self.folder.write_table(f"{name}-slots.parquet", pa.table({"slot": seen.slots}))
        self.folder.write_table(f"{name}.parquet", pa.table({"first": seen.first, "last": seen.last}))
        stretches = _stretches(self.sources)
        self._all(Look(self.folder, self.place, self.state, self.read, number), stretches)
        below = np.zeros(len(k), np.int64)
        for stretch in stretches:
            below += self.folder.read_table(seen_in(self.place, number, stretch)[0])["below"].to_numpy()
        self.folder.write_table(below_of(self.place, number), pa.table({"below": below, "k": k}))
        inside = tuple(seen_in(self.place, number, stretch)[1] for stretch in stretches)
        cuts = _cuts(expected)
        self._all(Cut(self.folder, self.place, self.state, number, inside), cuts)
        table = pa.concat_tables(self.folder.read_table(cut_in(self.place, number, slots)) for slots in cuts)
        return tuple(table[column].to_numpy() for column in ("found", "rank", "low"))

    def _all(self, task: Look | Cut, items: Sequence[Any]) -> None:
        run_all(task, items, self.engine, "cap").whole(f"delete {WORK} of the dataset and run again")


def find(folder: Folder, buckets: Sequence[Bucket], counts: np.ndarray, cap: int, seed: int, state: str,
         engine: str | Engine) -> None:  # fmt: skip
    """Write the last (rank, low) that each query draws, and its pairs."""
    rank, low = np.full(len(counts), caps.LAST), np.full(len(counts), caps.LAST)
    over = np.flatnonzero(counts > cap)
    search = Search(folder, f"{WORK}/windows", Matched(folder, seed), buckets, state, engine)
    rank[over], low[over] = search.kth(counts, over, np.full(len(over), cap))
    folder.write_table(LIMITS, pa.table({"rank": rank, "low": low, "pairs": counts}), {"state": state})


def toss(folder: Folder, queries: Sequence[str], counts: np.ndarray, cap: int, state: str) -> None:
    """Write the chance of each query, and a random number that only its text decides."""
    salt = caps.mix(uids.hashes(pa.array(queries, pa.string())))
    folder.write_table(LIMITS, pa.table({"rank": caps.chances(counts, cap), "salt": salt}), {"state": state})


def seen_in(place: str, number: int, stretch: Stretch) -> tuple[str, str]:
    """The files with what a stretch shows below and inside the windows of a pass."""
    prefix = f"{place}/{number}/{stretch.number:05d}"
    return f"{prefix}-below.parquet", f"{prefix}-inside.arrow"


def below_of(place: str, number: int) -> str:
    return f"{place}/{number}-below.parquet"


def cut_in(place: str, number: int, slots: Slots) -> str:
    return f"{place}/{number}/cut-{slots.start:09d}.parquet"


def _stretches(sources: Sequence[Any]) -> list[Stretch]:
    length = max(1, -(-len(sources) // STRETCHES))
    starts = range(0, len(sources), length)
    return [Stretch(number, tuple(sources[start : start + length])) for number, start in enumerate(starts)]


def _cuts(expected: np.ndarray) -> list[Slots]:
    """Runs of slots that hold about CUT_ROWS hashes, by the number expected of each."""
    piece = (np.cumsum(expected) - expected) // CUT_ROWS
    starts = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist()]
    return [Slots(start, stop) for start, stop in zip(starts, [*starts[1:], len(expected)], strict=True)]


@lru_cache(maxsize=2)
def _window(folder: Folder, place: str, state: str, number: int) -> caps.Window:
    slots = folder.read_table(f"{place}/{number}-slots.parquet")["slot"].to_numpy()
    table = folder.read_table(f"{place}/{number}.parquet")
    return caps.Window(slots, table["first"].to_numpy(), table["last"].to_numpy())


@lru_cache(maxsize=2)
def _below(folder: Folder, place: str, state: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    table = folder.read_table(below_of(place, number))
    return table["below"].to_numpy(), table["k"].to_numpy()
