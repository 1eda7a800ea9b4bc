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
from curate.filter.pages import Coded
from curate.filter.thrift import BINARY, I16, I32, I64, LIST, STRUCT, Struct, struct, written

MAGIC = b"PAR1"
TAIL = 8  # length of the footer, magic
SHIFTED = (9, 10, 11)  # places of pages in ColumnMetaData
DROPPED = (14, 15)  # ... of a bloom filter, which is not copied
WRITER = f"curate version {curate.__version__}".encode()


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


def beside(uids: Uids, columns: Mapping[str, Coded], metadata: Mapping[bytes, bytes]) -> list[bytes | pa.Buffer]:
    """The bytes, in pieces, of a parquet file with the column `uid` and others, whose rows are in its order."""
    theirs, _ = struct(uids.footer.to_pybytes())
    names = [element[4][1] for element in theirs[2][1][1][1:]]
    place = names.index(b"uid")
    pieces: list[bytes | pa.Buffer] = [MAGIC]
    at, row = len(MAGIC), 0
    groups: list[Struct] = []
    for source, chunk, start, rows in zip(theirs[4][1][1], uids.chunks, uids.starts, uids.rows, strict=True):
        first, found = at, [_moved(source[1][1][1][place], at - start)]
        pieces.append(chunk)
        at += chunk.size
        for name, column in columns.items():
            data, about = column.chunk(name, slice(row, row + rows), at)
            pieces.extend(data)
            found.append(about)
            at += sum(map(len, data))
        row += rows
        sizes = [sum(about[3][1][field][1] for about in found) for field in (6, 7)]
        groups.append({1: (LIST, (STRUCT, found)), 2: (I64, sizes[0]), 3: (I64, rows), 5: (I64, first),
                       6: (I64, sizes[1]), 7: (I16, len(groups))})  # fmt: skip
    elements = [{4: (BINARY, b"schema"), 5: (I32, 1 + len(columns))}, theirs[2][1][1][1 + place],
                *({**column.element, 4: (BINARY, name.encode())} for name, column in columns.items())]  # fmt: skip
    footer = written({
        1: (I32, 2), 2: (LIST, (STRUCT, elements)), 3: (I64, sum(uids.rows)), 4: (LIST, (STRUCT, groups)),
        5: (LIST, (STRUCT, [{1: (BINARY, key), 2: (BINARY, value)} for key, value in metadata.items()])),
        6: (BINARY, WRITER), 7: (LIST, (STRUCT, [{1: (STRUCT, {})}] * (1 + len(columns)))),
    })  # fmt: skip
    return [*pieces, footer, len(footer).to_bytes(4, "little"), MAGIC]


def _moved(column: Struct, by: int) -> Struct:
    """A column chunk whose pages lie elsewhere; what is not copied with them is forgotten."""
    about = {field: value for field, value in column[3][1].items() if field not in DROPPED}
    about |= {field: (about[field][0], about[field][1] + by) for field in SHIFTED if field in about}
    return {2: (I64, 0), 3: (STRUCT, about)}
