"""The best row of every class of equal codes, which is compared with others: a task for each range of ranks."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from curate import ranges
from curate.dedup.by_number import ByNumber, by_number
from curate.dedup.equal import LeftOut, listed, repeated
from curate.dedup.hamming import as_words
from curate.dedup.pool import Column, Pool
from curate.dedup.ranking import Ranking, uids_of
from curate.files import Folder
from curate.work import Engine, Report, run_all

SEED = 0
PLACES = pa.schema([("place", pa.uint64()), ("row", pa.uint64())])  # place: among the rows of all shards


@dataclass(frozen=True)
class WriteFirsts:
    """Write the usable rows of a range of ranks that are not left out, unless they are there already: uint64
    [rows, words + 1], their codes where these are bits, and the rows. Those of vectors by their places, too: PLACES."""

    folder: Folder
    ranking: Ranking
    column: Column
    out: LeftOut

    def __call__(self, number: int) -> Report:
        name = firsts_of(number)
        if self.folder.exists(name):
            return Report(name, len(self.folder.read_array(name)), skipped=True)
        held, own, rows = self.out.others(self.ranking, number, self.column.usable)
        codes = np.zeros((len(own), 0))
        if self.column.comparison.kind == "hamming":
            codes = held[self.column.values][own]
        else:
            places = pa.table([held["keys"][own][:, -1], rows], schema=PLACES)
            ranges.write(self.folder, places_of(number), places.sort_by("place"), "place")
        self.folder.write_array(name, np.column_stack([as_words(codes), rows]))
        return Report(name, len(own))


@dataclass(frozen=True)
class Firsts:
    """The files of a column's first rows: so many rows in all, a file for each range of ranks. of: rows of the pool."""

    folder: Folder
    count: int
    files: int
    of: int

    def __len__(self) -> int:
        return self.count

    @property
    def name(self) -> str:
        return self.folder.url.rpartition("/")[2]

    def file(self, number: int) -> np.ndarray:
        """What WriteFirsts wrote of a range of ranks."""
        return self.folder.read_array(firsts_of(number))

    def by_place(self, engine: str | Engine) -> ByNumber:
        """PLACES of all of them, where they are of vectors. Raises CurateError."""
        names = [places_of(number) for number in range(self.files)]
        return by_number(self.folder, names, PLACES, self.count, self.of, engine)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """uint64 [count, words], their codes where these are bits, and int64 [count], the rows, ascending."""
        if not self.files:
            return np.zeros((0, 1), np.uint64), np.zeros(0, np.int64)
        held = np.concatenate([self.file(number) for number in range(self.files)])
        return held[:, :-1], held[:, -1].astype(np.int64)


def firsts(pool: Pool, column: Column, out: LeftOut, folder: Folder, engine: str | Engine) -> Firsts:
    """out: rows that are none. Raises CurateError."""
    own = folder.within(f"firsts-{pool.ranking.name}-{column.name}-{out.name}")
    task = WriteFirsts(own, pool.ranking, column, out)
    done = run_all(task, pool.ranking.ranges, engine, "write first codes").whole("run it again")
    return Firsts(own, done.rows, len(pool.ranking.ranges), len(pool))


@dataclass(frozen=True)
class Sample:
    """Write those usable rows of a range of ranks that come first by a hash of their uids, `most` of them at most,
    unless they are there already: uint64 [3, rows], the hash, the place among the rows of all shards, and the row."""

    folder: Folder
    ranking: Ranking
    usable: str
    out: LeftOut
    most: int

    def __call__(self, number: int) -> Report:
        name = f"{self.most}/{number:05d}.npy"
        if not self.folder.exists(name):
            held, own, rows = self.out.others(self.ranking, number, self.usable)
            keys = held["keys"][own]
            hashes = [xxhash.xxh3_64_intdigest(uid.encode(), SEED) for uid in uids_of(keys).to_pylist()]
            found = np.stack([np.array(hashes, np.uint64), keys[:, -1], rows])
            self.folder.write_array(name, _least(found, self.most))
        return Report(name)


def sampled(pool: Pool, column: Column, out: LeftOut, most: int, folder: Folder,
            engine: str | Engine) -> np.ndarray:  # fmt: skip
    """At most so many of the usable rows that are not left out, by a hash of their uids, in the order of shards. Raises
    CurateError."""
    own = folder.within(f"sample-{pool.ranking.name}-{column.name}-{out.name}")
    task = Sample(own, pool.ranking, column.usable, out, most)
    run_all(task, pool.ranking.ranges, engine, "draw sample").whole("run it again")
    found = np.zeros((3, 0), np.uint64)
    for number in pool.ranking.ranges:
        found = _least(np.concatenate([found, own.read_array(f"{most}/{number:05d}.npy")], axis=1), most)
    return found[2][np.argsort(found[1])].astype(np.int64)


def distinct(pool: Pool, column: Column, most: int, folder: Folder, engine: str | Engine) -> np.ndarray:
    """As `sampled`, of the first row, in the order of shards, of every class of equal codes. Holds all rows that have
    the code of another."""
    none = listed(folder, np.zeros(0, np.int64))
    rows, best = repeated(pool, column, (), none, folder, engine).rows(0, len(pool))
    order = np.lexsort((pool.places(rows), best))
    new = np.ones(len(order), bool)
    new[1:] = best[order][1:] != best[order][:-1]
    return sampled(pool, column, listed(folder, np.sort(rows[order[~new]])), most, folder, engine)


def _least(found: np.ndarray, most: int) -> np.ndarray:
    return found[:, np.lexsort(found[1::-1])[:most]]


def firsts_of(number: int) -> str:
    return f"firsts/{number:05d}.npy"


def places_of(number: int) -> str:
    return f"places/{number:05d}.arrow"
