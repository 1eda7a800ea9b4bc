"""Columns of few values as the pages of a parquet file: NumPy packs which value each row has, zstd does the rest.

A selection says of every row one of a few things, and says it in whole bytes, which zstd's entropy coder makes smaller
than parquet's bits would be. Arrow's writer looks up the value of every row again: it took a third of all that a
selection costs. Format: https://parquet.apache.org/docs/file-format/
"""

import functools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from curate.filter.thrift import BINARY, FALSE, I8, I32, I64, LIST, STRUCT, Struct, packed, written

INT32, INT64, BYTE_ARRAY = 1, 2, 6  # types of parquet
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8  # encodings
DATA_PAGE, DICTIONARY_PAGE = 0, 2
OPTIONAL, ZSTD = 1, 6
UTF8, UINT_64 = 0, 14  # what the values mean, in old files and ...
STRING, INTEGER = 1, 10  # ... in new ones
ANY: Struct = {}
TEXT: Struct = {6: (I32, UTF8), 10: (STRUCT, {STRING: (STRUCT, ANY)})}
UNSIGNED: Struct = {6: (I32, UINT_64), 10: (STRUCT, {INTEGER: (STRUCT, {1: (I8, 64), 2: (FALSE, None)})})}


@dataclass(frozen=True)
class Coded:
    """A column of few different values: int32, uint64 or text."""

    values: np.ndarray | list[str]
    codes: np.ndarray  # unsigned [rows]: which value each has
    none: int | None = None  # the code of rows that have none

    @cached_property
    def array(self) -> pa.Array:
        """The same as an Arrow array."""
        values = pa.array(self.values)
        none = None if self.none is None else self.codes == self.none
        return pa.DictionaryArray.from_arrays(pa.array(self.codes.astype(np.int32), mask=none), values).cast(
            values.type
        )

    def element(self, name: str) -> Struct:
        """What the schema of a parquet file says of it."""
        meaning = {BYTE_ARRAY: TEXT, INT64: UNSIGNED}.get(self._kind, {})
        return {1: (I32, self._kind), 3: (I32, OPTIONAL), 4: (BINARY, name.encode()), **meaning}

    def chunk(self, name: str, rows: slice, at: int) -> tuple[list[bytes], Struct]:
        """The bytes of a row group's chunk of it that begins at a place of a file, and its ColumnMetaData."""
        codes = self.codes[rows]
        words, inflated = _dictionary_page(len(self.values), self._dictionary)
        page, body = self._data(codes)
        zipped = pa.compress(body, "zstd", asbytes=True)
        head = _head(DATA_PAGE, len(body), len(zipped), page)
        about: Struct = {
            1: (I32, self._kind), 2: (LIST, (I32, [PLAIN, RLE, RLE_DICTIONARY])),
            3: (LIST, (BINARY, [name.encode()])), 4: (I32, ZSTD), 5: (I64, len(codes)),
            6: (I64, inflated + len(head) + len(body)), 7: (I64, len(words) + len(head) + len(zipped)),
            9: (I64, at + len(words)), 11: (I64, at),
        }  # fmt: skip
        return [words, head, zipped], about

    @property
    def _kind(self) -> int:
        if isinstance(self.values, list):
            return BYTE_ARRAY
        return {np.dtype(np.int32): INT32, np.dtype(np.uint64): INT64}[self.values.dtype]

    @property
    def _dictionary(self) -> bytes:
        if not isinstance(self.values, list):
            return self.values.tobytes()
        texts = [text.encode() for text in self.values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)

    def _data(self, codes: np.ndarray) -> tuple[Struct, bytes]:
        levels = packed(len(codes) << 1) + b"\1" if self.none is None else _run(codes != self.none, 1)
        levels = len(levels).to_bytes(4, "little") + levels
        width = 1 if len(self.values) <= 2 else 8 * codes.itemsize
        body = b"".join((levels, bytes([width]), _run(self._there(codes), width)))
        page: Struct = {1: (I32, len(codes)), 2: (I32, RLE_DICTIONARY), 3: (I32, RLE), 4: (I32, RLE)}
        return {5: (STRUCT, page)}, body

    def _there(self, codes: np.ndarray) -> np.ndarray:
        """Those of the codes that are a value's."""
        if self.none is None:
            return codes
        if codes.itemsize > 1:
            return codes[codes != self.none]
        return np.frombuffer(codes.tobytes().translate(None, bytes([self.none])), np.uint8)


def coded(values: np.ndarray) -> Coded:
    """Numbers as a column, whatever they are."""
    found, codes = np.unique(values, return_inverse=True)
    return Coded(found, codes.astype(np.min_scalar_type(max(len(found) - 1, 0))))


@functools.lru_cache(maxsize=64)  # most shards have the same one
def _dictionary_page(count: int, body: bytes) -> tuple[bytes, int]:
    """The page, and its size before it was compressed."""
    zipped = pa.compress(body, "zstd", asbytes=True)
    head = _head(DICTIONARY_PAGE, len(body), len(zipped), {7: (STRUCT, {1: (I32, count), 2: (I32, PLAIN)})})
    return head + zipped, len(head) + len(body)


def _head(kind: int, size: int, zipped: int, about: Struct) -> bytes:
    return written({1: (I32, kind), 2: (I32, size), 3: (I32, zipped), **about})


def _run(codes: np.ndarray, width: int) -> bytes:
    """Numbers of so many bits each, in groups of eight."""
    groups = -(-len(codes) // 8)
    if width == 1:
        body = np.packbits(codes, bitorder="little").tobytes()
    else:
        body = codes.astype(codes.dtype.newbyteorder("<"), copy=False).tobytes()
    return packed(groups << 1 | 1) + body + bytes(groups * width - len(body)) if groups else b""
