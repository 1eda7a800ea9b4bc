"""A sample of rows measured by the references, beside what the signals stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate import named
from curate.dataset import Dataset
from curate.errors import BadShard, CurateError
from curate.measure import embedding_name
from curate.shard import Shard
from curate.verify.decisions import Cut
from curate.work import Report

KIND = "verify.references"
SCHEMA = pa.schema([("uid", pa.string()), ("signal", pa.string()), ("column", pa.string()), ("stored", pa.string()),
                    ("reference", pa.string()), ("difference", pa.float64())])  # fmt: skip


@dataclass(frozen=True)
class Part:
    """The rows of one shard that were drawn."""

    shard: Shard
    uids: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.shard)


def draw(dataset: Dataset, signals: Sequence[str], number: int, seed: int) -> list[Part]:
    """The rows, measured by all `signals`, with the smallest seeded hashes of their uids. Raises CurateError where
    there is none."""
    best: list[tuple[int, str, Shard]] = []
    for shard in dataset.shards:
        if not is_measured(dataset, shard, signals):
            continue
        uids = dataset.folder.read_table(f"signals/{signals[0]}/{shard.name}.parquet", ["uid"])["uid"].to_pylist()
        hashed = [(xxhash.xxh3_64_intdigest(uid.encode(), seed), uid, shard) for uid in uids]
        best = sorted([*best, *hashed], key=lambda row: row[:2])[:number]
    if not best:
        raise CurateError(f"no shard of {dataset.url} holds {', '.join(signals)} of any row; run: curate measure")
    drawn: dict[Shard, list[str]] = {}
    for _, uid, shard in best:
        drawn.setdefault(shard, []).append(uid)
    return [Part(shard, tuple(sorted(drawn[shard]))) for shard in sorted(drawn, key=str)]


def is_measured(dataset: Dataset, shard: Shard, signals: Sequence[str]) -> bool:
    return all(dataset.folder.exists(f"signals/{signal}/{shard.name}.parquet") for signal in signals)


@dataclass(frozen=True)
class Remeasure:
    """Write SCHEMA of one part, a row for each value, as <scratch>/<shard>.parquet."""

    dataset: Dataset
    signals: tuple[str, ...]
    cuts: tuple[Cut, ...]
    scratch: str

    def __call__(self, part: Part) -> Report:
        shard = part.shard
        table = self.dataset.joined(shard, self._needed(shard))
        places = pc.index_in(pa.array(part.uids, pa.string()), value_set=table["uid"].combine_chunks())
        if places.null_count:
            raise BadShard(f"{shard}: its signals hold {places.null_count} rows that it does not; measure again")
        table = table.take(places)
        with shard.images() as encoded:
            absent = next((key for key in table["key"].to_pylist() if key not in encoded), None)
            if absent:
                raise BadShard(f"{shard}: its tar lacks the image {absent}")
            images = [encoded[key] for key in table["key"].to_pylist()]
        found = self._found(shard, table, images, places.to_numpy())
        again = table
        for (_, name), values in found.items():
            again = again.set_column(again.column_names.index(name), name, values)
        rows = [row | {"signal": signal, "column": name} for (signal, name), values in found.items()
                for row in compared(table["uid"], table[name], values)]  # fmt: skip
        shard.folder.write_table(f"{self.scratch}/{shard.name}.parquet", pa.Table.from_pylist(rows, SCHEMA))
        return Report(str(shard), len(table), {"flipped": self._flipped(table, again)})

    def _needed(self, shard: Shard) -> list[str]:
        """The signals verified, and those whose columns the cuts read."""
        needed = []
        for signal in self.dataset.signals:
            if shard.folder.exists(f"signals/{signal}/{shard.name}.parquet"):
                columns = self.dataset.measured(shard, signal).column_names
                if signal in self.signals or any(cut.expression.used(columns) for cut in self.cuts):
                    needed.append(signal)
        return needed

    def _found(self, shard: Shard, table: pa.Table, images: list[bytes], places: np.ndarray
               ) -> dict[tuple[str, str], pa.Array]:  # fmt: skip
        """The references' values by signal and stored column, in the type of that."""
        found = {}
        for signal in self.signals:
            plain = reference(self.dataset.signals[signal])
            if hasattr(plain, "of"):
                values = plain.measure_embeddings(shard.folder.read_array(embedding_name(plain.of, shard))[places])
            else:
                values = plain.measure(images, table["caption"].to_pylist())
            for name, column in values.items():
                name = column_of(self.dataset, signal, name)
                kind = table.schema.field(name).type if name in table.column_names else pa.null()
                try:
                    found[signal, name] = pa.array(column, kind)
                except (pa.ArrowInvalid, TypeError) as error:
                    raise BadShard(f"{shard}: signals/{signal} holds {kind} as {name}, which is not what it measures; "
                                   "delete it and measure again") from error  # fmt: skip
        return found

    def _flipped(self, table: pa.Table, again: pa.Table) -> int:
        kept = [np.logical_and.reduce([cut.passed(rows) for cut in self.cuts]) for rows in (table, again)]
        return int(np.sum(kept[0] != kept[1]))


@lru_cache(maxsize=16)
def reference(spec: str) -> Any:
    """The reference of a signal. Raises CurateError where it is not to be had."""
    return named.load(KIND, spec)


def column_of(dataset: Dataset, signal: str, name: str) -> str:
    """The stored column that a reference calls `name`: it carries the signal's alias."""
    return signal + name.removeprefix(named.parse(dataset.signals[signal]).name)


def compared(uids: pa.ChunkedArray, stored: pa.ChunkedArray, found: pa.Array) -> list[dict[str, Any]]:
    """Rows of SCHEMA but for signal and column. The difference is that of the numbers, or the bits that differ, NaN
    where only one has a value."""
    triples = zip(uids.to_pylist(), stored.to_pylist(), found.to_pylist(), strict=True)
    return [{"uid": uid, "stored": _shown(left), "reference": _shown(right),
             "difference": difference(left, right)} for uid, left, right in triples]  # fmt: skip


def difference(left: Any, right: Any) -> float:
    if left is None or right is None:
        return 0.0 if left is right else float("nan")
    if isinstance(left, bytes):
        return float((int.from_bytes(left) ^ int.from_bytes(right)).bit_count())
    return abs(float(left) - float(right))


def _shown(value: Any) -> str | None:
    return value.hex() if isinstance(value, bytes) else None if value is None else f"{value:.9g}"
