"""NumPy arrays as Arrow ones and back, by their buffers: pyarrow's own way imports pandas where it is installed, which
takes as long as selecting a million rows."""

import numpy as np
import pyarrow as pa

EMPTY = np.zeros(0, np.uint8)


def column(values: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """The Arrow array of integers or floats; null where `valid`, bool [rows], is false."""
    there = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [there, pa.py_buffer(np.ascontiguousarray(values))])


def mask(keep: np.ndarray) -> pa.Array:
    """The Arrow array of bool [rows]."""
    return pa.Array.from_buffers(pa.bool_(), len(keep), [None, pa.py_buffer(np.packbits(keep, bitorder="little"))])


def texts(values: list[str]) -> pa.Array:
    """The Arrow array of strings."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def numbers(column: pa.Array) -> np.ndarray:
    """The values of integers or floats, not to be written into; whatever lies there where they are null."""
    kind = np.dtype(column.type.to_pandas_dtype())
    return np.frombuffer(column.buffers()[1] or EMPTY, kind)[column.offset : column.offset + len(column)]


def valid(column: pa.Array) -> np.ndarray | None:
    """bool [rows]: not null; None where all are."""
    return _bits(column.buffers()[0], column) if column.null_count else None


def holds(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """bool [rows] where conditions hold, and where they are null."""
    there = valid(column)
    true = _bits(column.buffers()[1], column)
    return (true, np.zeros(len(column), bool)) if there is None else (true & there, ~there)


def _bits(buffer: pa.Buffer | None, column: pa.Array) -> np.ndarray:
    start, stop = column.offset, column.offset + len(column)
    packed = np.frombuffer(buffer or EMPTY, np.uint8)[start // 8 : (stop + 7) // 8]
    return np.unpackbits(packed, bitorder="little")[start % 8 : start % 8 + len(column)].view(bool)
