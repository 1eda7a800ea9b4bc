"""The rows that a dedup run considers, over all shards, with their codes and their rank as keepers.

Vectors stay in their files: a pool holds their digests, and reads those it compares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset
from curate.dedup.codes import Codes, Comparison, digested, joined, read
from curate.dedup.whiten import Whitening
from curate.errors import BadShard, CurateError
from curate.shard import Shard

CLIP_DIGITS = 3  # batching on a GPU moves the last digits of a score; they must not choose keepers
ROWS = pa.schema(
    [("uid", pa.string()), ("weight", pa.int32()), ("pixels", pa.int64()), ("original", pa.int64()),
     ("clip", pa.float64()), ("shard", pa.string())]
)  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """rows: one for each pair, shard by shard, by uid within each. codes: one for each compared column; of vectors
    only digests. moving: bool [rows], animated files, where "flags" was measured. colours: uint8 [rows, 8, 8, 3], where
    they tell pictures apart."""

    dataset: Dataset
    shards: list[Shard]
    bounds: np.ndarray  # int64 [shards + 1]: where the rows of each shard begin
    rows: pa.Table
    place: np.ndarray  # int64 [rows]: where each row stands among all rows of its shard
    codes: list[Codes]
    moving: np.ndarray
    colours: np.ndarray | None
    failures: dict[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, shards: pa.ChunkedArray, uids: pa.ChunkedArray) -> np.ndarray:
        """int64: the row of each (shard name, uid), -1 where the pool does not hold it."""
        found = np.full(len(uids), -1, np.int64)
        wanted = np.asarray(shards.to_pylist(), object)
        for at, shard in enumerate(self.shards):
            asked = np.flatnonzero(wanted == shard.name)
            if len(asked):
                held = self.rows["uid"].slice(self.bounds[at], self.bounds[at + 1] - self.bounds[at])
                place = pc.index_in(uids.take(pa.array(asked)), value_set=held.combine_chunks())
                found[asked] = pc.fill_null(pc.add(place, int(self.bounds[at])), -1).to_numpy()
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


def collect(dataset: Dataset, compared: Sequence[Comparison], parent: str | None, colours: bool = False) -> Pool:
    """Read what was measured of every row that `parent` keeps; a shard that cannot be read is left out and named.

    Raises CurateError where the shards' codes have different lengths.
    """
    shards, found = [], []
    failures: dict[str, str] = {}
    lengths: dict[str, set[int]] = {comparison.signal: set() for comparison in compared}
    for shard in dataset.shards:
        if str(shard) in dataset.failures:
            continue
        try:
            found.append(_read(dataset, shard, compared, parent, colours, lengths))
        except BadShard as error:
            failures[str(shard)] = str(error)
            continue
        shards.append(shard)
    for comparison in compared:
        if len(lengths[comparison.signal]) > 1:
            raise CurateError(lengths_differ(comparison, lengths[comparison.signal]))
    bounds = np.cumsum([0, *(len(part.rows) for part in found)])
    rows = pa.concat_tables([ROWS.empty_table(), *(part.rows for part in found)]).combine_chunks()
    codes = [joined(parts) for parts in zip(*(part.codes for part in found), strict=True)]
    none = np.zeros(0, np.int64)
    return Pool(dataset, shards, bounds, rows, np.concatenate([none, *(part.place for part in found)]), codes,
                np.concatenate([none.astype(bool), *(part.moving for part in found)]),
                np.concatenate([part.colours for part in found]) if colours and found else None, failures)  # fmt: skip


def lengths_differ(comparison: Comparison, lengths: set[int]) -> str:
    signal = comparison.signal
    return f"signals/{signal} holds codes of {sorted(lengths)} columns; delete it and measure again"


def ranked(rows: pa.Table) -> np.ndarray:
    """The rows, best keeper first: most pixels, most pixels before resizing, best CLIP score (rounded), then uid."""
    keys = [("pixels", "descending"), ("original", "descending"), ("clip", "descending"), ("uid", "ascending"),
            ("shard", "ascending")]  # fmt: skip
    return pc.sort_indices(rows, sort_keys=keys).to_numpy().astype(np.int64)


@dataclass(frozen=True)
class _Part:
    """A shard's share of a pool."""

    rows: pa.Table
    place: np.ndarray
    codes: list[Codes]
    moving: np.ndarray
    colours: np.ndarray


def _read(dataset: Dataset, shard: Shard, compared: Sequence[Comparison], parent: str | None, colours: bool,
          lengths: Mapping[str, set[int]]) -> _Part:  # fmt: skip
    extra = [name for name in ("clip", "flags") if name in dataset.signals] + (["thumbprint"] if colours else [])
    table = dataset.joined(shard, list(dict.fromkeys([*(comparison.signal for comparison in compared), *extra])))
    kept = dataset.kept(shard, parent)
    considered = np.ones(len(table), bool)
    weight = pa.array(np.ones(len(table), np.int32))
    if kept is not None:
        place = pc.index_in(table["uid"], value_set=kept["uid"].combine_chunks())
        considered = place.is_valid().to_numpy()
        weight = kept["weight"].cast(pa.int32()).take(place)
    columns = [table["uid"].cast(pa.string()), weight, _product(table, "width", "height"),
               _product(table, "original_width", "original_height"), _clip(table),
               pa.array([shard.name] * len(table), pa.string())]  # fmt: skip
    codes = []
    for comparison in compared:
        for found in read(dataset, shard, comparison):
            if comparison.kind != "equal":
                lengths[comparison.signal].add(found.values.shape[1])
            codes.append((digested(found) if comparison.kind == "cosine" else found).filter(considered))
    return _Part(pa.table(columns, schema=ROWS).filter(pa.array(considered)), np.flatnonzero(considered), codes,
                 _moving(table)[considered], _colours(table)[considered])  # fmt: skip


def _moving(table: pa.Table) -> np.ndarray:
    if "flags_animated" not in table.column_names:
        return np.zeros(len(table), bool)
    return pc.fill_null(table["flags_animated"], False).to_numpy()


def _colours(table: pa.Table) -> np.ndarray:
    """uint8 [rows, 8, 8, 3]; zeros where there are none."""
    if "thumbprint" not in table.column_names:
        return np.zeros((len(table), 0), np.uint8)
    values = b"".join(value or bytes(192) for value in table["thumbprint"].to_pylist())
    return np.frombuffer(values, np.uint8).reshape(-1, 8, 8, 3)


def _product(table: pa.Table, width: str, height: str) -> pa.ChunkedArray | pa.Array:
    if width not in table.column_names or height not in table.column_names:
        return pa.array(np.zeros(len(table), np.int64))
    product = pc.multiply(table[width].cast(pa.float64()), table[height].cast(pa.float64()))
    return pc.fill_null(product, 0).cast(pa.int64())


def _clip(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    if "clip" not in table.column_names:
        return pa.array(np.full(len(table), -np.inf))
    return pc.fill_null(pc.round(table["clip"].cast(pa.float64()), CLIP_DIGITS), -np.inf)
