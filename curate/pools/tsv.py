"""Tab-separated files with a header line; a quote is a letter like any other, so one cannot swallow the rows below."""

from csv import QUOTE_NONE
from typing import Any

from curate.pools import csv


class Pool(csv.Pool):
    """`path`: a file (also .gz .bz2 .xz .zst), a glob, a folder or a URL; `url`, `caption`: the columns."""

    kind = "tsv"
    quoting: dict[str, Any] = {"delimiter": "\t", "quote_char": False}  # noqa: RUF012
    header = QUOTE_NONE
