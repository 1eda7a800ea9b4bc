"""Comma-separated files with a header line; quoted values may hold commas and line ends."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import csv

from curate import pools
from curate.errors import BadShard
from curate.storage import streams


class Pool:
    """`path`: a file (also .gz .bz2 .xz .zst), a glob, a folder or a URL; `url`, `caption`: the columns.

    A line with too few or too many values is left out, and the file is reported with the number of such lines.
    """

    kind = "csv"
    quoting: dict[str, Any] = {"delimiter": ",", "newlines_in_values": True}  # noqa: RUF012

    def __init__(self, path: str, url: str = "url", caption: str = "caption"):
        self.path, self.url, self.caption = str(path), url, caption

    def parts(self) -> list[str]:
        return pools.files_of(self.path, self.kind)

    def read(self, part: str) -> Iterator[pa.Table]:
        url, caption = pools.chosen(self.columns(part), self.url, self.caption, part, self.kind)
        names = list(dict.fromkeys([url, caption]))
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()), include_columns=names, strings_can_be_null=False
        )
        rows, bad = 0, []

        def leave_out(row: csv.InvalidRow) -> str:
            bad.append(f"{row.actual_columns} values where the header has {row.expected_columns}")
            return "skip"

        parse = csv.ParseOptions(**self.quoting, invalid_row_handler=leave_out)
        with streams.Lines(part) as lines:
            try:
                for batch in csv.open_csv(lines, parse_options=parse, convert_options=convert):
                    yield pools.pairs(batch[url], batch[caption])
                    rows += len(batch)
            except streams.DAMAGE as error:
                raise pools.damaged(part, rows, error) from error
            if lines.damage:
                raise pools.damaged(part, rows, lines.damage)
        if bad:
            raise BadShard(f"{part}: {len(bad):,} lines left out ({bad[0]}), {rows:,} rows read")

    def columns(self, part: str) -> list[str]:
        """The names in the header."""
        with streams.Lines(part) as lines:
            header = lines.readline(streams.BLOCK)
            if not header.strip():
                if lines.damage:
                    raise pools.damaged(part, 0, lines.damage)
                return []
        parse = csv.ParseOptions(**self.quoting)
        try:
            return csv.read_csv(pa.BufferReader(header), parse_options=parse).column_names
        except streams.DAMAGE as error:
            raise pools.damaged(part, 0, error) from error
