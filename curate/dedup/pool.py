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
from curate.dedup.codes import Codes, Comparison, packed, read
from curate.dedup.spill import Spill, Texts, blocks
from curate.dedup.whiten import Whitening
from curate.errors import BadShard, CurateError
from curate.shard import Shard

CLIP_DIGITS = 3  # batching on a GPU moves the last digits of a score; they must not choose keepers
KEYS = {"weight": np.int32, "pixels": np.int64, "original": np.int64, "clip": np.float64}


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

    def shard_names(self, rows: np.ndarray) -> list[str]:
        return [self.shards[at].name for at in self.shard_of(rows).tolist()]

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


def collect(dataset: Dataset, compared: Sequence[Comparison], parent: str | None, colours: bool = False) -> Pool:
    """Read what was measured of every row that `parent` keeps; a shard that cannot be read is left out and named.

    Raises CurateError where the shards' codes have different lengths.
    """
    shards: list[Shard] = []
    columns = _Columns()
    failures: dict[str, str] = {}
    for shard in dataset.shards:
        if str(shard) in dataset.failures:
            continue
        try:
            columns.append(_read(dataset, shard, compared, parent, colours))
        except BadShard as error:
            failures[str(shard)] = str(error)
            continue
        shards.append(shard)
    return columns.pool(dataset, shards, failures, colours)


def lengths_differ(comparison: Comparison, lengths: set[int]) -> str:
    signal = comparison.signal
    return f"signals/{signal} holds codes of {sorted(lengths)} columns; delete it and measure again"


def ranked(rows: pa.Table) -> np.ndarray:
    """int64, mapped: the rows, best keeper first: most pixels, most pixels before resizing, best CLIP score (rounded),
    then uid, then shard (the sort is stable)."""
    keys = [("pixels", "descending"), ("original", "descending"), ("clip", "descending"), ("uid", "ascending")]
    order = Spill()
    order.append(pc.sort_indices(rows, sort_keys=keys).to_numpy().view(np.int64))
    return order.mapped()


def ranks(order: np.ndarray) -> np.ndarray:
    """int64 [rows], mapped: the rank of each row, 0 is the best."""
    rank = Spill()
    for part in blocks(len(order)):
        rank.append(np.zeros(part.stop - part.start, np.int64))
    held = rank.mapped()
    for part in blocks(len(order)):
        held[order[part]] = np.arange(part.start, part.stop)
    return held


@dataclass(frozen=True)
class _Part:
    """A shard's share of a pool. keys: what ranks keepers, and the weight."""

    uids: pa.Array
    keys: dict[str, np.ndarray]
    place: np.ndarray
    codes: list[Codes]
    widths: list[int]  # of the codes before they were packed; 0 where only what is packed counts
    moving: np.ndarray
    colours: np.ndarray


class _Columns:
    """The columns of a pool, growing shard by shard."""

    def __init__(self) -> None:
        self.spills: dict[str, Spill] = {}
        self.comparisons: list[Comparison] = []
        self.widths: dict[int, set[int]] = {}
        self.bounds, self.uids = [0], Texts()

    def append(self, part: _Part) -> None:
        self.uids.append(part.uids.to_pylist())
        columns = {"place": part.place.astype(np.int32), "moving": part.moving, "colours": part.colours, **part.keys}
        for at, codes in enumerate(part.codes):
            self.widths.setdefault(at, set()).add(part.widths[at] or codes.values.shape[1])
            columns |= {f"{at} values": codes.values, f"{at} comparable": codes.comparable, f"{at} flat": codes.flat}
        for name, column in columns.items():
            self.spills.setdefault(name, Spill()).append(column)
        self.comparisons = [codes.comparison for codes in part.codes]
        self.bounds.append(self.bounds[-1] + len(part.place))

    def pool(self, dataset: Dataset, shards: list[Shard], failures: dict[str, str], colours: bool) -> Pool:
        """Raises CurateError where the shards' codes have different lengths."""
        for at, comparison in enumerate(self.comparisons):
            if len(self.widths[at]) > 1:
                raise CurateError(lengths_differ(comparison, self.widths[at]))
        held = {name: spill.mapped() for name, spill in self.spills.items()}
        rows = self.bounds[-1]
        keys = {name: held[name] if rows else np.zeros(0, kind) for name, kind in KEYS.items()}
        table = pa.table({"uid": self.uids.mapped()} | {name: pa.array(column) for name, column in keys.items()})
        codes = [Codes(comparison, *(held[f"{at} {of}"] for of in ("values", "comparable", "flat")))
                 for at, comparison in enumerate(self.comparisons)]  # fmt: skip
        return Pool(dataset, shards, np.array(self.bounds), table, held.get("place", np.zeros(0, np.int32)), codes,
                    held.get("moving", np.zeros(0, bool)), held["colours"] if colours and shards else None,
                    failures)  # fmt: skip


def _read(dataset: Dataset, shard: Shard, compared: Sequence[Comparison], parent: str | None, colours: bool) -> _Part:
    extra = [name for name in ("clip", "flags") if name in dataset.signals] + (["thumbprint"] if colours else [])
    table = dataset.joined(shard, list(dict.fromkeys([*(comparison.signal for comparison in compared), *extra])))
    kept = dataset.kept(shard, parent)
    considered = np.ones(len(table), bool)
    weight = pa.array(np.ones(len(table), np.int32))
    if kept is not None:
        place = pc.index_in(table["uid"], value_set=kept["uid"].combine_chunks())
        considered = place.is_valid().to_numpy()
        weight = kept["weight"].cast(pa.int32()).take(place)
    ranking = {"weight": weight, "pixels": _product(table, "width", "height"),
               "original": _product(table, "original_width", "original_height"), "clip": _clip(table)}  # fmt: skip
    wanted = pa.array(considered)
    keys = {name: column.filter(wanted).to_numpy().astype(KEYS[name]) for name, column in ranking.items()}
    codes, widths = [], []
    for comparison in compared:
        for found in read(dataset, shard, comparison):
            widths.append(0 if comparison.kind == "equal" else found.values.shape[1])
            codes.append(packed(found).filter(considered))
    uids = table["uid"].cast(pa.string()).filter(wanted).combine_chunks()
    return _Part(
        uids, keys, np.flatnonzero(considered), codes, widths, _moving(table)[considered], _colours(table)[considered]
    )


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
