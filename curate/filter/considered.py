"""The rows that a run may keep, with no more columns than its rules read."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.dataset import Dataset
from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.shard import Shard

SCHEMA_SHARDS = 8  # a column without a single value in so many shards is taken for an untyped one


@dataclass(frozen=True)
class Considered:
    """The rows that the parent selection keeps, with the columns of some signals and of the shards themselves."""

    dataset: Dataset
    parent: str | None
    signals: tuple[tuple[str, tuple[str, ...]], ...]  # and the columns that are read of each
    columns: tuple[str, ...]  # of the shard's own parquet
    made_by: tuple[tuple[str, str], ...]  # what made each signal, as JSON: the same on every shard
    bare: bool = False  # of one signal, without the uids

    @property
    def names(self) -> list[str]:
        return [*self.columns, *(name for _, columns in self.signals for name in columns)]

    def only(self, names: set[str], uids: bool) -> "Considered":
        """The same rows with no more than these columns; without `uids` their uids may be missing, too."""
        signals = tuple((signal, kept) for signal, columns in self.signals
                        if (kept := tuple(name for name in columns if name in names)))  # fmt: skip
        columns = tuple(name for name in self.columns if name in names)
        bare = not uids and self.parent is None and not columns and len(signals) == 1
        return replace(self, signals=signals, columns=columns, bare=bare)

    def read(self, shard: Shard) -> tuple[pa.Table, np.ndarray]:
        """(uid and the columns, sorted by uid; int32 [rows] weights). Raises BadShard, and CurateError where a signal
        was measured by another model than on the first shard."""
        for signal, made_by in self.made_by:
            check_made_by(shard, signal, made_by)
        if self.bare:
            ((signal, columns),) = self.signals
            table = shard.folder.read_table(f"signals/{signal}/{shard.name}.parquet", list(columns))
            return table, np.ones(len(table), np.int32)
        table = None if self.signals and not self.columns else own_columns(shard, self.columns)
        table = with_signals(shard, table, self.signals)
        kept = self.dataset.kept(shard, self.parent)
        if kept is None:
            return table, np.ones(len(table), np.int32)
        return table.take(places(shard, table, kept, self.parent)), kept["weight"].to_numpy().astype(np.int32)


def kept_rows(dataset: Dataset, shard: Shard, selection: str | None, signals: list[str]) -> tuple[pa.Table, np.ndarray]:
    """The joined rows of a shard that a selection keeps, sorted by uid, and their int32 weights. Raises BadShard where
    the selection names rows that the shard does not hold."""
    table = dataset.joined(shard, signals)
    kept = dataset.kept(shard, selection)
    if kept is None:
        return table, np.ones(len(table), np.int32)
    return table.take(places(shard, table, kept, selection)), kept["weight"].to_numpy().astype(np.int32)


def places(shard: Shard, table: pa.Table, kept: pa.Table, selection: str | None) -> pa.Array:
    """Where the rows that a selection keeps stand in the table. Raises BadShard."""
    found = pa.compute.index_in(kept["uid"].combine_chunks(), value_set=table["uid"].combine_chunks())
    if found.null_count:
        raise BadShard(f"{shard}: selection '{selection}' keeps {found.null_count:,} pairs that this shard does not "
                       f"hold; it was made on other data, select again")  # fmt: skip
    return found


def own_columns(shard: Shard, columns: tuple[str, ...]) -> pa.Table:
    table = shard.rows(columns)
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise BadShard(f"{shard}: its tables lack the column '{absent[0]}' that other shards have")
    return table.select(["uid", *columns])


def with_signals(shard: Shard, table: pa.Table | None, signals: tuple[tuple[str, tuple[str, ...]], ...]) -> pa.Table:
    """The table with columns of signals beside it; their uids must be the table's. Without a table the uids are those
    of the first signal, and another whose uids are the same bytes in its file is not even decoded there."""
    seen = None
    for signal, columns in signals:
        file = f"signals/{signal}/{shard.name}.parquet"
        stored = uid_bytes(shard.folder, file)
        known = stored is not None and stored == seen
        found = shard.folder.read_table(file, [*([] if known else ["uid"]), *columns])
        absent = [name for name in columns if name not in found.column_names]
        if absent:
            raise BadShard(f"{shard}: signals/{signal} lacks the column '{absent[0]}' that other shards have")
        if table is None:
            table, seen = found, stored
            continue
        if not known and not found["uid"].combine_chunks().equals(table["uid"].combine_chunks()):
            raise BadShard(f"{shard}: signals/{signal} was measured on other rows; delete it and measure again")
        for name in columns:
            table = table.append_column(name, found[name])
    assert table is not None
    return table


def uid_bytes(folder: Folder, file: str) -> bytes | None:
    """How the uids lie in a parquet file on a local disk; None elsewhere. The same bytes are the same uids."""
    if not folder.is_local or not folder.exists(file):
        return None
    found = []
    try:
        with pa.memory_map(folder.path(file)) as source:
            about = pq.read_metadata(source)
            place = about.schema.names.index("uid")
            for number in range(about.num_row_groups):
                column = about.row_group(number).column(place)
                source.seek(column.dictionary_page_offset or column.data_page_offset)
                found.append(source.read(column.total_compressed_size))
    except (pa.ArrowInvalid, ValueError):
        return None  # reading it says what is wrong
    return b"".join(found)


def check_made_by(shard: Shard, signal: str, wanted: str) -> None:
    file = f"signals/{signal}/{shard.name}.parquet"
    made_by = shard.folder.made_by(file)
    if made_by is None:
        raise BadShard(f"{shard.folder.url}/{file} is missing")
    size = shard.folder.size(shard.tar)
    if made_by.get("tar_bytes", size) != size:
        raise BadShard(f"{shard}: signals/{signal} was measured on other rows; delete it and measure again")
    found = json.loads(told(made_by))
    expected = json.loads(wanted)
    if found != expected:
        changed = ", ".join(sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key)))
        raise CurateError(f"{shard.folder.url}/{file} was measured with another {changed} than the first shard: the "
                          f"two cannot be ranked together; delete signals/{signal} and measure it again")  # fmt: skip


def told(made_by: dict[str, Any]) -> str:
    """What made a signal, without what is a shard's own."""
    return json.dumps({key: value for key, value in made_by.items() if key != "tar_bytes"}, sort_keys=True)


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
    return Considered(for_tasks(dataset), parent, read, columns, tuple(made_by.items()))


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
        raise trouble
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


def check_tars(dataset: Dataset) -> None:
    """Raises CurateError where a tar that the manifest lists is gone."""
    gone = sorted(set(dataset.manifest["shards"]) - {shard.name for shard in dataset.shards})
    if gone:
        raise CurateError(f"{dataset.url}/shards/{gone[0]}.tar is missing ({len(gone):,} of the shards that "
                          f"manifest.json lists); put it back, or take it out of its list 'shards'")  # fmt: skip


def for_tasks(dataset: Dataset) -> Dataset:
    """The dataset without what grows with its shards, so that it travels with every task at little cost."""
    return replace(dataset, manifest={**dataset.manifest, "shards": [], "history": []}, failures={})
