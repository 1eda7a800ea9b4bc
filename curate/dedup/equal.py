"""Which rows of a pool have equal codes: of a few by a sort of their digests, of more by a task for each range of
digests.

Tasks write the digests of a range of ranks each in a sorted file, others read a range of digests of all and say which
rows share one. A digest has 128 bits, and stands for the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from curate import ranges
from curate.dedup.by_number import ByNumber, by_number, in_files
from curate.dedup.pool import Column, Pool
from curate.dedup.ranking import Ranking
from curate.files import Folder
from curate.work import Engine, Report, run_all

FEW = 1_000_000  # rows whose digests the driver sorts itself, in 60 MB
BUCKET = 1_000_000  # rows in a range of digests, about: 50 bytes each
DIGESTS = pa.schema([("low", pa.uint64()), ("high", pa.uint64()), ("row", pa.uint64())])
SCHEMA = pa.schema([("row", pa.uint64()), ("best", pa.int64())])


@dataclass(frozen=True)
class Equal:
    """The rows whose code another row has, too. name: of the folder of their files, it tells what decided them."""

    held: ByNumber

    @property
    def name(self) -> str:
        return self.held.folder.url.rpartition("/")[2]

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """int64: those from `start` up to `stop`, ascending, and the best row with the code of each."""
        held = self.held.between(start, stop).sort_by("row")
        return held["row"].to_numpy().astype(np.int64), held["best"].to_numpy()


@dataclass(frozen=True)
class LeftOut:
    """Rows that tasks leave out: some that are listed, int64, ascending, in a file that its content names, and where
    `equal` is given all that have the code of a better row."""

    folder: Folder
    digest: str
    equal: Equal | None = None

    @property
    def name(self) -> str:
        return self.equal.name if self.equal else self.digest

    def others(self, ranking: Ranking, number: int, usable: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The records of a range of ranks, where those stand that have a code and are not left out, and the rows of
        these, uint64."""
        held, listed = ranking.records(number), self.folder.read_array(listed_of(self.digest))
        start, stop = ranking.starts[number : number + 2].tolist()
        wanted = held[usable].copy()
        wanted[listed[slice(*np.searchsorted(listed, [start, stop]).tolist())] - start] = False
        if self.equal:
            rows, best = self.equal.rows(start, stop)
            wanted[rows[rows != best] - start] = False
        own = np.flatnonzero(wanted)
        return held, own, (own + start).astype(np.uint64)


def listed(folder: Folder, rows: np.ndarray) -> LeftOut:
    found = LeftOut(folder, xxhash.xxh3_64_hexdigest(rows.tobytes())[:12])
    if not folder.exists(listed_of(found.digest)):
        folder.write_array(listed_of(found.digest), rows)
    return found


@dataclass(frozen=True)
class WriteDigests:
    """Write the digests of what `columns` hold of the rows of a range of ranks, unless they are there already: DIGESTS,
    both halves of each, and the row. Rows without a code, and those `outside`, have none."""

    folder: Folder
    ranking: Ranking
    usable: str
    columns: tuple[str, ...]
    outside: LeftOut

    def __call__(self, number: int) -> Report:
        name = digests_of(number)
        if (done := ranges.count(self.folder, name)) is not None:
            return Report(name, done, skipped=True)
        held = self.digests(number)
        ranges.write(self.folder, name, pa.table(list(held[:, np.argsort(held[0])]), schema=DIGESTS), "low")
        return Report(name, held.shape[1])

    def digests(self, number: int) -> np.ndarray:
        """uint64 [3, rows]: the same, by row."""
        held, own, rows = self.outside.others(self.ranking, number, self.usable)
        parts = [held[name][own] for name in self.columns]
        parts = [part.reshape(len(own), int(np.prod(part.shape[1:]))).view(np.uint8) for part in parts]
        said = b"".join(map(xxhash.xxh3_128_digest, np.hstack(parts)))
        return np.vstack([np.frombuffer(said, np.uint64).reshape(-1, 2).T, rows])


@dataclass(frozen=True)
class Repeats:
    """Write which rows share one of `of` ranges of digests, unless that is there already."""

    folder: Folder
    digests: ByNumber
    of: int

    def __call__(self, number: int) -> Report:
        name = self.output(number)
        if (done := ranges.count(self.folder, name)) is not None:
            return Report(name, done, skipped=True)
        held = self.digests.between(*ranges.bounds(number, self.of))
        return Report(name, write_shared(self.folder, name, np.stack([column.to_numpy() for column in held.columns])))

    def output(self, number: int) -> str:
        return f"repeats-{self.of}/{number:05d}.arrow"


def repeated(pool: Pool, column: Column, apart: Sequence[str], outside: LeftOut, folder: Folder,
             engine: str | Engine) -> Equal:  # fmt: skip
    """apart: what must be equal, too. outside: rows without a code. folder: for what tasks hand on. Raises
    CurateError."""
    ranking = pool.ranking
    own = folder.within(f"equal-{ranking.name}-{column.name}-{len(apart)}-{outside.digest}")
    task = WriteDigests(own, ranking, column.usable, (column.values, *apart), outside)
    if len(pool) <= FEW:
        found = [np.zeros((3, 0), np.uint64), *(task.digests(number) for number in ranking.ranges)]
        write_shared(own, "repeats.arrow", np.concatenate(found, axis=1))
        return Equal(in_files(own, SCHEMA, "repeats.arrow"))
    done = run_all(task, ranking.ranges, engine, "write digests").whole("run it again")
    digests = by_number(own, [report.item for report in done.reports], DIGESTS, done.rows, ranges.END, engine)
    again = Repeats(own, digests, -(-len(pool) // BUCKET))
    done = run_all(again, range(again.of), engine, "find equal codes").whole("run it again")
    return Equal(by_number(own, [report.item for report in done.reports], SCHEMA, done.rows, len(pool), engine))


def write_shared(folder: Folder, name: str, digests: np.ndarray) -> int:
    """Write the rows whose digest another row has, and the first of all that have it, by row; how many these are.
    digests: uint64 [3, rows]."""
    low, high, rows = digests[:, np.lexsort(digests[::-1])]
    new = np.ones(len(rows) + 1, bool)
    new[1:-1] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    starts = np.flatnonzero(new)
    sizes = np.diff(starts)
    several = np.repeat(sizes > 1, sizes)
    best = np.repeat(rows[starts[:-1]], sizes)[several].astype(np.int64)
    ranges.write(folder, name, pa.table([rows[several], best], schema=SCHEMA).sort_by("row"), "row")
    return len(best)


def digests_of(number: int) -> str:
    return f"digests/{number:05d}.arrow"


def listed_of(digest: str) -> str:
    return f"listed-{digest}.npy"
