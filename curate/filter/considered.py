"""The rows that a run may keep, with no more columns than its rules read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from curate.arrow import compute
from curate.dataset import Dataset
from curate.errors import BadShard, CurateError
from curate.files import MADE_BY
from curate.filter import arrays, keys
from curate.filter.uids import Uids, stored
from curate.shard import Shard
from curate.signal_files import changed, check_tar, tar_now, told
from curate.words import counted

SCHEMA_SHARDS = 8  # a column without a single value in so many shards is taken for an untyped one


@dataclass(frozen=True)
class Taken:
    """The rows of a shard that a run looks at, sorted by uid."""

    table: pa.Table  # the columns asked for; `uid` among them where it was asked for or stored nowhere
    weights: np.ndarray | None = None  # int32 [rows]; None: 1 each
    stored: Uids | None = None  # their uids as a file holds them

    def __len__(self) -> int:
        return self.table.num_rows


@dataclass(frozen=True)
class Considered:
    """The rows that the parent selection keeps, with the columns of some signals and of the shards themselves."""

    dataset: Dataset
    parent: str | None
    signals: tuple[tuple[str, tuple[str, ...]], ...]  # and the columns that are read of each
    columns: tuple[str, ...]  # of the shard's own parquet
    made_by: tuple[tuple[str, str], ...]  # what made each signal, as JSON: the same on every shard

    @property
    def names(self) -> list[str]:
        return [*self.columns, *(name for _, columns in self.signals for name in columns)]

    def only(self, names: set[str]) -> "Considered":
        """The same rows with no more than these columns."""
        signals = tuple((signal, kept) for signal, columns in self.signals
                        if (kept := tuple(name for name in columns if name in names)))  # fmt: skip
        return replace(self, signals=signals, columns=tuple(name for name in self.columns if name in names))

    def read(self, shard: Shard, uids: str = "") -> Taken:
        """`uids` asks for the uids: "text", or "stored" where they lie in a file as they are, else text; without it
        they may be missing. Raises BadShard, and CurateError where a signal was measured by another model than on the
        first shard."""
        joined = Joined(shard, own_columns(shard, self.columns) if self.columns or not self.signals else None)
        wanted, places = dict(self.made_by), bool(uids) or self.parent is not None
        for signal, columns in self.signals:
            try:
                joined.add(signal, columns, wanted[signal], places or len(self.signals) > 1)
            except BadShard:
                self.dataset.table_of(shard, signal)  # where it is missing, it says what measures it
                raise
        weights = None if self.parent is None else joined.keep(self.parent)
        stored = joined.stored
        if uids == "text" or (uids and stored is None):
            joined.text()
        table = joined.table
        assert table is not None
        return Taken(table, weights, stored)


class Joined:
    """Tables of a shard that hold the same uids, side by side; uids that are the same bytes in their files are not
    decoded."""

    def __init__(self, shard: Shard, table: pa.Table | None):
        self.shard, self.table = shard, table
        self.stored: Uids | None = None  # where the uids lie as they are
        self._first = ""  # the signal whose they are
        self._rows: str | None = None  # a hash of the rows, as a signal was told of it when it measured them
        self._kept: np.ndarray | None = None  # the rows of that file
        self._tar = tar_now(shard, requests=False)

    def add(self, signal: str, columns: tuple[str, ...], made_by: str, places: bool) -> None:
        """The columns of a signal; with `places` its uids are looked at, unless it says that it was measured on the
        same rows as another. Raises BadShard, CurateError."""
        name = f"signals/{signal}/{self.shard.name}.parquet"
        with self.shard.folder.parquet(name, columns) as (file, source):
            rows = check_made_by(self.shard, signal, file.schema_arrow.metadata or {}, made_by, self._tar)
            known = rows is not None and rows == self._rows and file.metadata.num_rows == len(self.table or ())
            lies = stored(file, source) if places and not known else None
            known = known or self.table is None or (lies is not None and lies.same(self.stored))
            found = file.read([*([] if known else ["uid"]), *columns], use_threads=False)
        absent = [column for column in columns if column not in found.column_names]
        if absent:
            raise BadShard(f"{self.shard}: signals/{signal} lacks the column '{absent[0]}' that other shards have")
        if not known and not found["uid"].combine_chunks().equals(self.text()):
            raise BadShard(f"{self.shard}: signals/{signal} was measured on other rows; delete it and measure again")
        self._rows = rows if self._rows is None else self._rows
        if self.stored is None:
            self._first, self.stored = name, lies
        for column in columns:
            self.table = pa.table({column: found[column]}) if self.table is None else (
                self.table.append_column(column, found[column]))  # fmt: skip

    def keep(self, selection: str) -> np.ndarray:
        """Keep the rows that a selection keeps; their int32 weights. Raises BadShard."""
        assert self.table is not None
        name = f"selections/{selection}/{self.shard.name}.parquet"
        with self.shard.folder.parquet(name) as (file, source):
            lies = stored(file, source)
            known = lies is not None and lies.same(self.stored)
            chosen = file.read(["weight"] if known else ["uid", "weight"], use_threads=False)
        weights = arrays.numbers(chosen["weight"].combine_chunks()).astype(np.int32)
        kept = np.flatnonzero(weights > 0)
        rows = kept
        if not known:
            uids = chosen["uid"].combine_chunks().take(pa.array(kept))
            rows = places(self.shard, self.text(), uids, selection)
        if len(rows) < self.table.num_rows:
            self.table, self.stored, self._kept = self.table.take(pa.array(rows)), None, rows
        return weights[kept]

    def text(self) -> pa.Array:
        """The uids, which are a column of the table from then on."""
        assert self.table is not None
        if "uid" not in self.table.column_names:
            uids = self.shard.folder.read_table(self._first, ["uid"])["uid"].combine_chunks()
            kept = uids if self._kept is None else uids.take(pa.array(self._kept))
            self.table = self.table.append_column("uid", kept)
        return self.table["uid"].combine_chunks()


def kept_rows(dataset: Dataset, shard: Shard, selection: str | None, signals: list[str]) -> tuple[pa.Table, np.ndarray]:
    """The joined rows of a shard that a selection keeps, sorted by uid, and their int32 weights. Raises BadShard where
    the selection names rows that the shard does not hold."""
    table = dataset.joined(shard, signals)
    kept = dataset.kept(shard, selection)
    if kept is None:
        return table, np.ones(len(table), np.int32)
    rows = places(shard, table["uid"].combine_chunks(), kept["uid"].combine_chunks(), selection)
    return table.take(rows), kept["weight"].to_numpy().astype(np.int32)


def places(shard: Shard, uids: pa.Array, kept: pa.Array, selection: str | None) -> np.ndarray:
    """Where the rows that a selection keeps stand among the uids, both sorted. Raises BadShard."""
    if kept.equals(uids):
        return np.arange(len(uids))
    every, wanted = keys.words(uids), keys.words(kept)
    if every is None or wanted is None or not len(every):
        at = compute().index_in(kept, value_set=uids).fill_null(-1).to_numpy()
        missing = at < 0
    else:
        at = np.minimum(np.searchsorted(every[:, 0], wanted[:, 0]), len(every) - 1)
        missing = (every[at] != wanted).any(axis=1)
        if missing.any():  # or they share their first 8 digits with another
            again = compute().index_in(kept.filter(pa.array(missing)), value_set=uids).fill_null(-1).to_numpy()
            at[missing] = again
            missing = at < 0
    if missing.any():
        raise BadShard(f"{shard}: selection '{selection}' keeps {counted(int(missing.sum()), 'pair')} that this shard "
                       f"does not hold; it was made on other data, select again")  # fmt: skip
    return at


def own_columns(shard: Shard, columns: tuple[str, ...]) -> pa.Table:
    table = shard.rows(columns)
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise BadShard(f"{shard}: its tables lack the column '{absent[0]}' that other shards have")
    return table.select(["uid", *columns])


def check_made_by(shard: Shard, signal: str, metadata: Mapping[bytes, bytes], wanted: str, tar: dict[str, Any]
                  ) -> str | None:  # fmt: skip
    """The hash of the rows that a signal was measured on. Raises BadShard where it was measured on another tar than
    there is now, CurateError where another model measured it."""
    made_by = json.loads(metadata.get(MADE_BY, b"{}"))
    check_tar(shard, signal, made_by, tar)
    if (said := told(made_by)) != wanted:
        others = ", ".join(changed(json.loads(said), json.loads(wanted)))
        raise CurateError(f"{shard.folder.url}/signals/{signal}/{shard.name}.parquet was measured with another "
                          f"{others} than the first shard: the two cannot be ranked together; delete "
                          f"signals/{signal} and measure it again")  # fmt: skip
    return made_by.get("rows")


def considered(dataset: Dataset, parent: str | None, used: set[str], owner: dict[str, str]) -> Considered:
    """What a run reads for these columns."""
    signals: dict[str, list[str]] = {}
    for name in sorted(used & set(owner)):
        signals.setdefault(owner[name], []).append(name)
    made_by = {}
    for signal in sorted(signals):
        files = dataset.folder.names(f"signals/{signal}/*.parquet")
        made_by[signal] = told(dataset.folder.made_by(files[0]) or {}) if files else "{}"
    columns = tuple(sorted(used - set(owner) - {"uid"}))
    read = tuple((signal, tuple(names)) for signal, names in sorted(signals.items()))
    return Considered(dataset.light, parent, read, columns, tuple(made_by.items()))


def schema_of(dataset: Dataset) -> tuple[pa.Schema, dict[str, str]]:
    """The columns that every row has, and the signal that each measured one belongs to. Raises BadShard."""
    schema: pa.Schema | None = None
    owner: dict[str, str] = {}
    trouble = BadShard(f"{dataset.url} has no shards")
    for shard in dataset.shards:
        try:
            found, owner = _schema_of(dataset, shard)
        except BadShard as error:
            trouble = error
            continue
        schema = found if schema is None else pa.unify_schemas([schema, found], promote_options="permissive")
        untyped = any(pa.types.is_null(field.type) for field in schema)
        if not untyped or shard in dataset.shards[SCHEMA_SHARDS:]:
            break
    if schema is None:
        gone = [signal for signal in dataset.signals if not dataset.folder.names(f"signals/{signal}/*.parquet")]
        if not gone:
            raise trouble
        left = {name: spec for name, spec in dataset.signals.items() if name not in gone}
        return schema_of(replace(dataset, manifest={**dataset.manifest, "signals": left}))
    return schema.remove_metadata(), owner


def _schema_of(dataset: Dataset, shard: Shard) -> tuple[pa.Schema, dict[str, str]]:
    fields = {field.name: field for field in shard.schema()}
    owner: dict[str, str] = {}
    for signal in dataset.signals:
        for field in dataset.folder.schema(f"signals/{signal}/{shard.name}.parquet"):
            if field.name != "uid":
                fields[field.name] = field
                owner[field.name] = signal
    return pa.schema(list(fields.values())), owner
