"""How far each query draws: tasks that find the last pair of every query over the cap, bounded at any size.

The windows of 16,000 queries hold 27 million hashes at cap 20,000. No process holds them all: the buckets write what
they see in the windows sorted by query, and each cut reads its own queries from all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from curate.files import Folder
from curate.harvest import cap as caps
from curate.harvest import ranges, uids
from curate.harvest.matches import WORK
from curate.harvest.select import LIMITS, Bucket, lists, order_of, pairs_of
from curate.work import Engine, Outcome, Report, run_all

SPREAD = 6.0  # standard deviations: the first windows miss about once in 1e9 queries
STRETCHES = 256  # tasks that look at the windows: each cut opens what all of them wrote
CUT_ROWS = 2_000_000  # hashes in a cut, about: 200 MB while they are sorted


@dataclass(frozen=True)
class Stretch:
    """Neighbouring buckets that one task looks at, one after the other."""

    number: int
    buckets: tuple[Bucket, ...]

    def __str__(self) -> str:
        return f"stretch {self.number} of the windows"


@dataclass(frozen=True)
class Look:
    """Write what a stretch shows in the windows of one pass: the pairs below each, and the ranks inside."""

    folder: Folder
    state: str
    seed: int
    number: int  # of the pass

    def __call__(self, stretch: Stretch) -> Report:
        made_by = {"state": self.state, "of": stretch.buckets[0].of}
        below_name, inside_name = seen_in(self.number, stretch)
        if self.folder.made_by(below_name) == made_by:
            return Report(str(stretch), skipped=True)
        window = _window(self.folder, self.state, self.number)
        below, found = np.zeros(len(window.first), np.int64), []
        for bucket in stretch.buckets:
            columns = ["high", "low", "queries"]
            pairs = ranges.between(self.folder, [pairs_of(bucket)], "high", 0, ranges.END, columns)
            more, *inside = caps.look(window, *order_of(pairs, self.seed), *lists(pairs["queries"]))
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
    """Write the cap-th smallest (rank, low) of some slots, and which of them the windows missed."""

    folder: Folder
    state: str
    cap: int
    number: int  # of the pass
    inside: tuple[str, ...]

    def __call__(self, slots: Slots) -> Report:
        name = cut_in(self.number, slots)
        made_by = {"state": self.state, "stop": slots.stop}
        if self.folder.made_by(name) == made_by:
            return Report(str(slots), skipped=True)
        seen = ranges.between(self.folder, self.inside, "slot", slots.start, slots.stop)
        below = _below(self.folder, self.state, self.number)[slots.start : slots.stop]
        slot, rank, low = (seen[column].to_numpy() for column in ("slot", "rank", "low"))
        found, rank, low = caps.cut(below, slot.astype(np.int64) - slots.start, rank, low, self.cap)
        self.folder.write_table(name, pa.table({"found": found, "rank": rank, "low": low}), made_by)
        return Report(str(slots), len(seen))


def find(folder: Folder, buckets: Sequence[Bucket], counts: np.ndarray, cap: int, seed: int, state: str,
         engine: str | Engine) -> Outcome:  # fmt: skip
    """Write the last (rank, low) that each query draws; a query whose window missed is looked for in a wider one.

    The outcome is that of the last tasks, at once where some failed.
    """
    rank, low = np.full(len(counts), caps.LAST), np.full(len(counts), caps.LAST)
    missing, number, spread, outcome = np.flatnonzero(counts > cap), 0, SPREAD, Outcome()
    stretches = _stretches(buckets)
    while len(missing):
        seen = caps.window(counts, missing, cap, spread)
        folder.write_table(f"{WORK}/windows/{number}-slots.parquet", pa.table({"slot": seen.slots}))
        folder.write_table(f"{WORK}/windows/{number}.parquet", pa.table({"first": seen.first, "last": seen.last}))
        outcome = run_all(Look(folder, state, seed, number), stretches, engine, "cap")
        if outcome.failures:
            return outcome
        below = np.zeros(len(missing), np.int64)
        for stretch in stretches:
            below += folder.read_table(seen_in(number, stretch)[0])["below"].to_numpy()
        folder.write_table(below_of(number), pa.table({"below": below}))
        inside = tuple(seen_in(number, stretch)[1] for stretch in stretches)
        cuts = _cuts(np.minimum(counts[missing], caps.expected(cap, spread)))
        outcome = run_all(Cut(folder, state, cap, number, inside), cuts, engine, "cap")
        if outcome.failures:
            return outcome
        table = pa.concat_tables(folder.read_table(cut_in(number, slots)) for slots in cuts)
        found, ranks, lows = (table[column].to_numpy() for column in ("found", "rank", "low"))
        rank[missing[found]], low[missing[found]] = ranks[found], lows[found]
        missing, number, spread = missing[~found], number + 1, spread * 4
    folder.write_table(LIMITS, pa.table({"rank": rank, "low": low}), {"state": state})
    return outcome


def toss(folder: Folder, queries: Sequence[str], counts: np.ndarray, cap: int, state: str) -> None:
    """Write the chance of each query, and a random number that only its text decides."""
    salt = caps.mix(uids.hashes(pa.array(queries, pa.string())))
    folder.write_table(LIMITS, pa.table({"rank": caps.chances(counts, cap), "salt": salt}), {"state": state})


def seen_in(number: int, stretch: Stretch) -> tuple[str, str]:
    """The files with what a stretch shows below and inside the windows of a pass."""
    prefix = f"{WORK}/windows/{number}/{stretch.number:05d}"
    return f"{prefix}-below.parquet", f"{prefix}-inside.arrow"


def below_of(number: int) -> str:
    return f"{WORK}/windows/{number}-below.parquet"


def cut_in(number: int, slots: Slots) -> str:
    return f"{WORK}/windows/{number}/cut-{slots.start:09d}.parquet"


def _stretches(buckets: Sequence[Bucket]) -> list[Stretch]:
    length = -(-len(buckets) // STRETCHES)
    starts = range(0, len(buckets), length)
    return [Stretch(number, tuple(buckets[start : start + length])) for number, start in enumerate(starts)]


def _cuts(expected: np.ndarray) -> list[Slots]:
    """Runs of slots that hold about CUT_ROWS hashes, by the number expected of each."""
    piece = (np.cumsum(expected) - expected) // CUT_ROWS
    starts = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist()]
    return [Slots(start, stop) for start, stop in zip(starts, [*starts[1:], len(expected)], strict=True)]


@lru_cache(maxsize=2)
def _window(folder: Folder, state: str, number: int) -> caps.Window:
    slots = folder.read_table(f"{WORK}/windows/{number}-slots.parquet")["slot"].to_numpy()
    table = folder.read_table(f"{WORK}/windows/{number}.parquet")
    return caps.Window(slots, table["first"].to_numpy(), table["last"].to_numpy())


@lru_cache(maxsize=2)
def _below(folder: Folder, state: str, number: int) -> np.ndarray:
    return folder.read_table(below_of(number))["below"].to_numpy()
