"""Which rows of a pool have equal codes: of a few by a sort of their digests, of more by a task for each range of
digests.

Tasks write the digests of a range of ranks each in a sorted file, others read a range of digests of each and say which
rows share one. A digest has 128 bits, and stands for the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from curate.dedup.pool import Column, Pool
from curate.dedup.ranking import Ranking
from curate.files import Folder
from curate.work import Engine, Report, run_all

FEW = 1_000_000  # rows whose digests the driver sorts itself, in 60 MB
BUCKET = 1_000_000  # rows in a range of digests, about: 50 bytes each
END = 2**64


@dataclass(frozen=True)
class Listed:
    """Rows that tasks leave out, in a file that its content names: int64, ascending."""

    folder: Folder
    digest: str

    @property
    def name(self) -> str:
        return f"listed-{self.digest}.npy"

    def rows(self) -> np.ndarray:
        return self.folder.read_array(self.name)

    def others(self, ranking: Ranking, number: int, usable: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The records of a range of ranks, where those stand that have a code and are not listed, and the rows of
        these, uint64."""
        held, listed = ranking.records(number), self.rows()
        start, stop = ranking.starts[number : number + 2].tolist()
        wanted = held[usable].copy()
        wanted[listed[slice(*np.searchsorted(listed, [start, stop]).tolist())] - start] = False
        own = np.flatnonzero(wanted)
        return held, own, (own + start).astype(np.uint64)


def listed(folder: Folder, rows: np.ndarray) -> Listed:
    found = Listed(folder, xxhash.xxh3_64_hexdigest(rows.tobytes())[:12])
    if not folder.exists(found.name):
        folder.write_array(found.name, rows)
    return found


@dataclass(frozen=True)
class WriteDigests:
    """Write the digests of what `columns` hold of the rows of a range of ranks, unless they are there already: uint64
    [3, rows], both halves of each, the first ascending, and the row. Rows without a code, and those `outside`, have
    none."""

    folder: Folder
    ranking: Ranking
    usable: str
    columns: tuple[str, ...]
    outside: Listed

    def __call__(self, number: int) -> Report:
        name = digests_of(number)
        if not self.folder.exists(name):
            held = self.digests(number)
            self.folder.write_array(name, held[:, np.argsort(held[0])])
        return Report(name)

    def digests(self, number: int) -> np.ndarray:
        """The same, by row."""
        held, own, rows = self.outside.others(self.ranking, number, self.usable)
        parts = [held[name][own] for name in self.columns]
        parts = [part.reshape(len(own), int(np.prod(part.shape[1:]))).view(np.uint8) for part in parts]
        said = b"".join(map(xxhash.xxh3_128_digest, np.hstack(parts)))
        return np.vstack([np.frombuffer(said, np.uint64).reshape(-1, 2).T, rows])


@dataclass(frozen=True)
class Repeats:
    """Write what `shared` says of one of `of` ranges of digests, unless it is there already."""

    folder: Folder
    files: int
    of: int

    def __call__(self, number: int) -> Report:
        name = self.output(number)
        if self.folder.exists(name):
            return Report(name, skipped=True)
        digests = np.concatenate([self._range(digests_of(file), number) for file in range(self.files)], axis=1)
        self.folder.write_array(name, shared(digests))
        return Report(name, digests.shape[1])

    def output(self, number: int) -> str:
        return f"repeats-{self.of}/{number:05d}.npy"

    def _range(self, file: str, number: int) -> np.ndarray:
        held = self.folder.read_array(file)
        start, stop = number * END // self.of, (number + 1) * END // self.of - 1
        first = np.searchsorted(held[0], np.uint64(start))
        return held[:, first : np.searchsorted(held[0], np.uint64(stop), "right")].copy()  # of a mapped file


def repeated(pool: Pool, column: Column, apart: Sequence[str], outside: np.ndarray, folder: Folder,
             engine: str | Engine) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(rows, ascending, and the best row with the same code) of codes that another row has too. apart: what must be
    equal, too. outside: int64, ascending, rows without a code. folder: for what tasks hand on. Raises CurateError."""
    rows, ranking = listed(folder, outside), pool.ranking
    own = folder.within(f"equal-{ranking.name}-{column.name}-{len(apart)}-{rows.digest}")
    task = WriteDigests(own, ranking, column.usable, (column.values, *apart), rows)
    if len(pool) <= FEW:
        found = [np.zeros((3, 0), np.uint64), *(task.digests(number) for number in ranking.ranges)]
        return _by_row([shared(np.concatenate(found, axis=1))])
    run_all(task, ranking.ranges, engine, "write digests").whole("run it again")
    again = Repeats(own, len(ranking.ranges), -(-len(pool) // BUCKET))
    run_all(again, range(again.of), engine, "find equal codes").whole("run it again")
    return _by_row([own.read_rows(again.output(number)) for number in range(again.of)])


def shared(digests: np.ndarray) -> np.ndarray:
    """int64 [2, k]: the rows whose digest another row has, and the first of all that have it. uint64 [3, rows]."""
    low, high, rows = digests[:, np.lexsort(digests[::-1])]
    new = np.ones(len(rows) + 1, bool)
    new[1:-1] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    starts = np.flatnonzero(new)
    sizes = np.diff(starts)
    several = np.repeat(sizes > 1, sizes)
    return np.stack([rows, np.repeat(rows[starts[:-1]], sizes)])[:, several].astype(np.int64)


def _by_row(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows, best = np.concatenate(parts, axis=1)
    order = np.argsort(rows)
    return rows[order], best[order]


def digests_of(number: int) -> str:
    return f"digests/{number:05d}.npy"
