"""Near pairs of more codes than one process should hold: a task for each table and range of its keys.

The codes lie in files of a few million; a task reads all of them and keeps those in its range, so that its memory is
bounded by a bucket and nothing is written but the codes, once, and the pairs.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from curate.dedup.hamming import (
    PRIME,
    Capped,
    Pairs,
    Tables,
    as_words,
    hamming_pairs,
    in_order,
    joined,
    signatures,
    tables,
    whole,
)
from curate.files import Folder
from curate.work import Engine, Report, run_all

SMALL = 1_000_000  # codes that the driver joins itself, in a third of a GB; tasks would take half as long again
BUCKET = 4_000_000  # codes in a range, about
RANGES, MOST = 16, 16_000_000  # ranges from which they grow, since each is a pass over all codes; codes in one then
PART = 500_000  # codes in a file
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

    def __call__(self, part: Range) -> Report:
        name = f"pairs/{part}.parquet"
        if self.folder.exists(name):
            return Report(str(part), skipped=True)
        rows, words = self._read(part)
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
    of = ranges_of(count)
    own = folder.within(f"{digest.hexdigest()[:12]}-{threshold}-{len(plan)}-{of}")
    parts = range(-(-count // PART))
    for number in parts:
        if not own.exists(words_of(number)):
            held = codes[rows[number * PART : (number + 1) * PART]]
            own.write_array(words_of(number), as_words(held).T)
    ranges = [Range(table, number, of) for table in range(len(plan)) for number in range(of)]
    task = JoinBits(own, len(parts), bits, threshold, plan)
    run_all(task, ranges, engine, "join codes").whole("run it again")
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


def ranges_of(codes: int) -> int:
    """Into how many ranges of keys so many codes fall."""
    return min(-(-codes // BUCKET), max(RANGES, -(-codes // MOST)))


def words_of(number: int) -> str:
    """uint64 [words, codes]: as they are read, column after column."""
    return f"words/{number:05d}.npy"
