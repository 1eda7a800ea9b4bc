"""WARC files: the images of every HTML page, with alt, title, figcaption or any other attribute as text.

Format: WARC 1.1 (ISO 28500) as Common Crawl, Heritrix, wget and warcio write it; HTML as browsers parse it (Lexbor).
"""

import functools
import io
import itertools
from collections.abc import Callable, Iterator

import pyarrow as pa
from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader
from fastwarc.warc import WarcRecord, WarcRecordType
from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser, LexborNode

from curate import pools
from curate.crawl import archive
from curate.crawl.charset import decoded
from curate.crawl.page import Resolver, Rows, distinct, largest, text_names

HTML = ("text/html", "application/xhtml+xml")
# a script moves one of these to src, where a placeholder stands until then
LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy")
DECODERS = {"chunked": ChunkedReader, "gzip": GzipReader, "x-gzip": GzipReader, "deflate": GzipReader,
            "br": BrotliReader}  # fmt: skip


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
        small = body.lower()
        if b"<img" not in small and b"<amp-img" not in small and b"<image" not in small:
            return
        tree = LexborHTMLParser(decoded(body, record.http_charset), options=LexborDocumentOptions.WO_EVENTS)
        page = (record.headers.get("WARC-Target-URI") or "").strip("<>")
        base = tree.css_first("base[href]") if b"<base" in small else None
        absolute = Resolver(page, base.attrs.get("href") if base else None)
        figures = _figures(tree) if "figcaption" in self.texts else {}
        for image in tree.tags("img") + (tree.tags("amp-img") if b"<amp-img" in small else []):
            attributes = image.attrs
            texts = distinct(
                figures.get(image.mem_id) if name == "figcaption" else attributes.get(name) for name in self.texts
            )
            if texts and (url := _url(attributes.get, absolute)):
                rows.add(url, texts, page)


def _is_html(record: WarcRecord) -> bool:
    kind = record.http_content_type or record.headers.get("WARC-Identified-Payload-Type") or ""
    return kind.strip().lower() in HTML


def _plain(body: bytes, *encodings: str | None) -> bytes:
    """The page without its transfer and content encodings; Common Crawl took them off and left some of the headers."""
    for name in [name.strip().lower() for names in reversed(encodings) if names for name in names.split(",")][:4]:
        if name in DECODERS:
            read = functools.partial(DECODERS[name](io.BytesIO(body)).read, pools.BLOCK)
            try:
                body = b"".join(itertools.islice(iter(read, b""), archive.LARGEST // pools.BLOCK))
            except OSError:  # it is not encoded so
                return body
    return body


def _figures(tree: LexborHTMLParser) -> dict[int, str]:
    """The caption of the innermost figure around each image."""
    captions: dict[int, str] = {}
    for figure in tree.tags("figure"):
        caption = figure.css_first("figcaption")
        if caption:
            captions |= {image.mem_id: _text(caption) for image in figure.css("img, amp-img")}
    return captions


def _text(node: LexborNode) -> str:
    return " ".join(node.text(separator=" ").split())


def _url(attribute: Callable[[str], str | None], absolute: Resolver) -> str | None:
    """Where an image really is: what scripts will load, src, or the largest of srcset."""
    for name in (*LAZY, "data-srcset", "src", "srcset"):
        found = attribute(name)
        if found and (url := absolute(largest(found) if name.endswith("srcset") else found)):
            return url
    return None
