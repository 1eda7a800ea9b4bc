"""Near pairs of more codes than one process should hold: a task for each table and range of its keys.

The codes lie in files (`firsts`); a task keeps those in its range, so that its memory is bounded by a bucket. Up to
RANGES ranges it reads all of them, of a store up to ASKED. Where there are more, each such pass would cost more than
the join: for one table at a time the codes are then written again, range by range, and a task reads its own.
"""

from dataclasses import dataclass

import numpy as np

from curate import ranges
from curate.dedup.buckets import signatures
from curate.dedup.buckets_layout import PRIME
from curate.dedup.firsts import Firsts
from curate.dedup.hamming import Capped, Tables, hamming_pairs, joined, tables, whole
from curate.dedup.pairs import Near, few_pairs, pairs_of, write_pairs, written_pairs
from curate.files import Folder
from curate.work import Engine, Report, run_all

SMALL = 1_000_000  # codes that the driver joins itself, in a third of a GB; tasks would take half as long again
BUCKET = 4_000_000  # codes in a range, about
RANGES = 16  # that a task picks its codes for from all of them, at 40 ns each; to write them by range takes 300, once
ASKED = 3  # of a store, where writing and reading them by range is less to move
FILES = 16  # of codes that are written by range together
FEW = 10_000  # codes that tables are planned for at least: fewer would simply be compared


@dataclass(frozen=True)
class Range:
    """One of `of` ranges of the keys of a table."""

    table: int
    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.table:04d}-{self.number:05d}"


@dataclass(frozen=True)
class JoinBits:
    """Write the pairs that a table is the first to find in a range of its keys, unless they are there already."""

    folder: Folder  # of these codes alone: its name tells them, the threshold and the tables
    codes: Firsts
    bits: int
    threshold: int
    plan: Tables
    placed: bool  # by range, by PlaceCodes

    def __call__(self, part: Range) -> Report:
        if (done := ranges.count(self.folder, pairs_of(str(part)))) is not None:
            return Report(str(part), done, skipped=True)
        held = (self._read_placed if self.placed else self._read)(part)
        rows, words = held[:, -1].view(np.int64), held[:, :-1]
        capped: Capped = []
        i, j, distance = joined(words, self.threshold, self.plan, part.table, capped, whole(self.bits))
        write_pairs(
            self.folder, str(part), (rows[i], rows[j], distance), [(int(rows[at]), size) for at, size in capped]
        )
        return Report(str(part), 2 * len(i))

    def _read(self, part: Range) -> np.ndarray:
        """The codes of a range, as WriteFirsts writes them."""
        found = []
        for number in range(self.codes.files):
            held = self.codes.file(number)
            own = range_of(signatures(held[:, :-1], self.plan.masks[part.table]), part.of) == part.number
            found.append(held[own])
        return np.concatenate(found)

    def _read_placed(self, part: Range) -> np.ndarray:
        """The same."""
        found = []
        for first in range(0, self.codes.files, FILES):
            start, stop = self.folder.read_rows(bounds_of(part.table, first), part.number, part.number + 2).tolist()
            found.append(self.folder.read_rows(placed_of(part.table, first), start, stop))
        return np.concatenate(found)


@dataclass(frozen=True)
class PlaceCodes:
    """Write FILES files of codes again, range by range of the keys of a table, unless they are there already."""

    folder: Folder
    codes: Firsts
    plan: Tables
    table: int
    of: int

    def __call__(self, first: int) -> Report:
        name = placed_of(self.table, first)
        if self.folder.exists(name):
            return Report(name, skipped=True)
        files = range(first, min(first + FILES, self.codes.files))
        held = np.concatenate([self.codes.file(number) for number in files])
        own = range_of(signatures(held[:, :-1], self.plan.masks[self.table]), self.of).astype(np.uint16)
        bounds = np.concatenate(([0], np.cumsum(np.bincount(own, minlength=self.of))))
        self.folder.write_array(bounds_of(self.table, first), bounds)
        self.folder.write_array(name, held[np.argsort(own, kind="stable")])
        return Report(name, len(own))


def code_pairs(folder: Folder, codes: Firsts, bits: int, threshold: int, recall: float, engine: str | Engine,
               capped: Capped) -> Near:  # fmt: skip
    """hamming_pairs of codes of so many bits, by their rows, in files below `folder`: by tasks, where they are many.
    Raises CurateError."""
    many = len(codes) > min(SMALL, BUCKET)
    plan = tables(max(len(codes), FEW), bits, threshold, recall) if many else None
    if not plan:  # or so large a threshold that no table helps
        words, rows = codes.read()
        crowds: Capped = []
        values = np.ascontiguousarray(words).view(np.uint8)[:, : bits // 8]
        i, j, distance = hamming_pairs(values, threshold, recall=recall, capped=crowds)
        capped += [(int(rows[at]), size) for at, size in crowds]
        return few_pairs(folder, codes.name, (rows[i], rows[j], distance))
    of = -(-len(codes) // BUCKET)
    own = folder.within(f"{codes.name}-{threshold}-{len(plan)}-{of}")
    task = JoinBits(own, codes, bits, threshold, plan, placed=of > (RANGES if own.is_local else ASKED))
    parts = [Range(table, number, of) for table in range(len(plan)) for number in range(of)]
    held = 0
    for todo in [parts[at : at + of] for at in range(0, len(parts), of)] if task.placed else [parts]:
        if task.placed and not all(own.exists(pairs_of(str(part))) for part in todo):
            place = PlaceCodes(own, codes, plan, todo[0].table, of)
            run_all(place, range(0, codes.files, FILES), engine, "place codes").whole("run it again")
        held += run_all(task, todo, engine, "join codes").whole("run it again").rows
        own.remove(f"placed/{todo[0].table:04d}")
    return written_pairs(own, [str(part) for part in parts], held, codes.of, capped, engine)


def range_of(signed: np.ndarray, of: int) -> np.ndarray:
    """uint64 [n]: which of `of` ranges; mixed once more, since the joins take their buckets from the upper bits."""
    mixed = ((signed ^ (signed >> np.uint64(31))) * PRIME) >> np.uint64(32)
    return (mixed * np.uint64(of)) >> np.uint64(32)


def placed_of(table: int, first: int) -> str:
    return f"placed/{table:04d}/{first:05d}.npy"


def bounds_of(table: int, first: int) -> str:
    """int64 [ranges + 1]: where each begins in the file of `placed_of`."""
    return f"placed/{table:04d}/{first:05d}-bounds.npy"
