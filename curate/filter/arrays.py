"""What lies in Arrow arrays as NumPy arrays and back, without a copy and whatever is null; pyarrow's own way makes
floats of integers with nulls, a byte of every bit twice, and imports numpy.ma."""

import numpy as np
import pyarrow as pa

EMPTY = np.zeros(0, np.uint8)


def numbers(column: pa.Array) -> np.ndarray:
    """The values of integers or floats, not to be written into; whatever lies there where they are null."""
    kind = np.dtype(column.type.to_pandas_dtype())
    return np.frombuffer(column.buffers()[1] or EMPTY, kind)[column.offset : column.offset + len(column)]


def of(values: np.ndarray) -> pa.Array:
    """Integers or floats, all of them values."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def valid(column: pa.Array) -> np.ndarray | None:
    """bool [rows]: not null; None where all are."""
    return _bits(column.buffers()[0], column) if column.null_count else None


def holds(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """bool [rows] where conditions hold, and where they are null."""
    there = valid(column)
    true = _bits(column.buffers()[1], column)
    return (true, np.zeros(len(column), bool)) if there is None else (true & there, ~there)


def looked_up(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The entry of a table of bytes or bools for each code below its length."""
    if len(table) > 256:
        return table.take(codes)
    found = codes.astype(np.uint8, copy=False).tobytes().translate(table.tobytes().ljust(256))
    return np.frombuffer(found, table.dtype)


def _bits(buffer: pa.Buffer | None, column: pa.Array) -> np.ndarray:
    start, stop = column.offset, column.offset + len(column)
    packed = np.frombuffer(buffer or EMPTY, np.uint8)[start // 8 : (stop + 7) // 8]
    return np.unpackbits(packed, bitorder="little")[start % 8 : start % 8 + len(column)].view(bool)
