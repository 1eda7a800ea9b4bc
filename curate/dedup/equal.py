"""Which rows of a pool have equal codes: of a few million by a sort of their digests, of more by a task for each range
of digests.

The driver writes the digests in sorted files, so that a task reads its range of each and says which rows share one.
Whether the codes of these are equal, too, is then seen from the codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from curate.dedup.ascending import find
from curate.dedup.buckets import PRIME
from curate.dedup.codes import Codes, binary
from curate.dedup.spill import BLOCK, Spill, blocks
from curate.files import Folder
from curate.work import Engine, Report, run_all

PART = 4 * BLOCK  # rows whose digests are sorted at once and make a file, in 60 MB; a pool of so many needs no task
BUCKET = 2_000_000  # rows in a range, about: 35 bytes each
END = 2**64


@dataclass(frozen=True)
class Repeats:
    """Write the rows that share a digest with another row in one of `of` ranges of digests, unless they are there
    already."""

    folder: Folder
    files: tuple[str, ...]  # uint64 [2, rows]: digests, ascending, and rows
    of: int

    @property
    def name(self) -> str:
        return f"repeats-{xxhash.xxh3_64_hexdigest(' '.join(self.files).encode())[:12]}-{self.of}"

    def __call__(self, number: int) -> Report:
        name = self.output(number)
        if self.folder.exists(name):
            return Report(name, skipped=True)
        digests, rows = np.concatenate([self._range(file, number) for file in self.files], axis=1)
        self.folder.write_array(name, shared(digests, rows.view(np.int64)))
        return Report(name, len(rows))

    def output(self, number: int) -> str:
        return f"{self.name}/{number:05d}.npy"

    def _range(self, file: str, number: int) -> np.ndarray:
        held = self.folder.read_array(file)
        start, stop = number * END // self.of, (number + 1) * END // self.of - 1
        first = np.searchsorted(held[0], np.uint64(start))
        return held[:, first : np.searchsorted(held[0], np.uint64(stop), "right")]


def repeated(codes: Codes, apart: Sequence[np.ndarray], outside: np.ndarray, folder: Folder,
             engine: str | Engine) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(rows, their class) of packed codes that another row has too, by row; rows `outside` have none.

    apart: uint8 [rows, k] each, in which rows of one class are equal too. folder: for what tasks hand on. Holds what
    PART rows need, and the rows that share a digest. Raises CurateError.
    """
    if len(codes) <= PART:
        rows = shared(*_digests(codes, apart, outside, slice(0, len(codes))))
    else:
        parts = (slice(start, min(start + PART, len(codes))) for start in range(0, len(codes), PART))
        files = tuple(_written(folder, *_digests(codes, apart, outside, part)) for part in parts)
        task = Repeats(folder, files, -(-len(codes) // BUCKET))
        run_all(task, range(task.of), engine, "find equal codes").whole("run it again")
        rows = np.sort(np.concatenate([folder.read_array(task.output(number)) for number in range(task.of)]))
    ids = binary(_side_by_side(codes, rows, apart)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    several = np.bincount(ids)[ids] > 1 if len(ids) else np.zeros(0, bool)
    return rows[several], np.unique(ids[several], return_inverse=True)[1].astype(np.int64)


def distinct(codes: Codes, folder: Folder, engine: str | Engine) -> np.ndarray:
    """int64, mapped: the first row of every class of equal codes, ascending."""
    rows, ids = repeated(codes, [], np.zeros(len(codes), bool), folder, engine)
    others = np.delete(rows, np.unique(ids, return_index=True)[1])
    found = Spill()
    for part in blocks(len(codes)):
        own = np.flatnonzero(codes.usable(part)) + part.start
        found.append(own[~find(others, own)[1]])
    return found.mapped() if found.rows else np.zeros(0, np.int64)


def shared(digests: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows, ascending, whose digest another row has. uint64 [n], int64 [n]."""
    order = np.argsort(digests)
    ordered = digests[order]
    twice = np.zeros(len(rows), bool)
    twice[1:] = ordered[1:] == ordered[:-1]
    twice[:-1] |= twice[1:]
    return np.sort(rows[order[twice]])


def _written(folder: Folder, digests: np.ndarray, rows: np.ndarray) -> str:
    """The file of these digests and rows, named by what is in it."""
    said = xxhash.xxh3_64(digests.data)
    said.update(rows.data)
    name = f"digests/{said.hexdigest()}.npy"
    if not folder.exists(name):
        order = np.argsort(digests)
        folder.write_array(name, np.stack([digests[order], rows.view(np.uint64)[order]]))
    return name


def _digests(codes: Codes, apart: Sequence[np.ndarray], outside: np.ndarray,
             part: slice) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """uint64 and int64 [n]: the digest of every usable row of a stretch, and the row."""
    stretches = blocks(part.stop, part.start)
    rows = [np.flatnonzero(codes.usable(each) & ~outside[each]) + each.start for each in stretches]
    digests = [_hashes(_side_by_side(codes, own, apart)) for own in rows]
    return np.concatenate([np.zeros(0, np.uint64), *digests]), np.concatenate([np.zeros(0, np.int64), *rows])


def _side_by_side(codes: Codes, rows: np.ndarray, apart: Sequence[np.ndarray]) -> np.ndarray:
    more = [column[rows].reshape(len(rows), int(np.prod(column.shape[1:]))).view(np.uint8) for column in apart]
    parts = [codes.values[rows], *more]
    return np.ascontiguousarray(np.hstack(parts)) if apart else np.ascontiguousarray(parts[0])


def _hashes(held: np.ndarray) -> np.ndarray:
    """uint64 [n] of uint8 [n, width]."""
    padded = np.pad(held, ((0, 0), (0, -held.shape[1] % 8))).view(np.uint64)
    mixed = np.full(len(held), held.shape[1], np.uint64)
    for word in padded.T:
        mixed = (mixed ^ word) * PRIME
        mixed ^= mixed >> np.uint64(29)
    return mixed
