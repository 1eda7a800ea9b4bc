"""The uids of a parquet file as they lie there, compressed: compared and copied into another file without decoding.

Uids are random bits, so packing and unpacking them costs more than everything else that a selection needs; most files
of a shard hold the same ones in the same order. What is copied is a whole column chunk; only the places in the footer
change. Format: https://parquet.apache.org/docs/file-format/, whose footer is Thrift's compact protocol.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

import curate
from curate.filter.pages import ANY, BYTE_ARRAY, OPTIONAL, TEXT, Coded
from curate.filter.thrift import BINARY, I16, I32, I64, LIST, STRUCT, Struct, written

MAGIC = b"PAR1"
WRITER = f"curate version {curate.__version__}".encode()
NAME = b"uid"
COMPRESSIONS = {"UNCOMPRESSED": 0, "SNAPPY": 1, "GZIP": 2, "BROTLI": 4, "ZSTD": 6}
ENCODINGS = {"PLAIN": 0, "PLAIN_DICTIONARY": 2, "RLE": 3, "BIT_PACKED": 4, "DELTA_LENGTH_BYTE_ARRAY": 6,
             "DELTA_BYTE_ARRAY": 7, "RLE_DICTIONARY": 8}  # fmt: skip


@dataclass(frozen=True)
class Uids:
    """The column chunks of `uid`, one for each row group, and what the footer must say to read them; places count from
    the beginning of the chunk."""

    chunks: tuple[pa.Buffer, ...]
    rows: tuple[int, ...]
    about: tuple[Struct, ...]
    nullable: bool

    def same(self, other: "Uids | None") -> bool:
        """Whether they are the same bytes, and so the same uids; other bytes may be the same uids, too."""
        return other is not None and self.rows == other.rows and all(map(pa.Buffer.equals, self.chunks, other.chunks))


def stored(file: pq.ParquetFile, source: pa.NativeFile) -> Uids | None:
    """The uids of an opened parquet file; None where they do not lie in one piece a row group, or are no text."""
    found, chunks, rows, abouts = file.metadata, [], [], []
    if "uid" not in found.schema.names or found.num_columns != len(file.schema_arrow):
        return None
    place = found.schema.names.index("uid")
    schema = found.schema.column(place)
    if schema.physical_type != "BYTE_ARRAY" or schema.max_definition_level > 1:
        return None
    for number in range(found.num_row_groups):
        group = found.row_group(number)
        column = group.column(place)
        pages = {9: column.data_page_offset}
        if column.has_dictionary_page and column.dictionary_page_offset is not None:
            pages[11] = column.dictionary_page_offset
        start, size = min(pages.values()), column.total_compressed_size
        if column.file_path or column.compression not in COMPRESSIONS or not ENCODINGS.keys() >= {*column.encodings}:
            return None
        source.seek(start)
        chunks.append(source.read_buffer(size))
        rows.append(group.num_rows)
        abouts.append({
            1: (I32, BYTE_ARRAY), 2: (LIST, (I32, [ENCODINGS[name] for name in column.encodings])),
            3: (LIST, (BINARY, [NAME])), 4: (I32, COMPRESSIONS[column.compression]), 5: (I64, column.num_values),
            6: (I64, column.total_uncompressed_size), 7: (I64, size),
            **{field: (I64, at - start) for field, at in pages.items()},
        })  # fmt: skip
        if chunks[-1].size != size:
            return None
    return Uids(tuple(chunks), tuple(rows), tuple(abouts), schema.max_definition_level > 0)


def beside(uids: Uids, columns: Mapping[str, Coded], metadata: Mapping[bytes, bytes]) -> list[bytes | pa.Buffer]:
    """The bytes, in pieces, of a parquet file with the column `uid` and others, whose rows are in its order."""
    pieces: list[bytes | pa.Buffer] = [MAGIC]
    at, row = len(MAGIC), 0
    groups: list[Struct] = []
    for chunk, rows, about in zip(uids.chunks, uids.rows, uids.about, strict=True):
        first, found = at, [_moved(about, at)]
        pieces.append(chunk)
        at += chunk.size
        for name, column in columns.items():
            data, about = column.chunk(name, slice(row, row + rows), at)
            pieces.extend(data)
            found.append(about)
            at += sum(map(len, data))
        row += rows
        sizes = [sum(about[field][1] for about in found) for field in (6, 7)]
        groups.append({1: (LIST, (STRUCT, [{2: (I64, 0), 3: (STRUCT, about)} for about in found])),
                       2: (I64, sizes[0]), 3: (I64, rows), 5: (I64, first), 6: (I64, sizes[1]),
                       7: (I16, len(groups))})  # fmt: skip
    elements = [{4: (BINARY, b"schema"), 5: (I32, 1 + len(columns))},
                {1: (I32, BYTE_ARRAY), 3: (I32, OPTIONAL if uids.nullable else 0), 4: (BINARY, NAME), **TEXT},
                *(column.element(name) for name, column in columns.items())]  # fmt: skip
    footer = written({
        1: (I32, 2), 2: (LIST, (STRUCT, elements)), 3: (I64, sum(uids.rows)), 4: (LIST, (STRUCT, groups)),
        5: (LIST, (STRUCT, [{1: (BINARY, key), 2: (BINARY, value)} for key, value in metadata.items()])),
        6: (BINARY, WRITER), 7: (LIST, (STRUCT, [{1: (STRUCT, ANY)}] * (1 + len(columns)))),
    })  # fmt: skip
    return [*pieces, footer, len(footer).to_bytes(4, "little"), MAGIC]


def _moved(about: Struct, by: int) -> Struct:
    return about | {field: (kind, at + by) for field, (kind, at) in about.items() if field in (9, 11)}
