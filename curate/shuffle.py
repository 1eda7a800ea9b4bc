"""Many sorted files become few for each range: every task reads one range of at most FAN files and writes it as one.

A pool of 90,000 files gives 90,000 runs, and each of 60,000 buckets needs a little of all of them: 5 billion opens. So
runs are joined FAN at a time, range by range, and the ranges of what that gives again, until no range lies in more than
FAN files. Each level reads and writes every row once and opens FAN files a task; a task holds one bucket of rows, where
the values lie evenly below `end`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from curate import ranges
from curate.files import Folder
from curate.work import Engine, Outcome, Report, run_all

FAN = 128  # files that one task reads from
BUCKET_ROWS = 500_000  # rows that one task holds, about: 200 MB while they are sorted
BUCKET_BYTES = 1 << 27  # or so many bytes of urls and texts

Order = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Piece:
    """One of `of` equal ranges of some sorted files, to be written as one file."""

    number: int
    of: int
    sources: tuple[str, ...]
    target: str
    end: int = ranges.END  # all values come before

    def __str__(self) -> str:
        return self.target


@dataclass(frozen=True)
class Gather:
    """Write one piece, sorted."""

    folder: Folder
    state: str  # fingerprint of the sources
    column: str
    order: Order | None = None  # by the column alone; a function of a module, so that it can be pickled

    def __call__(self, piece: Piece) -> Report:
        made_by = {"state": self.state, "of": piece.of}
        if ranges.made_by(self.folder, piece.target) == made_by:
            return Report(piece.target, skipped=True)
        start, stop = ranges.bounds(piece.number, piece.of, piece.end)
        table = ranges.between(self.folder, piece.sources, self.column, start, stop)
        table = self.order(table) if self.order else table.sort_by(self.column)
        ranges.write(self.folder, piece.target, table, self.column, made_by)
        return Report(piece.target, len(table))


@dataclass(frozen=True)
class Ranged:
    """Sorted files: files[i] hold the i-th of len(files) equal ranges of what comes before `end`."""

    files: tuple[tuple[str, ...], ...]
    end: int = ranges.END

    def over(self, start: int, stop: int) -> tuple[str, ...]:
        """The files that hold the values start <= value < stop."""
        of = len(self.files)
        first, last = (((value + 1) * of - 1) // self.end for value in (start, min(stop, self.end) - 1))
        return tuple(dict.fromkeys(name for files in self.files[first : last + 1] for name in files))


def pieces_for(rows: int, size: int = 0) -> int:
    """How many ranges hold at most a bucket each: a power of two, so that the ranges of every level nest."""
    needed = max(-(-rows // BUCKET_ROWS), -(-size // BUCKET_BYTES), 1)
    return 1 << (needed - 1).bit_length()


def shuffled(gather: Gather, files: Sequence[str], rows: int, size: int, prefix: str, engine: str | Engine,
             end: int = ranges.END) -> tuple[Ranged, Outcome]:  # fmt: skip
    """Files in which no range lies in more than FAN, and what became of the tasks: nothing to do for FAN files or less.

    `rows` and `size` (bytes) are those of all files together.
    """
    held, level, outcome = Ranged((tuple(files),), end), 0, Outcome()
    while len(held.files[0]) > FAN and not outcome.failures:
        groups = -(-len(held.files[0]) // FAN)
        of = max(len(held.files), pieces_for(-(-rows // groups), -(-size // groups)))
        todo = [
            [
                Piece(number, of, held.files[number * len(held.files) // of][group * FAN : (group + 1) * FAN],
                      f"{prefix}/{level}/{number:06d}-{group:06d}.arrow", end)
                for group in range(groups)
            ]
            for number in range(of)
        ]  # fmt: skip
        outcome = run_all(gather, [piece for pieces in todo for piece in pieces], engine, "shuffle")
        held, level = Ranged(tuple(tuple(piece.target for piece in pieces) for pieces in todo), end), level + 1
    return held, outcome
