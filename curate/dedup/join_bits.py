"""Near pairs of more codes than one process should hold: a task for each table and range of its keys.

The codes lie in files; a task keeps those in its range, so that its memory is bounded by a bucket. Up to RANGES ranges
it reads all of them. Where there are more, each such pass would cost more than the join: for one table at a time the
codes are then written again, range by range, and a task reads its own.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from curate.dedup.buckets import PRIME, signatures
from curate.dedup.hamming import Capped, Pairs, Tables, as_words, hamming_pairs, in_order, joined, tables, whole
from curate.files import Folder
from curate.work import Engine, Report, run_all

SMALL = 1_000_000  # codes that the driver joins itself, in a third of a GB; tasks would take half as long again
BUCKET = 4_000_000  # codes in a range, about
RANGES = 16  # that a task picks its codes for from all of them, at 40 ns each; to write them by range takes 300, once
PART = 500_000  # codes in a file
FILES = 8  # that are written by range together
STRETCH = 100_000  # codes that are looked at together
FEW = 10_000  # codes that tables are planned for at least: fewer would simply be compared
SCHEMA = pa.schema([("i", pa.int64()), ("j", pa.int64()), ("distance", pa.float64())])
CROWDS = pa.schema([("first", pa.int64()), ("codes", pa.int64())])


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
    parts: int
    bits: int
    threshold: int
    plan: Tables
    placed: bool  # by range, by PlaceCodes

    def __call__(self, part: Range) -> Report:
        name = f"pairs/{part}.parquet"
        if self.folder.exists(name):
            return Report(str(part), skipped=True)
        rows, words = (self._read_placed if self.placed else self._read)(part)
        capped: Capped = []
        i, j, distance = in_order([joined(words, self.threshold, self.plan, part.table, capped, whole(self.bits))])
        write_pairs(
            self.folder, str(part), (rows[i], rows[j], distance), [(int(rows[at]), size) for at, size in capped]
        )
        return Report(str(part), len(i))

    def _read(self, part: Range) -> tuple[np.ndarray, np.ndarray]:
        """The codes of a range: their numbers, ascending, and uint64 [n, words]."""
        rows, words = [np.zeros(0, np.int64)], [np.zeros((0, -(-self.bits // 64)), np.uint64)]
        start = 0
        for number in range(self.parts):
            held = np.asarray(self.folder.read_array(words_of(number))).T
            own = np.flatnonzero(range_of(signatures(held, self.plan.masks[part.table]), part.of) == part.number)
            rows.append(own + start)
            words.append(held[own])
            start += len(held)
        return np.concatenate(rows), np.asfortranarray(np.concatenate(words))

    def _read_placed(self, part: Range) -> tuple[np.ndarray, np.ndarray]:
        """The same."""
        found = []
        for first in range(0, self.parts, FILES):
            start, stop = self.folder.read_array(bounds_of(part.table, first))[part.number : part.number + 2].tolist()
            found.append(self.folder.read_array(placed_of(part.table, first))[start:stop])
        held = np.concatenate(found)
        return held[:, -1].view(np.int64), np.asfortranarray(held[:, :-1])


@dataclass(frozen=True)
class PlaceCodes:
    """Write FILES files of codes range by range of the keys of a table, unless they are there already: uint64
    [codes, words + 1], the number of each code in the last column."""

    folder: Folder
    parts: int
    plan: Tables
    table: int
    of: int

    def __call__(self, first: int) -> Report:
        name = placed_of(self.table, first)
        if self.folder.exists(name):
            return Report(name, skipped=True)
        files = range(first, min(first + FILES, self.parts))
        words = np.concatenate([self.folder.read_array(words_of(number)) for number in files], axis=1).T
        own = range_of(signatures(words, self.plan.masks[self.table]), self.of).astype(np.uint16)
        held = np.empty((len(own), words.shape[1] + 1), np.uint64)
        held[:, :-1], held[:, -1] = words, np.arange(len(own)) + first * PART
        bounds = np.concatenate(([0], np.cumsum(np.bincount(own, minlength=self.of))))
        self.folder.write_array(bounds_of(self.table, first), bounds)
        self.folder.write_array(name, held[np.argsort(own, kind="stable")])
        return Report(name, len(own))


def code_pairs(folder: Folder, codes: np.ndarray, rows: np.ndarray, threshold: int, recall: float,
               engine: str | Engine, capped: Capped) -> Pairs:  # fmt: skip
    """hamming_pairs of those uint8 [n, bytes] codes that `rows` names, in its order, by tasks; their files stand below
    `folder`. Raises CurateError."""
    count, bits = len(rows), codes.shape[1] * 8
    plan = tables(max(count, FEW), bits, threshold, recall)
    if not len(plan):  # so large a threshold that no table helps
        return hamming_pairs(codes[rows], threshold, recall=recall, capped=capped)
    digest = xxhash.xxh3_64()
    for start in range(0, count, STRETCH):
        digest.update(codes[rows[start : start + STRETCH]].data)
    of = -(-count // BUCKET)
    own = folder.within(f"{digest.hexdigest()[:12]}-{threshold}-{len(plan)}-{of}")
    parts = range(-(-count // PART))
    for number in parts:
        if not own.exists(words_of(number)):
            held = codes[rows[number * PART : (number + 1) * PART]]
            own.write_array(words_of(number), as_words(held).T)
    task = JoinBits(own, len(parts), bits, threshold, plan, placed=of > RANGES)
    ranges = [Range(table, number, of) for table in range(len(plan)) for number in range(of)]
    for todo in [ranges[at : at + of] for at in range(0, len(ranges), of)] if task.placed else [ranges]:
        if task.placed and not all(own.exists(f"pairs/{part}.parquet") for part in todo):
            place = PlaceCodes(own, len(parts), plan, todo[0].table, of)
            run_all(place, parts[::FILES], engine, "place codes").whole("run it again")
        run_all(task, todo, engine, "join codes").whole("run it again")
        own.remove(f"placed/{todo[0].table:04d}")
    return read_pairs(own, [str(part) for part in ranges], capped)


def write_pairs(folder: Folder, name: str, pairs: Pairs, capped: Capped) -> None:
    """The crowds first: where the pairs are, all is."""
    if capped:
        firsts, sizes = zip(*sorted(set(capped)), strict=True)
        folder.write_table(f"crowds/{name}.parquet", pa.table([firsts, sizes], schema=CROWDS))
    i, j, distance = pairs
    folder.write_table(
        f"pairs/{name}.parquet", pa.table([i, j, distance.astype(np.float64)], schema=SCHEMA), dictionary=False
    )


def read_pairs(folder: Folder, names: list[str], capped: Capped) -> Pairs:
    """All pairs, each once, sorted; `capped` is told the crowds. Raises BadShard."""
    for name in folder.names("crowds/*.parquet"):
        table = folder.read_table(name)
        capped += zip(table["first"].to_pylist(), table["codes"].to_pylist(), strict=True)
    tables_ = [folder.read_table(f"pairs/{name}.parquet") for name in names]
    found = pa.concat_tables([SCHEMA.empty_table(), *(table.cast(SCHEMA) for table in tables_)])
    i, j, distance = (found[name].to_numpy() for name in ("i", "j", "distance"))
    order = np.lexsort((j, i))
    i, j, distance = i[order], j[order], distance[order]
    new = np.ones(len(i), bool)
    new[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    return i[new], j[new], distance[new]


def range_of(signed: np.ndarray, of: int) -> np.ndarray:
    """uint64 [n]: which of `of` ranges; mixed once more, since the joins take their buckets from the upper bits."""
    mixed = ((signed ^ (signed >> np.uint64(31))) * PRIME) >> np.uint64(32)
    return (mixed * np.uint64(of)) >> np.uint64(32)


def placed_of(table: int, first: int) -> str:
    return f"placed/{table:04d}/{first:05d}.npy"


def bounds_of(table: int, first: int) -> str:
    """int64 [ranges + 1]: where each begins in the file of `placed_of`."""
    return f"placed/{table:04d}/{first:05d}-bounds.npy"


def words_of(number: int) -> str:
    """uint64 [words, codes]: as they are read, column after column."""
    return f"words/{number:05d}.npy"
