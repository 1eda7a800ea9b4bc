"""The uids of a parquet file as they lie there, compressed: compared and copied into another file without decoding.

Uids are random bits, so packing and unpacking them costs more than everything else that a selection needs; most files
of a shard hold the same ones in the same order. What is copied is a whole column chunk; only the places in the footer
change. Format: https://parquet.apache.org/docs/file-format/, whose footer is Thrift's compact protocol.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAGIC = b"PAR1"
TAIL = 8  # length of the footer, magic
SHIFTED = (9, 10, 11)  # places of pages in ColumnMetaData
DROPPED = (14, 15)  # ... of a bloom filter, which is not copied
ONE = [bytes([value]) for value in range(128)]
Struct = dict[int, tuple[int, Any]]  # field -> (type of Thrift, value)


@dataclass(frozen=True)
class Uids:
    """The column chunks of `uid`, one for each row group, and the footer that tells how to read them."""

    chunks: tuple[pa.Buffer, ...]
    starts: tuple[int, ...]
    rows: tuple[int, ...]
    footer: pa.Buffer

    def same(self, other: "Uids | None") -> bool:
        """Whether they are the same bytes, and so the same uids; other bytes may be the same uids, too."""
        return other is not None and self.rows == other.rows and all(map(pa.Buffer.equals, self.chunks, other.chunks))


def stored(file: pq.ParquetFile, source: pa.NativeFile) -> Uids | None:
    """The uids of an opened parquet file; None where they do not lie in one piece a row group."""
    about, chunks, starts, rows = file.metadata, [], [], []
    if "uid" not in about.schema.names or about.num_columns != len(file.schema_arrow):
        return None
    place = about.schema.names.index("uid")
    for number in range(about.num_row_groups):
        column = about.row_group(number).column(place)
        start = column.data_page_offset
        if column.has_dictionary_page and column.dictionary_page_offset is not None:
            start = min(start, column.dictionary_page_offset)
        source.seek(start)
        chunks.append(source.read_buffer(column.total_compressed_size))
        starts.append(start)
        rows.append(about.row_group(number).num_rows)
        if column.file_path or chunks[-1].size != column.total_compressed_size:
            return None
    size = source.size()
    source.seek(size - TAIL)
    length = int.from_bytes(source.read(4), "little")
    source.seek(size - TAIL - length)
    return Uids(tuple(chunks), tuple(starts), tuple(rows), source.read_buffer(length))


def beside(uids: Uids, table: pa.Table, metadata: Mapping[bytes, bytes]) -> list[Any]:
    """The bytes, in pieces, of a parquet file with the column `uid` and those of the table; rows are in its order."""
    buffer = io.BytesIO()
    options = {"compression": "zstd", "store_schema": False, "write_statistics": False}
    with pq.ParquetWriter(buffer, table.schema, **options) as file:
        file.add_key_value_metadata(metadata)
        for start, rows in zip(_starts(uids.rows), uids.rows, strict=True):
            file.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
    written = buffer.getbuffer()
    length = int.from_bytes(written[-TAIL:-4], "little")
    about, _ = _struct(bytes(written[-TAIL - length : -TAIL]), 0)
    _join(about, uids)
    footer = _written(about)
    return [MAGIC, *uids.chunks, written[4 : -TAIL - length], footer, len(footer).to_bytes(4, "little"), MAGIC]


def _join(about: Struct, uids: Uids) -> None:
    """Put the uids in front of the other columns in a footer."""
    theirs, _ = _struct(uids.footer.to_pybytes(), 0)
    names = [element[4][1] for element in theirs[2][1][1][1:]]
    place = names.index(b"uid")
    elements = about[2][1][1]
    elements.insert(1, theirs[2][1][1][1 + place])
    elements[0][5] = (elements[0][5][0], elements[0][5][1] + 1)  # children of the root
    if 7 in about:  # the order of each column's values
        about[7][1][1].insert(0, about[7][1][1][0])
    moved, at = sum(chunk.size for chunk in uids.chunks), len(MAGIC)
    groups = zip(about[4][1][1], theirs[4][1][1], uids.chunks, uids.starts, strict=True)
    for group, source, chunk, start in groups:
        for column in group[1][1][1]:
            _move(column, moved)
        column = source[1][1][1][place]
        _move(column, at - start)
        group[1][1][1].insert(0, column)
        group[2] = (group[2][0], group[2][1] + column[3][1][6][1])
        group[5] = (6, at)
        if 6 in group:
            group[6] = (group[6][0], group[6][1] + chunk.size)
        at += chunk.size


def _move(column: Struct, by: int) -> None:
    """A column chunk whose pages lie elsewhere; what is not copied with them is forgotten."""
    for field in (4, 5, 6, 7):  # indexes of its pages
        column.pop(field, None)
    column[2] = (6, 0)  # once the place of a copy of this struct
    about = column[3][1]
    for field in DROPPED:
        about.pop(field, None)
    for field in SHIFTED:
        if field in about:
            about[field] = (about[field][0], about[field][1] + by)


def _starts(rows: tuple[int, ...]) -> list[int]:
    return [sum(rows[:number]) for number in range(len(rows))]


def _struct(data: bytes, at: int) -> tuple[Struct, int]:
    found: Struct = {}
    field = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _zigzag(data, at)
        kind = head & 15
        if kind < 3:  # a bool lies in its type
            found[field] = (kind, None)
        else:
            value, at = _value(data, at, kind)
            found[field] = (kind, value)
    return found, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (4, 5, 6):
        return _zigzag(data, at)
    if kind == 8:
        size, at = _varint(data, at)
        return data[at : at + size], at + size
    if kind == 12:
        return _struct(data, at)
    if kind in (1, 2, 3):
        return data[at], at + 1
    if kind == 7:
        return data[at : at + 8], at + 8
    if kind not in (9, 10):
        raise ValueError(f"no such type in a parquet footer: {kind}")
    size, inner = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _varint(data, at)
    values = []
    for _ in range(size):
        value, at = _value(data, at, inner)
        values.append(value)
    return (inner, values), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if data[at] < 128:
        return data[at], at + 1
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
    return value | data[at] << shift, at + 1


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _written(struct: Struct) -> bytes:
    parts, before = [], 0
    for field in sorted(struct):
        kind, value = struct[field]
        delta, before = field - before, field
        parts.append(bytes([delta << 4 | kind]) if delta < 16 else bytes([kind]) + _packed(field << 1))
        if kind not in (1, 2):
            parts.append(_told(kind, value))
    return b"".join((*parts, b"\0"))


def _told(kind: int, value: Any) -> bytes:
    if kind in (4, 5, 6):
        return _packed(value << 1 if value >= 0 else (-value << 1) - 1)
    if kind == 8:
        return _packed(len(value)) + value
    if kind == 12:
        return _written(value)
    if kind in (1, 2, 3):
        return bytes([value])
    if kind == 7:
        return value
    inner, values = value
    head = bytes([len(values) << 4 | inner]) if len(values) < 15 else bytes([15 << 4 | inner]) + _packed(len(values))
    return head + b"".join(_told(inner, each) for each in values)


def _packed(value: int) -> bytes:
    if value < 128:
        return ONE[value]
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
