"""The rows that a dedup run considers, over all shards: a row is a number, its rank as a keeper, 0 the best.

What is known of rows lies in files of the dataset, by shard and by range of ranks, and tasks read it; the driver asks
for the few that are like another. Vectors stay where they are: a pool holds their digests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset, fingerprint
from curate.dedup.codes import Comparison, read
from curate.dedup.ranking import SORTED_BY, Part, Ranking, keys_of, rank, record, uids_of
from curate.dedup.shard_rows import COLOURS, ReadRows
from curate.dedup.whiten import Whitening
from curate.errors import CurateError
from curate.shard import Shard
from curate.work import Engine, run_all


@dataclass(frozen=True)
class Column:
    """One compared column of one signal; of vectors their digests. name: in the files of rows. bytes: of a code."""

    comparison: Comparison
    name: str
    bytes: int

    @property
    def values(self) -> str:
        return f"{self.name} values"

    @property
    def usable(self) -> str:
        return f"{self.name} usable"


@dataclass(frozen=True)
class Pool:
    """bounds: int64 [shards + 1], how many rows the shards before each have. moving: whether any row is animated, where
    "flags" was measured; colours: whether they tell pictures apart. undecodable: rows without a hash of the picture."""

    dataset: Dataset
    shards: list[Shard]
    bounds: np.ndarray
    ranking: Ranking
    codes: list[Column]
    moving: bool
    colours: bool
    undecodable: int
    failures: dict[str, str]
    source: str  # folder in the dataset of what was read of each shard; it may go once the selection is written

    def __len__(self) -> int:
        return len(self.ranking)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """int64: where each row stands among those of all shards."""
        return self.ranking.take(rows, "keys")[:, -1].astype(np.int64)

    def shard_of(self, places: np.ndarray) -> np.ndarray:
        """int64: the place in `shards` of the shard that holds each of these places."""
        return np.searchsorted(self.bounds, places, "right") - 1

    def uids(self, rows: np.ndarray) -> pa.StringArray:
        return uids_of(self.ranking.take(rows, "keys"))

    def find(self, shards: pa.ChunkedArray, uids: pa.ChunkedArray) -> np.ndarray:
        """int64: the row of each (shard name, uid), -1 where the pool does not hold it."""
        found = np.full(len(uids), -1, np.int64)
        wanted = np.asarray(shards.to_pylist(), object)
        for part in self.parts():
            asked = np.flatnonzero(wanted == part.shard.name)
            if len(asked):
                held = self.rows_of(part.shard, SORTED_BY)
                place = pc.index_in(uids.take(pa.array(asked)), value_set=held["uid"].combine_chunks())
                asked = asked[place.is_valid().to_numpy()]
                keys = keys_of(held, part.first, self.ranking.like["keys"].shape[0])
                found[asked] = self.ranking.find(keys[place.drop_null().to_numpy()])
        return found

    def parts(self) -> list[Part]:
        return [Part(shard, first) for shard, first in zip(self.shards, self.bounds.tolist())]

    def rows_of(self, shard: Shard, columns: list[str]) -> pa.Table:
        """Columns of what was read of a shard. Raises BadShard."""
        return self.dataset.folder.read_table(f"{self.source}/{shard.name}.parquet", columns)

    def in_shards(self, places: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Of places among the rows of all shards: each shard that holds some, by number, where these stand in `places`,
        and which rows of `shard.rows()` they are."""
        order, found = np.argsort(places, kind="stable"), []
        bounds = np.searchsorted(places[order], self.bounds)
        for at in np.flatnonzero(np.diff(bounds)).tolist():
            own = order[bounds[at] : bounds[at + 1]]
            held = self.rows_of(self.shards[at], ["place"])["place"].to_numpy()
            found.append((at, own, held[places[own] - self.bounds[at]]))
        return found

    def vectors(self, comparison: Comparison, rows: np.ndarray, whitening: Whitening | None = None) -> np.ndarray:
        """float32 unit vectors [n, d] of some rows, in any order, read from their files. Raises BadShard."""
        found: np.ndarray | None = None
        for at, own, places in self.in_shards(self.places(rows)):
            held = vectors_of(self.dataset, self.shards[at], comparison, places, whitening)
            found = np.zeros((len(rows), held.shape[1]), np.float32) if found is None else found
            if held.shape[1] != found.shape[1]:
                raise CurateError(lengths_differ(comparison, {held.shape[1], found.shape[1]}))
            found[own] = held
        return np.zeros((0, 1), np.float32) if found is None else found


def vectors_of(dataset: Dataset, shard: Shard, comparison: Comparison, rows: np.ndarray,
               whitening: Whitening | None) -> np.ndarray:  # fmt: skip
    """float32 unit vectors [n, d] of some rows of a shard, whitened where that is wanted. Raises BadShard."""
    found = read(dataset, shard, comparison)[0].values[rows]
    return found if whitening is None else whitening.apply(found)


def collect(dataset: Dataset, compared: Sequence[Comparison], parent: str | None, colours: bool = False,
            engine: str | Engine = "local") -> Pool:  # fmt: skip
    """Rank what was measured of every row that `parent` keeps; a shard that cannot be read is left out and named.

    Raises CurateError where the shards' codes have different lengths.
    """
    task = ReadRows(dataset, tuple(compared), parent, colours)
    wanted = [shard for shard in dataset.shards if str(shard) not in dataset.failures]
    done = run_all(task, wanted, engine, "read rows")
    shards = [shard for shard in wanted if str(shard) not in done.failures]
    rows = [report.rows for report in done.reports]
    codes = _columns(compared, [report.counts for report in done.reports])
    columns: dict[str, Any] = {"moving": np.bool_, **({"colours": (np.uint8, COLOURS)} if colours else {})}
    for column in codes:
        columns |= {column.values: (np.uint8, (column.bytes,)), column.usable: np.bool_}
    like = record(max([1, *(-(-int(report.counts["uid"]) // 8) for report in done.reports)]), columns)
    bounds = np.concatenate(([0], np.cumsum(np.array(rows, np.int64))))
    said = fingerprint([[shard.name, report.counts["made by"]] for shard, report in zip(shards, done.reports)])
    parts = [Part(shard, first) for shard, first in zip(shards, bounds.tolist())]
    ranking = rank(parts, rows, dataset.folder.within(task.folder), said, like, engine)
    return Pool(dataset, shards, bounds, ranking, codes, bool(done.total("moving")), colours,
                int(done.total("undecodable")), done.failures, task.folder)  # fmt: skip


def _columns(compared: Sequence[Comparison], counts: Sequence[dict[str, Any]]) -> list[Column]:
    widths: dict[str, set[int]] = {}
    for each in counts:
        for name in each:
            if name.endswith(" width"):
                widths.setdefault(name.removesuffix(" width"), set()).add(each[name])
    found = []
    for at, number in sorted(tuple(map(int, name.split("."))) for name in widths):
        comparison, name = compared[at], f"{at}.{number}"
        own = widths[name]
        if len(own) > 1:
            raise CurateError(lengths_differ(comparison, own))
        found.append(Column(comparison, name, 16 if comparison.kind == "cosine" else max(own)))
    return found


def lengths_differ(comparison: Comparison, lengths: set[int]) -> str:
    signal = comparison.signal
    return f"signals/{signal} holds codes of {sorted(lengths)} columns; delete it and measure again"
