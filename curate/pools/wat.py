"""Common Crawl's WAT files: the links of each page as JSON, images with their alt and title.

Format: one WARC metadata record a page and exchange, written by commoncrawl/ia-web-commons.
"""

import json
from collections.abc import Iterator

import msgspec
import pyarrow as pa
from fastwarc.warc import WarcRecord, WarcRecordType

from curate.crawl import archive
from curate.crawl.page import Resolver, Rows, distinct, text_names

IMAGE = "IMG@/src"
HAS_IMAGE = b'"IMG@/src"'


class Link(msgspec.Struct, gc=False):
    path: str | None = None
    url: str | None = None
    alt: str | None = None
    title: str | None = None


class Head(msgspec.Struct):
    base: str | None = msgspec.field(name="Base", default=None)


class Html(msgspec.Struct):
    head: Head | None = msgspec.field(name="Head", default=None)
    links: list[Link | None] | None = msgspec.field(name="Links", default=None)


class Response(msgspec.Struct):
    html: Html | None = msgspec.field(name="HTML-Metadata", default=None)


class Payload(msgspec.Struct):
    response: Response | None = msgspec.field(name="HTTP-Response-Metadata", default=None)


class Headers(msgspec.Struct):
    page: str | None = msgspec.field(name="WARC-Target-URI", default=None)


class Envelope(msgspec.Struct):
    headers: Headers | None = msgspec.field(name="WARC-Header-Metadata", default=None)
    payload: Payload | None = msgspec.field(name="Payload-Metadata", default=None)


class Page(msgspec.Struct):
    envelope: Envelope | None = msgspec.field(name="Envelope", default=None)


class Pool:
    """`path`: a file, a glob, a folder, a URL or a crawl's wat.paths.gz, whose lines are paths below `base`.

    `texts`: "alt" or "alt,title": what is said of an image; each distinct text is a row of its own.
    """

    def __init__(self, path: str, base: str = archive.DATA, texts: str = "alt"):
        self.path, self.base = str(path), base
        self.texts = text_names(texts, "wat", "alt|title")
        self._decoder = msgspec.json.Decoder(Page)

    def parts(self) -> list[str]:
        return archive.files_of(self.path, "wat", self.base)

    def read(self, part: str) -> Iterator[pa.Table]:
        return archive.read(part, WarcRecordType.metadata, self._find)

    def _find(self, record: WarcRecord, body: bytes, rows: Rows) -> None:
        if HAS_IMAGE not in body:  # the record of a request, a page without images
            return
        envelope = self._page(body).envelope
        if not (envelope and envelope.payload and envelope.payload.response and envelope.payload.response.html):
            return
        html = envelope.payload.response.html
        page = (envelope.headers and envelope.headers.page) or ""
        absolute = Resolver(page, html.head.base if html.head else None)
        for link in html.links or ():
            if link is not None and link.path == IMAGE and link.url and (link.alt or link.title):
                texts = distinct([getattr(link, name) for name in self.texts])
                if texts and (url := absolute(link.url)):
                    rows.add(url, texts, page)

    def _page(self, body: bytes) -> Page:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        try:  # slower, but takes bytes that are no UTF-8, lone surrogates and control characters
            return msgspec.convert(json.loads(body.decode("utf-8", "replace"), strict=False), Page)
        except (ValueError, RecursionError) as error:
            raise archive.Unreadable(str(error)) from error
