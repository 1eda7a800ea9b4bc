"""What a dedup run reads of a shard, as one table: uids, what ranks keepers, and codes of a width each.

A task a shard writes it; all other tasks read it, the one that writes the selection too, and the driver no row of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset, fingerprint
from curate.dedup.codes import Comparison, binary, packed, read
from curate.measure import embedding_name
from curate.shard import Shard
from curate.work import Report

CLIP_DIGITS = 3  # batching on a GPU moves the last digits of a score; they must not choose keepers
KEYS = {"weight": np.int32, "pixels": np.int64, "original": np.int64, "clip": np.float64}
COLOURS = (8, 8, 3)  # of a thumbprint, uint8


@dataclass(frozen=True)
class ReadRows:
    """Write the rows of a shard that `parent` keeps, by uid, unless they are there already: uid, KEYS, place (among all
    rows of the shard), moving (animated), colours (where they tell pictures apart), and for column n of comparison m
    "m.n values" and "m.n usable": which rows have a code that says something of another row's.

    The report counts "uid": bytes of the longest, "moving", "undecodable": rows that lack a hash of their picture,
    "m.n width": that of the codes before they were packed, where there are rows, and "made by": a hash of what did."""

    dataset: Dataset
    compared: tuple[Comparison, ...]
    parent: str | None
    colours: bool

    def __call__(self, shard: Shard) -> Report:
        made_by = self._made_by(shard)
        name = self.output(shard)
        before = self.dataset.folder.made_by(name) or {}
        counts = before.get("counts", {})
        if before == made_by | {"counts": counts}:
            return Report(str(shard), counts["rows"], counts, skipped=True)
        table, counts = self._read(shard)
        counts |= {"rows": len(table), "made by": int(fingerprint(made_by), 16)}
        self.dataset.folder.write_table(name, table, made_by | {"counts": counts}, dictionary=False)
        return Report(str(shard), len(table), counts)

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
            "vectors": [
                _size(shard, embedding_name(each.signal, shard)) for each in self.compared if each.kind == "cosine"
            ],
            "parent": made_by(f"selections/{self.parent}/{shard.name}.parquet") if self.parent else None,
        }

    def _read(self, shard: Shard) -> tuple[pa.Table, dict[str, int | float]]:
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
        decoded, widths = np.ones(len(table), bool), {}
        for at, comparison in enumerate(self.compared):
            for number, found in enumerate(read(self.dataset, shard, comparison)):
                name, held = f"{at}.{number}", packed(found)
                columns[f"{name} values"] = binary(np.ascontiguousarray(held.values[considered]))
                columns[f"{name} usable"] = held.usable()[considered]
                widths[f"{name} width"] = (held if comparison.kind == "equal" else found).values.shape[1]
                if comparison.kind != "cosine":
                    decoded &= held.comparable
        uids = table["uid"].cast(pa.string()).filter(wanted).combine_chunks()
        counts = {"uid": pc.max(pc.binary_length(uids)).as_py() or 0, "moving": int(columns["moving"].sum()),
                  "undecodable": int((~decoded[considered]).sum()), **(widths if len(uids) else {})}  # fmt: skip
        return pa.table({"uid": uids} | {name: pa.array(column) for name, column in columns.items()}), counts


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


def _size(shard: Shard, name: str) -> int | None:
    """Bytes of a file that may not be there; what makes vectors is told by its table, which they do not stand in."""
    return shard.folder.size(name) if shard.folder.exists(name) else None
