"""Comma-separated files with a header line; quoted values may hold commas and line ends."""

import re
from collections.abc import Iterator
from csv import QUOTE_MINIMAL, reader
from csv import Error as HeaderError
from typing import Any, Literal

import pyarrow as pa
from pyarrow import csv

from curate import pools
from curate.errors import BadShard
from curate.storage import streams
from curate.words import counted

END = "\0end of the file\0"
OPEN = "a quote that is opened there is never closed"
WIDEST = 3  # bytes that stand for one that is no UTF-8
LONG = f"{OPEN}, or its row has more than {WIDEST * streams.BLOCK:,} bytes"
READ = csv.ReadOptions(block_size=WIDEST * streams.BLOCK)


class Pool:
    """`path`: a file (also .gz .bz2 .xz .zst), a glob, a folder or a URL; `url`, `caption`: the columns.

    A line with too few or too many values is left out, and the file is reported with the number of such lines. A quote
    that is never closed ends the file before its row.
    """

    kind = "csv"
    quoting: dict[str, Any] = {"delimiter": ",", "newlines_in_values": True}  # noqa: RUF012
    header: Literal[0, 3] = QUOTE_MINIMAL

    def __init__(self, path: str, url: str = "url", caption: str = "caption"):
        self.path, self.url, self.caption = str(path), url, caption

    def parts(self) -> list[str]:
        return pools.files_of(self.path, self.kind)

    def read(self, part: str) -> Iterator[pa.Table]:
        columns = self.columns(part)
        url, caption = pools.chosen(columns, self.url, self.caption, part, self.kind)
        names = list(dict.fromkeys([url, caption]))
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()), include_columns=names, strings_can_be_null=False
        )
        rows, bad, last, closed = 0, [], None, False

        def leave_out(row: csv.InvalidRow) -> str:
            nonlocal closed
            if row.text.startswith(END):
                closed = True
            else:
                bad.append(f"row {row.number}: {row.actual_columns} values where the header has {row.expected_columns}")
            return "skip"

        parse = csv.ParseOptions(**self.quoting, invalid_row_handler=leave_out)
        end = "\n" + parse.delimiter.join([END] * (len(columns) + 1)) + "\n"  # no row, unless a quote is open before it
        with _Text(part, end.encode()) as lines:
            try:
                for batch in csv.open_csv(lines, READ, parse, convert):
                    if last is not None:
                        yield pools.pairs(last[url], last[caption])
                    rows, last = rows + len(batch), batch
            except streams.DAMAGE as error:
                if last is not None:
                    yield pools.pairs(last[url], last[caption])
                raise pools.damaged(part, rows, LONG if "straddling" in str(error) else error) from error
            if last is not None and not closed:
                last, rows = last[:-1], rows - 1
            if last is not None:
                yield pools.pairs(last[url], last[caption])
            if lines.damage or not closed:
                raise pools.damaged(part, rows, lines.damage or OPEN)
        if bad:
            raise BadShard(f"{part}: {counted(len(bad), 'line')} left out ({bad[0]}), {counted(rows, 'row')} read")

    def columns(self, part: str) -> list[str]:
        """The names in the header."""
        with streams.Lines(part) as lines:
            header = lines.readline(streams.BLOCK)
            if not header.strip():
                if lines.damage:
                    raise pools.damaged(part, 0, lines.damage)
                return []
        line = re.split("[\r\n]", header.decode("utf-8-sig", "replace"), maxsplit=1)[0]
        if "\0" in line:
            raise pools.damaged(part, 0, "its first line is no text")
        try:  # no threads, which Arrow's own reader would have: a process that ends with a message ends with them
            return next(reader([line], delimiter=self.quoting["delimiter"], quoting=self.header))
        except HeaderError as error:
            raise pools.damaged(part, 0, error) from error


class _Text(streams.Lines):
    """Bytes that are no UTF-8 as U+FFFD: Arrow tells of a row that does not fit only where its text is UTF-8."""

    def read(self, size: int = -1) -> bytes:
        block = super().read(size // WIDEST) or b""
        try:
            block.decode()
        except UnicodeDecodeError:
            return block.decode("utf-8", "replace").encode()
        return block
