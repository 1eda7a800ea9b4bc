"""Tables sorted by a uint64 column, so that the rows of one range are read without the rest."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.files import Folder

ROWS = 16_384  # rows in a row group: what a range reads too much at each of its ends
END = 2**64


def bounds(index: int, of: int) -> tuple[int, int]:
    """The index-th of `of` equal ranges of uint64, [start, stop)."""
    return index * END // of, (index + 1) * END // of


def write(folder: Folder, name: str, table: pa.Table, made_by: dict) -> None:
    """Write a table that is sorted already, in row groups small enough to read ranges of it."""
    folder.write_table(name, table, made_by, row_group_size=ROWS)


def between(folder: Folder, names: list[str], column: str, start: int, stop: int) -> pa.Table:
    """The rows with start <= column < stop of files written by `write`, one file after the other."""
    found = []
    for name in names:
        with folder.fs.open(folder.path(name), "rb") as stored:
            file = pq.ParquetFile(stored)
            at = file.schema_arrow.get_field_index(column)
            groups = []
            for group in range(file.num_row_groups):
                seen = file.metadata.row_group(group).column(_leaf(file, at)).statistics
                if seen is None or (seen.min < stop and seen.max >= start):
                    groups.append(group)
            table = file.read_row_groups(groups)
        values = table[column].to_numpy()
        first, last = (np.searchsorted(values, np.uint64(start)), _index_of(values, stop))
        found.append(table.slice(int(first), int(last - first)))
    return pa.concat_tables(found)


def _index_of(values: np.ndarray, stop: int) -> int:
    return len(values) if stop >= END else int(np.searchsorted(values, np.uint64(stop)))


def _leaf(file: pq.ParquetFile, field: int) -> int:
    # lists have their own leaf columns; the sort columns stand before them
    name = file.schema_arrow.names[field]
    return next(i for i in range(file.metadata.num_columns) if file.schema.column(i).path == name)
