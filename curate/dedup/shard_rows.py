"""What a dedup run reads of a shard, as one table: uids, what ranks keepers, and codes of a width each.

A task a shard writes it, so that the driver reads no signals and, at the end, the selection is written from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset, fingerprint
from curate.dedup.codes import Codes, Comparison, binary, packed, read
from curate.shard import Shard
from curate.work import Report

CLIP_DIGITS = 3  # batching on a GPU moves the last digits of a score; they must not choose keepers
KEYS = {"weight": np.int32, "pixels": np.int64, "original": np.int64, "clip": np.float64}
COLOURS = (8, 8, 3)  # of a thumbprint, uint8


@dataclass(frozen=True)
class ReadRows:
    """Write the rows of a shard that `parent` keeps, by uid, unless they are there already: uid, KEYS, place (among all
    rows of the shard), moving (animated), colours (where they tell pictures apart), and for column n of comparison m
    "m.n values", "m.n comparable", "m.n flat" and "m.n width", that of the codes before they were packed."""

    dataset: Dataset
    compared: tuple[Comparison, ...]
    parent: str | None
    colours: bool

    def __call__(self, shard: Shard) -> Report:
        made_by = self._made_by(shard)
        if self.dataset.folder.made_by(self.output(shard)) == made_by:
            return Report(str(shard), skipped=True)
        table = self._read(shard)
        self.dataset.folder.write_table(self.output(shard), table, made_by, dictionary=False)
        return Report(str(shard), len(table))

    @property
    def folder(self) -> str:
        return f"work/dedup/rows-{fingerprint([[each.spec for each in self.compared], self.parent, self.colours])}"

    def output(self, shard: Shard) -> str:
        return f"{self.folder}/{shard.name}.parquet"

    def _signals(self) -> list[str]:
        extra = [name for name in ("clip", "flags") if name in self.dataset.signals]
        names = [*(comparison.signal for comparison in self.compared), *extra, *["thumbprint"] * self.colours]
        return list(dict.fromkeys(names))

    def _made_by(self, shard: Shard) -> dict[str, Any]:
        made_by = self.dataset.folder.made_by
        return {
            "signals": {name: made_by(f"signals/{name}/{shard.name}.parquet") for name in self._signals()},
            "parent": made_by(f"selections/{self.parent}/{shard.name}.parquet") if self.parent else None,
        }

    def _read(self, shard: Shard) -> pa.Table:
        table = self.dataset.joined(shard, self._signals())
        kept = self.dataset.kept(shard, self.parent)
        considered = np.ones(len(table), bool)
        weight = pa.array(np.ones(len(table), np.int32))
        if kept is not None:
            place = pc.index_in(table["uid"], value_set=kept["uid"].combine_chunks())
            considered = place.is_valid().to_numpy()
            weight = kept["weight"].cast(pa.int32()).take(place)
        ranking = {"weight": weight, "pixels": _product(table, "width", "height"),
                   "original": _product(table, "original_width", "original_height"), "clip": _clip(table)}  # fmt: skip
        wanted = pa.array(considered)
        columns = {name: column.filter(wanted).to_numpy().astype(KEYS[name]) for name, column in ranking.items()}
        columns |= {"place": np.flatnonzero(considered).astype(np.int32), "moving": _moving(table)[considered]}
        if self.colours:
            columns["colours"] = binary(_colours(table)[considered])
        for at, comparison in enumerate(self.compared):
            for number, found in enumerate(read(self.dataset, shard, comparison)):
                columns |= _columns(f"{at}.{number}", found, considered)
        uids = table["uid"].cast(pa.string()).filter(wanted).combine_chunks()
        return pa.table({"uid": uids} | {name: pa.array(column) for name, column in columns.items()})


def codes_of(held: dict[str, np.ndarray], compared: Sequence[Comparison]) -> list[Codes]:
    """The codes among the columns of a table, each by its name."""
    found = []
    for name in held:
        column, _, of = name.partition(" ")
        if of == "values":
            comparison = compared[int(column.partition(".")[0])]
            found.append(Codes(comparison, held[name], held[f"{column} comparable"], held[f"{column} flat"]))
    return found


def _columns(name: str, codes: Codes, considered: np.ndarray) -> dict[str, Any]:
    held = packed(codes)
    width = held.values.shape[1] if codes.comparison.kind == "equal" else codes.values.shape[1]
    held = held.filter(considered)
    return {f"{name} values": binary(np.ascontiguousarray(held.values)), f"{name} comparable": held.comparable,
            f"{name} flat": held.flat, f"{name} width": np.full(len(held), width, np.int32)}  # fmt: skip


def _moving(table: pa.Table) -> np.ndarray:
    if "flags_animated" not in table.column_names:
        return np.zeros(len(table), bool)
    return pc.fill_null(table["flags_animated"], False).to_numpy()


def _colours(table: pa.Table) -> np.ndarray:
    """uint8 [rows, bytes of a thumbprint]; zeros where there are none."""
    size = int(np.prod(COLOURS))
    values = b"".join(value or bytes(size) for value in table["thumbprint"].to_pylist())
    return np.frombuffer(values, np.uint8).reshape(-1, size)


def _product(table: pa.Table, width: str, height: str) -> pa.ChunkedArray | pa.Array:
    if width not in table.column_names or height not in table.column_names:
        return pa.array(np.zeros(len(table), np.int64))
    product = pc.multiply(table[width].cast(pa.float64()), table[height].cast(pa.float64()))
    return pc.fill_null(product, 0).cast(pa.int64())


def _clip(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    if "clip" not in table.column_names:
        return pa.array(np.full(len(table), -np.inf))
    return pc.fill_null(pc.round(table["clip"].cast(pa.float64()), CLIP_DIGITS), -np.inf)
