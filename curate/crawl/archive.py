"""The records of a WARC file, one at a time; where the file is damaged they end early and `damage` says why.

Format: WARC 1.1 (ISO 28500), each record a gzip member of its own, as Common Crawl and the Internet Archive store them.
"""

import collections
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from curate import pools
from curate.crawl.page import Rows
from curate.errors import BadShard, CurateError
from curate.storage import streams
from curate.words import counted

ROWS = 16_384  # rows in a batch, about
LARGEST = 64 << 20  # bytes of a record; a broken length would otherwise fill the memory
HELD = 16 << 20  # stored bytes kept to look at a cut end
GZIP, PLAIN = b"\x1f\x8b", b"WARC/"  # what a record begins with
HEAD_END, LENGTH = re.compile(rb"\r?\n\r?\n"), re.compile(rb"(?im)^content-length:[ \t]*(\d+)")
DATA = "https://data.commoncrawl.org/"


class Unreadable(Exception):
    """One record cannot be read; the others go on."""


class Archive:
    """Iterate over the records of some types with their bodies: (record, bytes); a record is valid until the next."""

    def __init__(self, part: str, types: WarcRecordType):
        try:
            self._stored = _Stored(streams.opened(part))
        except CurateError as error:  # one of a list of thousands: the others go on
            raise BadShard(str(error)) from error
        self._types = types
        self.damage: str | None = None

    def __iter__(self) -> Iterator[tuple[WarcRecord, bytes]]:
        try:
            http = self._types == WarcRecordType.response
            stream: Any = self._stored  # it needs no more than read and tell
            for record in ArchiveIterator(stream, self._types, parse_http=http, inplace=True):
                self._stored.needed = record.stream_pos
                size = min(record.content_length, LARGEST)
                body = record.reader.read(size)
                if len(body) < size:
                    self.damage = "a record is cut short"
                    return
                yield record, body
        except streams.DAMAGE as error:
            self.damage = str(error)
            return
        if self._stored.is_cut():
            self.damage = "the end is missing"

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stored.file.close()


def read(part: str, types: WarcRecordType, find: Callable[[WarcRecord, bytes, Rows], None]) -> Iterator[pa.Table]:
    """Batches of what `find` adds for each record. Raises BadShard, after the rows before it, for a damaged file and
    at the end for one with records that `find` called Unreadable."""
    count, unreadable, rows = 0, [], Rows()
    with Archive(part, types) as archive:
        for record, body in archive:
            try:
                find(record, body, rows)
            except Unreadable as error:
                unreadable.append(f"byte {record.stream_pos:,}: {error}")
            if len(rows.urls) >= ROWS:
                table = rows.table()
                count += len(table)
                yield table
        table = rows.table()
        count += len(table)
        yield table
        if archive.damage:
            raise pools.damaged(part, count, archive.damage)
    if unreadable:
        raise BadShard(
            f"{part}: {counted(len(unreadable), 'record')} left out ({unreadable[0]}), {counted(count, 'row')} read"
        )


def files_of(path: str, kind: str, base: str) -> list[str]:
    """The archives of a pool, sorted: files, a glob, a folder, or those that a crawl's path list (wat.paths.gz) names.

    Each line of a list is a URL, or a path below `base`. Raises CurateError where there is none.
    """
    found = pools.files_of(path, kind)
    files = [name for name in found if not _is_list(name)]
    if not files:
        files = [_joined(base, line) for name in found for line in _lines(name)]
    if not files:
        raise CurateError(f"the path list {path} is empty")
    return sorted(set(files))


class _Stored:
    """The stored bytes for the iterator, those from `needed` on held."""

    def __init__(self, file: Any):
        self.file, self.needed = file, 0
        self._first_member: Any = zlib.decompressobj(31)  # the whole file, where it was compressed as one
        self._at = self._first = 0
        self._blocks: collections.deque[bytes] = collections.deque()

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        self._at += len(block)
        self._blocks.append(block)
        if self._first_member and _ends(self._first_member, block):
            self._first_member = None
        while len(self._blocks) > 1 and (
            self._first + len(self._blocks[0]) <= self.needed or self._at - self._first > HELD
        ):
            self._first += len(self._blocks.popleft())
        return block

    def tell(self) -> int:
        return self._at

    def is_cut(self) -> bool:
        """Whether the file lacks its end, which the iterator does not tell: it stops where the bytes do."""
        if self._first_member or self._first > self.needed:
            return bool(self._first_member)
        rest = b"".join(self._blocks)[self.needed - self._first :]
        while rest.startswith(GZIP):
            member = zlib.decompressobj(31)
            if not _ends(member, rest):
                return True
            rest = member.unused_data
        if rest and PLAIN.startswith(rest[: len(PLAIN)]):
            return _is_cut(rest)
        return 0 < len(rest) < len(GZIP)


def _is_cut(records: bytes) -> bool:
    """Whether the last of these uncompressed records lacks its end."""
    at = 0
    while records.startswith(PLAIN, at):
        end = HEAD_END.search(records, at)
        length = LENGTH.search(records, at, end.start()) if end else None
        if not end or not length:
            return not end
        at = end.end() + int(length[1])
        if at > len(records):
            return True
        while records[at : at + 1] in (b"\r", b"\n"):
            at += 1
    return at < len(records) and PLAIN.startswith(records[at:])


def _ends(member: Any, block: bytes) -> bool:
    """Whether a gzip member ends within its next bytes; what is no gzip has no end to miss."""
    try:
        while block and not member.eof:
            member.decompress(block, streams.BLOCK)
            block = member.unconsumed_tail
    except zlib.error:
        return True
    return member.eof


def _is_list(path: str) -> bool:
    return path.lower().removesuffix(".gz").endswith(".paths")


def _lines(path: str) -> list[str]:
    with streams.Lines(path) as stored:
        lines = stored.read().decode("utf-8", "replace").split()
        if stored.damage:
            raise CurateError(f"the path list {path} is damaged ({stored.damage}); fetch it again")
    return lines


def _joined(base: str, line: str) -> str:
    return line if "://" in line else f"{base.rstrip('/')}/{line.lstrip('/')}"
