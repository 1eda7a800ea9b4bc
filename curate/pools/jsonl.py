"""One JSON object a line."""

import codecs
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from curate import pools
from curate.errors import BadShard
from curate.storage import streams
from curate.words import counted

ROWS = 65_536  # rows in a batch


class Pool:
    """`path`: a file (also .gz .bz2 .xz .zst), a glob, a folder or a URL; `url`, `caption`: the keys.

    The first object says which keys there are. A line that is no JSON object is left out, and the file is reported
    with the number of such lines.
    """

    def __init__(self, path: str, url: str = "url", caption: str = "caption"):
        self.path, self.url, self.caption = str(path), url, caption

    def parts(self) -> list[str]:
        return pools.files_of(self.path, "jsonl")

    def columns(self, part: str) -> list[str]:
        """The keys of the first object."""
        with streams.Lines(part) as lines:
            return list(next(filter(None, map(_object, _buffered(lines))), {}))

    def read(self, part: str) -> Iterator[pa.Table]:
        rows, bad, keys = 0, [], None
        urls, captions = [], []
        with streams.Lines(part) as lines:
            for number, line in enumerate(_buffered(lines), 1):
                if not line.strip():
                    continue
                found = _object(line)
                if found is None:
                    bad.append(number)
                    continue
                if keys is None:
                    keys = pools.chosen(list(found), self.url, self.caption, part, "jsonl")
                urls.append(_text(found.get(keys[0])))
                captions.append(_text(found.get(keys[1])))
                if len(urls) == ROWS:
                    yield _table(urls, captions)
                    rows += len(urls)
                    urls, captions = [], []
            yield _table(urls, captions)
            rows += len(urls)
            if lines.damage:
                raise pools.damaged(part, rows, lines.damage)
        if bad:
            raise BadShard(
                f"{part}: {counted(len(bad), 'line')} without a JSON object left out (line {bad[0]}), "
                f"{counted(rows, 'row')} read"
            )


def _buffered(lines: streams.Lines) -> Iterator[bytes]:
    held = lines.read(streams.BLOCK).removeprefix(codecs.BOM_UTF8)
    while block := lines.read(streams.BLOCK):
        *whole, held = (held + block).split(b"\n")
        yield from whole
    yield from held.split(b"\n")


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(value: Any) -> str | None:
    return None if value is None else pools.valid(str(value))


def _table(urls: list[str | None], captions: list[str | None]) -> pa.Table:
    return pools.pairs(pa.array(urls, pa.string()), pa.array(captions, pa.string()))
