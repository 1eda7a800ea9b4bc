"""WARC files: the images of every HTML page, with alt, title, figcaption or any other attribute as text.

Format: WARC 1.1 (ISO 28500) as Common Crawl, Heritrix, wget and warcio write it.
"""

import contextlib
import functools
import io
import itertools
import zlib
from collections.abc import Iterator

import pyarrow as pa
from fastwarc.stream_io import BrotliReader, ChunkedReader, WarcReader
from fastwarc.warc import WarcRecord, WarcRecordType

from curate.crawl import archive
from curate.crawl.charset import as_utf8
from curate.crawl.html import images
from curate.crawl.page import Resolver, Rows, distinct, largest, text_names
from curate.storage import streams

HTML = ("text/html", "application/xhtml+xml")
# a script moves one of these to src, where a placeholder stands until then
LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy")


class Pool:
    """`path`: a file, a glob, a folder, a URL or a crawl's warc.paths.gz, whose lines are paths below `base`.

    `texts`: what is said of an image, "alt,title,figcaption,data-caption": attributes, and the caption of its figure;
    each distinct text is a row of its own. Only HTML pages that were answered with 200 are read.
    """

    def __init__(self, path: str, base: str = archive.DATA, texts: str = "alt"):
        self.path, self.base = str(path), base
        self.texts = text_names(texts, "warc", "[a-z][a-z0-9_:.-]*")

    def parts(self) -> list[str]:
        return archive.files_of(self.path, "warc", self.base)

    def read(self, part: str) -> Iterator[pa.Table]:
        return archive.read(part, WarcRecordType.response, self._find)

    def _find(self, record: WarcRecord, body: bytes, rows: Rows) -> None:
        http = record.http_headers
        if not http or http.status_code != 200 or not _is_html(record):
            return
        body = _plain(body, http.get("Content-Encoding"), http.get("Transfer-Encoding"))
        page = (record.headers.get("WARC-Target-URI") or "").strip("<>")
        found = images(as_utf8(body, record.http_charset))
        absolute = Resolver(page, found.base)
        urls: list[str | None] = []
        captions: list[str] = []
        for attributes, caption in zip(found.attributes, found.captions, strict=False):
            said = {**attributes, "figcaption": caption}
            texts = distinct(said.get(name) for name in self.texts)
            if texts and (url := _url(attributes, absolute)):
                urls += [url] * len(texts)
                captions += texts
        rows.add_page(page, None, urls, captions)


def _is_html(record: WarcRecord) -> bool:
    kind = record.http_content_type or record.headers.get("WARC-Identified-Payload-Type") or ""
    return kind.strip().lower() in HTML


def _plain(body: bytes, *encodings: str | None) -> bytes:
    """The page without its content and transfer encodings; Common Crawl took them off and left some of the headers."""
    for name in [name.strip().lower() for names in reversed(encodings) if names for name in names.split(",")][:4]:
        if name in ("gzip", "x-gzip", "deflate"):
            body = _inflated(body)
        elif name == "chunked":
            body = _read(ChunkedReader(io.BytesIO(body))) or body
        elif name == "br":
            body = _read(BrotliReader(io.BytesIO(body))) or body
    return body


def _inflated(body: bytes) -> bytes:
    for window in (47, -15):  # gzip and zlib tell themselves; deflate may come without a header
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(window).decompress(body, archive.LARGEST)
    return body


def _read(stream: WarcReader) -> bytes:
    """What a decoder makes of a body; nothing where it is not encoded so."""
    read = functools.partial(stream.read, streams.BLOCK)
    try:
        return b"".join(itertools.islice(iter(read, b""), archive.LARGEST // streams.BLOCK))
    except OSError:
        return b""


def _url(attributes: dict[str, str | None], absolute: Resolver) -> str | None:
    """Where an image really is: what scripts will load, src, or the largest of srcset."""
    for name in (*LAZY, "data-srcset", "src", "srcset"):
        found = attributes.get(name)
        if found and (url := absolute(largest(found) if name.endswith("srcset") else found)):
            return url
    return None
