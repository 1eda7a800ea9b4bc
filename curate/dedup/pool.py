"""The rows that a dedup run considers, over all shards, with their codes and their rank as keepers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset
from curate.dedup.codes import Codes, Comparison, joined, read
from curate.errors import BadShard
from curate.shard import Shard

CLIP_DIGITS = 3  # batching on a GPU moves the last digits of a score; they must not choose keepers
ROWS = pa.schema(
    [("uid", pa.string()), ("weight", pa.int32()), ("pixels", pa.int64()), ("original", pa.int64()),
     ("clip", pa.float64()), ("shard", pa.string())]
)  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """rows: one for each pair, shard by shard, by uid within each. codes: one for each compared column."""

    shards: list[Shard]
    bounds: np.ndarray  # int64 [shards + 1]: where the rows of each shard begin
    rows: pa.Table
    codes: list[Codes]
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


def collect(dataset: Dataset, compared: Sequence[Comparison], parent: str | None) -> Pool:
    """Read what was measured of every row that `parent` keeps; a shard that cannot be read is left out and named."""
    shards, tables, codes = [], [], []
    failures: dict[str, str] = {}
    for shard in dataset.shards:
        if str(shard) in dataset.failures:
            continue
        try:
            table, own = _read(dataset, shard, compared, parent)
        except BadShard as error:
            failures[str(shard)] = str(error)
            continue
        shards.append(shard)
        tables.append(table)
        codes.append(own)
    bounds = np.cumsum([0, *map(len, tables)])
    rows = pa.concat_tables([ROWS.empty_table(), *tables]).combine_chunks()
    return Pool(shards, bounds, rows, [joined(parts) for parts in zip(*codes, strict=True)], failures)


def ranked(rows: pa.Table) -> np.ndarray:
    """The rows, best keeper first: most pixels, most pixels before resizing, best CLIP score (rounded), then uid."""
    keys = [("pixels", "descending"), ("original", "descending"), ("clip", "descending"), ("uid", "ascending"),
            ("shard", "ascending")]  # fmt: skip
    return pc.sort_indices(rows, sort_keys=keys).to_numpy().astype(np.int64)


def _read(
    dataset: Dataset, shard: Shard, compared: Sequence[Comparison], parent: str | None
) -> tuple[pa.Table, list[Codes]]:
    signals = list(dict.fromkeys([comparison.signal for comparison in compared]))
    table = dataset.joined(shard, [*signals, *(["clip"] if "clip" in dataset.signals else [])])
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
    rows = pa.table(columns, schema=ROWS).filter(pa.array(considered))
    codes = [found for comparison in compared for found in read(dataset, shard, comparison)]
    return rows, [found.filter(considered) for found in codes]


def _product(table: pa.Table, width: str, height: str) -> pa.ChunkedArray | pa.Array:
    if width not in table.column_names or height not in table.column_names:
        return pa.array(np.zeros(len(table), np.int64))
    product = pc.multiply(table[width].cast(pa.float64()), table[height].cast(pa.float64()))
    return pc.fill_null(product, 0).cast(pa.int64())


def _clip(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    if "clip" not in table.column_names:
        return pa.array(np.full(len(table), -np.inf))
    return pc.fill_null(pc.round(table["clip"].cast(pa.float64()), CLIP_DIGITS), -np.inf)
