"""Pairs of rows that are near each other, in files by row: of a range of rows they are read without the rest."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate import ranges
from curate.dedup.by_number import ByNumber, by_number, in_files
from curate.dedup.hamming import Capped, Pairs
from curate.files import Folder
from curate.work import Engine

SCHEMA = pa.schema([("row", pa.uint64()), ("other", pa.int64()), ("distance", pa.float64())])
CROWDS = pa.schema([("first", pa.int64()), ("codes", pa.int64())])


@dataclass(frozen=True)
class Near:
    """Pairs of rows, some of them several times."""

    held: ByNumber

    def pairs(self, start: int, stop: int) -> Pairs:
        """Row, other row and distance of the pairs of the rows from `start` up to `stop`, from each of its rows, once,
        sorted."""
        found = self.held.between(start, stop)
        i, j, distance = (found[name].to_numpy() for name in SCHEMA.names)
        order = np.lexsort((j, i))
        i, j, distance = i[order].astype(np.int64), j[order], distance[order]
        new = np.ones(len(i), bool)
        new[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
        return i[new], j[new], distance[new]


def write_pairs(folder: Folder, name: str, pairs: Pairs, capped: Capped) -> None:
    """Each pair from both of its rows, by the row. The crowds first: where the pairs are, all is."""
    if capped:
        firsts, sizes = zip(*sorted(set(capped)), strict=True)
        folder.write_table(f"crowds/{name}.parquet", pa.table([firsts, sizes], schema=CROWDS))
    i, j, distance = pairs
    columns = [np.concatenate([i, j]).astype(np.uint64), np.concatenate([j, i]), np.tile(distance, 2)]
    ranges.write(folder, pairs_of(name), pa.table(columns, schema=SCHEMA).sort_by("row"), "row")


def written_pairs(folder: Folder, names: list[str], held: int, of: int, capped: Capped, engine: str | Engine) -> Near:
    """What `write_pairs` wrote, `held` records in all, of a pool of so many rows; `capped` is told the crowds. Raises
    CurateError."""
    for name in folder.names("crowds/*.parquet"):
        table = folder.read_table(name)
        capped += zip(table["first"].to_pylist(), table["codes"].to_pylist(), strict=True)
    return Near(by_number(folder, list(map(pairs_of, names)), SCHEMA, held, of, engine))


def few_pairs(folder: Folder, name: str, pairs: Pairs) -> Near:
    """Those that the driver found itself."""
    write_pairs(folder, name, pairs, [])
    return Near(in_files(folder, SCHEMA, pairs_of(name)))


def pairs_of(name: str) -> str:
    return f"pairs/{name}.arrow"
