"""The rows behind the report, column by column: what is known of every pair, and what the selections say of it.

Captions, addresses and lists of queries are counted shard by shard and let go. What stays is, for each pair, its uid
(36 bytes), 14 bytes of verdicts and 1 to 8 bytes for each column; for each host and each query, one counter.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset
from curate.errors import BadShard
from curate.report import tallies
from curate.report.tallies import Tally
from curate.shard import Shard

OWN = ("uid", "shard", "considered", "kept", "failed", "reason")  # everything else in the table is a column to show
IDENTITY = {"uid", "key", "url", "caption", "status", "error_message", "sha256", "queries", "selected_by"}
NAMES = 200  # a column of words with more different values, and more than a quarter of its rows, holds names
ELSEWHERE = 63  # the bit of `failed` for pairs that a later selection drops


@dataclass
class Chosen:
    """What one selection says: how many it considered and kept, and why it dropped the others."""

    name: str
    stage: str
    parent: str | None
    of: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def told(self) -> dict[str, Any]:
        ranked = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return {**vars(self), "reasons": dict(ranked)}


@dataclass
class Rows:
    """`table`: uid, shard (index), considered (by the newest filter; else kept), kept (by the last selection), failed
    (uint64, bit i: step i of the filter drops it), reason, then the columns; `duplicates`: uid, keeper, signal,
    distance ... of the pairs that the newest dedup dropped; `owners`: column -> spec of the signal that measured it."""

    table: pa.Table
    selections: list[Chosen]
    duplicates: pa.Table
    owners: dict[str, str]
    hosts: Tally
    queries: Tally
    complete: bool  # every step's verdict is known; False for selections of older versions
    failures: dict[str, str]

    @property
    def columns(self) -> list[str]:
        return sorted(set(self.table.column_names) - set(OWN))

    def fold(self, named: set[str]) -> dict[str, str]:
        """Drop every column that holds the same values as another one; dropped -> which one stays: one that a step
        names, else one that a signal measured."""
        ranked = sorted(self.columns, key=lambda name: (name not in named, name not in self.owners, name))
        stays: list[str] = []
        same: dict[str, str] = {}
        for name in ranked:
            twin = next((one for one in stays if self.table[one].equals(self.table[name])), None)
            if twin is not None and name not in named:
                same[name] = twin
            else:
                stays.append(name)
        self.table = self.table.drop_columns(list(same))
        return same


def chain(dataset: Dataset, selection: str | None) -> list[str]:
    """A selection and those it was made from, oldest first."""
    found = []
    while selection is not None:
        found.append(selection)
        selection = dataset.manifest["selections"][selection]["parent"]
    return found[::-1]


def read(dataset: Dataset, selection: str | None) -> Rows:
    """Every row that has an image, seen from a selection (None: everything is kept). A damaged shard is left out and
    named in `failures`."""
    about = dataset.manifest["selections"]
    names = chain(dataset, selection)
    reader = _Reader(dataset, [Chosen(name, about[name]["stage"], about[name]["parent"]) for name in names])
    reader.failures |= {str(shard): f"{dataset.url}/{shard.tar} is missing; put it back" for shard in dataset.gone}
    for index, shard in enumerate(dataset.shards):
        try:
            reader.add(index, shard)
        except BadShard as error:
            reader.failures[str(shard)] = str(error)
    return reader.rows()


@dataclass
class _Reader:
    dataset: Dataset
    selections: list[Chosen]
    parts: list[pa.Table] = field(default_factory=list)
    duplicates: list[pa.Table] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  # columns that turned out to hold names
    hosts: Tally = field(default_factory=Tally)
    queries: Tally = field(default_factory=Tally)
    complete: bool = True
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, index: int, shard: Shard) -> None:
        shown = [name for name in usable(shard.schema()) if name not in IDENTITY]
        table = shard.rows([*shown, "url", "caption", "queries"])
        columns = {name: table[name] for name in shown}
        columns |= self._measured(shard, table["uid"])
        columns |= tallies.derived(table, columns)
        choices = [self._choice(chosen, shard) for chosen in self.selections]
        verdicts = self._verdicts(table["uid"], choices)
        kept = verdicts["kept"].to_numpy(zero_copy_only=False)
        considered = verdicts["considered"].to_numpy(zero_copy_only=False)
        for chosen, choice in zip(self.selections, choices, strict=True):
            self._count(chosen, choice, index)
        self.hosts.add(tallies.hosts(table["url"]), considered, kept)
        if "queries" in table.column_names:
            self.queries.add(table["queries"], considered, kept)
        places = pa.array(np.full(len(table), index, np.int32))
        self.parts.append(pa.table({"uid": table["uid"], "shard": places, **verdicts, **self._slim(columns)}))

    def _measured(self, shard: Shard, uids: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
        found = {}
        for signal, spec in self.dataset.signals.items():
            name = self.dataset.table_of(shard, signal)
            wanted = usable(shard.folder.schema(name))
            table = shard.folder.read_table(name, list(dict.fromkeys(["uid", *wanted])))
            if not table["uid"].combine_chunks().equals(uids.combine_chunks()):
                raise BadShard(f"{shard}: signals/{signal} was measured on other rows; delete it and measure again")
            for column in set(wanted) - IDENTITY:
                found[column] = table[column]
                self.owners[column] = spec
        return found

    def _choice(self, chosen: Chosen, shard: Shard) -> pa.Table:
        return shard.folder.read_table(f"selections/{chosen.name}/{shard.name}.parquet")

    def _count(self, chosen: Chosen, choice: pa.Table, index: int) -> None:
        chosen.of += len(choice)
        chosen.kept += int(pc.sum(pc.greater(choice["weight"], 0)).as_py() or 0)
        for row in pc.value_counts(choice["reason"].drop_null().cast(pa.string())).to_pylist():
            chosen.reasons[row["values"]] += row["counts"]
        newest = next(one for one in reversed(self.selections) if one.stage == chosen.stage)
        if "keeper" in choice.column_names and chosen is newest:
            found = choice.filter(pc.is_valid(choice["keeper"]))
            self.duplicates.append(found.append_column("shard", pa.array(np.full(len(found), index, np.int32))))

    def _verdicts(self, uids: pa.ChunkedArray, choices: list[pa.Table]) -> dict[str, pa.Array]:
        """considered, kept, failed and reason of each row."""
        count = len(uids)
        kept, considered = np.ones(count, bool), np.ones(count, bool)
        failed = np.zeros(count, np.uint64)
        reason = pa.nulls(count, pa.string())
        filters = [at for at, chosen in enumerate(self.selections) if chosen.stage == "filter"]
        for at, choice in enumerate(choices):
            place = pc.index_in(uids, value_set=choice["uid"].combine_chunks()).combine_chunks()
            there = pc.is_valid(place).to_numpy(zero_copy_only=False)
            weight = pc.fill_null(choice["weight"].take(place), 0).to_numpy()
            kept &= there & (weight > 0)
            reason = pc.coalesce(reason, choice["reason"].cast(pa.string()).take(place).combine_chunks())
            if filters and at == filters[-1]:
                considered = there
                failed = self._failed(choice).take(place).fill_null(0).to_numpy()
        if not filters:
            considered = kept.copy()
        failed = np.where(considered & ~kept & (failed == 0), np.uint64(1 << ELSEWHERE), failed)
        return {"considered": pa.array(considered), "kept": pa.array(kept), "failed": pa.array(failed),
                "reason": reason.dictionary_encode()}  # fmt: skip

    def _failed(self, choice: pa.Table) -> pa.ChunkedArray:
        if "failed" in choice.column_names:
            return choice["failed"]
        self.complete = False
        dropped = pc.equal(choice["weight"], 0)
        return pc.if_else(dropped, pa.scalar(1 << ELSEWHERE, pa.uint64()), pa.scalar(0, pa.uint64()))

    def _slim(self, columns: dict[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
        found = {}
        for name, column in columns.items():
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                column = column.cast(pa.string()).dictionary_encode()
                if column.num_chunks and len(column.unify_dictionaries().chunk(0).dictionary) > max(
                    NAMES, len(column) // 4
                ):
                    self.names.add(name)
            found[name] = column
        return found

    def rows(self) -> Rows:
        parts = [part.drop_columns([n for n in self.names if n in part.column_names]) for part in self.parts]
        table = pa.concat_tables(parts, promote_options="permissive").unify_dictionaries() if parts else _none()
        duplicates = (
            pa.concat_tables(self.duplicates, promote_options="permissive") if self.duplicates else pa.table({})
        )
        return Rows(table, self.selections, duplicates, self.owners, self.hosts, self.queries, self.complete,
                    self.failures)  # fmt: skip


def usable(schema: pa.Schema) -> list[str]:
    """Columns of numbers, words and yes/no."""
    return [column.name for column in schema if _shown(column.type)]


def _shown(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string,
             pa.types.is_large_string)  # fmt: skip
    return any(test(kind) for test in tests)


def _none() -> pa.Table:
    text, flag = pa.array([], pa.string()), pa.array([], pa.bool_())
    return pa.table({"uid": text, "shard": pa.array([], pa.int32()), "considered": flag, "kept": flag,
                     "failed": pa.array([], pa.uint64()), "reason": text.dictionary_encode()})  # fmt: skip
