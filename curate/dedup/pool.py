"""The rows that a dedup run considers, over all shards, with their codes and their rank as keepers.

A row is a number. What is known of it lies in mapped files (`spill`), so that no memory grows with uids and codes.
Vectors stay where they are: a pool holds their digests, and reads those it compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset
from curate.dedup.codes import Codes, Comparison, numbers, read
from curate.dedup.shard_rows import COLOURS, KEYS, ReadRows, codes_of
from curate.dedup.spill import Spill, Texts
from curate.dedup.whiten import Whitening
from curate.errors import CurateError
from curate.shard import Shard
from curate.work import Engine, run_all


@dataclass(frozen=True)
class Pool:
    """rows: one for each pair, shard by shard, by uid within each: uid, weight and what ranks keepers. codes: one for
    each compared column; of vectors only digests. moving: bool [rows], animated files, where "flags" was measured.
    colours: uint8 [rows, 8, 8, 3], where they tell pictures apart. All of it is mapped."""

    dataset: Dataset
    shards: list[Shard]
    bounds: np.ndarray  # int64 [shards + 1]: where the rows of each shard begin
    rows: pa.Table
    place: np.ndarray  # int32 [rows]: where each row stands among all rows of its shard
    codes: list[Codes]
    moving: np.ndarray
    colours: np.ndarray | None
    failures: dict[str, str]
    source: str  # folder in the dataset of what was read of each shard; it may go once the selection is written

    def __len__(self) -> int:
        return len(self.rows)

    def uids(self, rows: np.ndarray, absent: np.ndarray | None = None) -> pa.Array:
        """The uids of some rows, null where the boolean array `absent` is true."""
        return self.rows["uid"].chunk(0).take(pa.array(rows, pa.int64(), mask=absent)).cast(pa.string())

    def uids_of(self, at: int) -> pa.Array:
        """The uids of a shard's rows."""
        start, stop = self.bounds[at : at + 2].tolist()
        return self.rows["uid"].chunk(0).slice(start, stop - start).cast(pa.string())

    def shard_of(self, rows: np.ndarray) -> np.ndarray:
        """int64: the place in `shards` of the shard that holds each row."""
        return np.searchsorted(self.bounds, rows, "right") - 1

    def find(self, shards: pa.ChunkedArray, uids: pa.ChunkedArray) -> np.ndarray:
        """int64: the row of each (shard name, uid), -1 where the pool does not hold it."""
        found = np.full(len(uids), -1, np.int64)
        wanted = np.asarray(shards.to_pylist(), object)
        for at, shard in enumerate(self.shards):
            asked = np.flatnonzero(wanted == shard.name)
            if len(asked):
                place = pc.index_in(uids.take(pa.array(asked)), value_set=self.uids_of(at))
                found[asked] = pc.fill_null(pc.add(place.cast(pa.int64()), int(self.bounds[at])), -1).to_numpy()
        return found

    def vectors(self, comparison: Comparison, rows: np.ndarray, whitening: Whitening | None = None) -> np.ndarray:
        """float32 unit vectors [n, d] of some rows, in any order, read from their files. Raises BadShard."""
        found: np.ndarray | None = None
        for at, shard in enumerate(self.shards):
            own = np.flatnonzero((rows >= self.bounds[at]) & (rows < self.bounds[at + 1]))
            if len(own):
                held = vectors_of(self.dataset, shard, comparison, self.place[rows[own]], whitening)
                found = np.zeros((len(rows), held.shape[1]), np.float32) if found is None else found
                if held.shape[1] != found.shape[1]:
                    raise CurateError(lengths_differ(comparison, {held.shape[1], found.shape[1]}))
                found[own] = held
        return np.zeros((0, 1), np.float32) if found is None else found


def vectors_of(dataset: Dataset, shard: Shard, comparison: Comparison, rows: np.ndarray,
               whitening: Whitening | None = None) -> np.ndarray:  # fmt: skip
    """float32 unit vectors [n, d] of some rows of a shard. Raises BadShard."""
    found = read(dataset, shard, comparison)[0].values[rows]
    return found if whitening is None else whitening.apply(found)


def collect(dataset: Dataset, compared: Sequence[Comparison], parent: str | None, colours: bool = False,
            engine: str | Engine = "local") -> Pool:  # fmt: skip
    """Read what was measured of every row that `parent` keeps; a shard that cannot be read is left out and named.

    Raises CurateError where the shards' codes have different lengths.
    """
    task = ReadRows(dataset, tuple(compared), parent, colours)
    wanted = [shard for shard in dataset.shards if str(shard) not in dataset.failures]
    failures = run_all(task, wanted, engine, "read rows").failures
    shards = [shard for shard in wanted if str(shard) not in failures]
    spills: dict[str, Spill] = {}
    bounds, uids, widths = [0], Texts(), dict[str, set[int]]()
    for shard in shards:
        table = dataset.folder.read_table(task.output(shard))
        bounds.append(bounds[-1] + len(table))
        uids.append(table["uid"].combine_chunks())
        for name in table.column_names[1:]:
            column = numbers(table[name])
            if name.endswith(" width"):
                widths.setdefault(name, set()).update(column.tolist())
            else:
                spills.setdefault(name, Spill()).append(column)
    for name, found in widths.items():
        if len(found) > 1:
            raise CurateError(lengths_differ(compared[int(name.partition(".")[0])], found))
    held = {name: spill.mapped() for name, spill in spills.items()}
    keys = {name: pa.array(held.get(name, np.zeros(0, kind))) for name, kind in KEYS.items()}
    pictures = held["colours"].reshape(-1, *COLOURS) if "colours" in held else None
    return Pool(dataset, shards, np.array(bounds), pa.table({"uid": uids.mapped()} | keys),
                held.get("place", np.zeros(0, np.int32)), codes_of(held, compared),
                held.get("moving", np.zeros(0, bool)), pictures, failures, task.folder)  # fmt: skip


def lengths_differ(comparison: Comparison, lengths: set[int]) -> str:
    signal = comparison.signal
    return f"signals/{signal} holds codes of {sorted(lengths)} columns; delete it and measure again"
