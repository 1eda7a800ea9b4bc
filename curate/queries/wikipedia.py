"""A Wikipedia dump (pages-articles[-multistream].xml.bz2) as a stream of articles, in parts that can be read alone."""

import bz2
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

import fsspec

from curate.errors import CurateError

PART = 64 << 20  # compressed bytes of a part: about ten minutes of one core
BLOCK = 1 << 18
STREAM = re.compile(rb"BZh[1-9]1AY&SY")  # how a bzip2 stream starts; 76 fixed bits, so never by chance
OVERLAP = 9  # bytes of STREAM that may stand in the block before


@dataclass(frozen=True)
class Part:
    """The bzip2 streams of the dump at `path` that start in its bytes [start, end); `name` is its own among all."""

    path: str
    start: int
    end: int
    name: str

    def __str__(self) -> str:
        return f"{self.path} from byte {self.start:,}"


def parts(dumps: tuple[str, ...], size: int = PART) -> list[Part]:
    """The parts of all dumps; a dump of one stream is all in its first part. Raises CurateError for a missing one."""
    return [
        Part(path, start, start + size, f"{number:03d}-{start // size:05d}")
        for number, path in enumerate(dumps)
        for start in range(0, max(size_of(path), 1), size)
    ]


def size_of(path: str) -> int:
    """Bytes of a file. Raises CurateError where it is missing."""
    fs, root = fsspec.core.url_to_fs(path)
    try:
        return int(fs.size(root) or 0)
    except FileNotFoundError as error:
        raise CurateError(f"no such dump: {path}") from error


def articles(part: Part) -> Iterator[tuple[str, str]]:
    """(title, wikitext) of the articles: namespace 0, no redirects. Memory: a few pages.

    Raises CurateError where the dump is cut short, damaged, no bzip2, no XML or not MediaWiki's.
    """
    parser: Any = XMLPullParser(("start", "end"))
    if part.start:
        parser.feed(b"<mediawiki>")  # later streams hold whole pages without the root that the first one opens
    root: Element | None = None
    closed = False
    whole = False
    try:
        for data, last in _inflated(part):
            whole = last
            parser.feed(data)
            for event, element in parser.read_events():
                if root is None:
                    root = _checked(element, part)
                elif event == "end" and element is root:
                    closed = True
                elif event == "end" and _name(element) == "page":
                    yield from _article(element)
                    root.clear()
    except ParseError as error:
        raise CurateError(f"{part.path} is no XML inside ({error}); fetch the dump again") from error
    if whole and not closed:
        raise CurateError(f"{part.path} ends before </mediawiki>: it is cut short; fetch the dump again")


def _inflated(part: Part) -> Iterator[tuple[bytes, bool]]:
    """(decompressed bytes, whether the file ends here) of the streams that start in the part."""
    with fsspec.open(part.path, "rb") as file:
        start = _first_stream(file, part)
        if start is None:
            return
        file.seek(start)
        decoder, read = bz2.BZ2Decompressor(), start
        while raw := file.read(BLOCK):
            read += len(raw)
            while raw:
                if decoder.eof:
                    if read - len(raw) >= part.end:
                        return
                    decoder = bz2.BZ2Decompressor()
                yield _decompressed(decoder, raw, part), False
                raw = decoder.unused_data
        if not decoder.eof:
            raise CurateError(f"{part.path} is cut short in the middle of a bzip2 stream; fetch the dump again")
        yield b"", True


def _decompressed(decoder: Any, raw: bytes, part: Part) -> bytes:
    try:
        return decoder.decompress(raw)
    except OSError as error:
        what = "is damaged" if part.start else "is damaged or no .bz2 file"
        raise CurateError(f"{part.path} {what}: {error}; fetch pages-articles-multistream.xml.bz2 again") from error


def _first_stream(file: BinaryIO, part: Part) -> int | None:
    """Where the first bzip2 stream of the part starts; None where one stream of an earlier part fills it."""
    if part.start == 0:
        return 0
    file.seek(part.start)
    before, at = b"", part.start
    while at < part.end + OVERLAP and (raw := file.read(BLOCK)):
        if found := STREAM.search(before + raw):
            start = at - len(before) + found.start()
            return start if start < part.end else None
        before, at = (before + raw)[-OVERLAP:], at + len(raw)
    return None


def _checked(element: Element, part: Part) -> Element:
    if _name(element) != "mediawiki":
        raise CurateError(f"{part.path} is no MediaWiki dump: it starts with <{_name(element)}>, not <mediawiki>")
    return element


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _article(page: Element) -> Iterator[tuple[str, str]]:
    fields = {_name(child): child for child in page.iter()}
    if "title" in fields and fields["ns"].text == "0" and "redirect" not in fields and "text" in fields:
        yield fields["title"].text or "", fields["text"].text or ""
