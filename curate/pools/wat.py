"""Common Crawl's WAT files: the links of each page as JSON, images with their alt and title.

Format: one WARC metadata record a page and exchange, written by commoncrawl/ia-web-commons.
"""

import functools
import json
import operator
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
from fastwarc.warc import WarcRecord, WarcRecordType

from curate.crawl import archive
from curate.crawl.page import Rows, distinct, text_names

IMAGE = "IMG@/src"
HAS_IMAGE = b'"IMG@/src"'
# the other places that ia-web-commons finds links in: known by name, their texts and URLs are passed over undecoded
OTHERS = """A@/href AREA@/href AUDIO@/src BLOCKQUOTE@/cite BODY@/background BUTTON@/formaction DEL@/cite DIV@/onclick
    EMBED@/src FORM@/action FRAME@/src IFRAME@/src IMG@/longdesc INPUT@/formaction INPUT@/onclick INPUT@/src INS@/cite
    OBJECT@/cdata OBJECT@/codebase OBJECT@/data Q@/cite SOURCE@/src STYLE/#text TABLE@/background TD@/background
    TRACK@/src VIDEO@/poster VIDEO@/src A@/data-href DIV@/data-href DIV@/background LI@/data-href SPAN@/data-href
    TR@/data-href TR@/background DIV@/data-uri"""


class Image(msgspec.Struct, gc=False, tag_field="path", tag=IMAGE):
    url: str | None = None
    alt: str | None = None
    title: str | None = None


class AnyLink(msgspec.Struct, gc=False):
    path: str | None = None
    url: str | None = None
    alt: str | None = None
    title: str | None = None


def decoder_of_pages(link: Any) -> msgspec.json.Decoder:
    """Decodes what is needed of a record's JSON; attributes are envelope, payload, response, html, head, links ..."""

    def part(name: str, **fields: tuple[str, Any]) -> type:
        optional = [
            (field, kind | None, msgspec.field(name=key, default=None)) for field, (key, kind) in fields.items()
        ]
        return msgspec.defstruct(name, optional)

    head = part("Head", base=("Base", str))
    html = part("Html", head=("Head", head), links=("Links", list[link]))
    response = part("Response", html=("HTML-Metadata", html))
    payload = part("Payload", response=("HTTP-Response-Metadata", response))
    headers = part("Headers", page=("WARC-Target-URI", str))
    envelope = part("Envelope", headers=("WARC-Header-Metadata", headers), payload=("Payload-Metadata", payload))
    return msgspec.json.Decoder(part("Page", envelope=("Envelope", envelope)))


def known_links() -> Any:
    others = (msgspec.defstruct("Other", [], gc=False, tag_field="path", tag=path) for path in OTHERS.split())
    return functools.reduce(operator.or_, others, Image)


KNOWN = decoder_of_pages(known_links())
ANY = decoder_of_pages(AnyLink | None)


class Pool:
    """`path`: a file, a glob, a folder, a URL or a crawl's wat.paths.gz, whose lines are paths below `base`.

    `texts`: "alt" or "alt,title": what is said of an image; each distinct text is a row of its own.
    """

    def __init__(self, path: str, base: str = archive.DATA, texts: str = "alt"):
        self.path, self.base = str(path), base
        self.texts = text_names(texts, "wat", "alt|title")

    def parts(self) -> list[str]:
        return archive.files_of(self.path, "wat", self.base)

    def read(self, part: str) -> Iterator[pa.Table]:
        return archive.read(part, WarcRecordType.metadata, self._find)

    def _find(self, record: WarcRecord, body: bytes, rows: Rows) -> None:
        if HAS_IMAGE not in body:  # the record of a request, a page without images
            return
        found = _page(body)
        html = _html(found)
        if not html:
            return
        page = (found.envelope.headers and found.envelope.headers.page) or ""
        base = html.head.base if html.head else None
        images = [link for link in html.links or () if type(link) is Image]  # isinstance takes three times as long
        if self.texts == ("alt",):
            images = [image for image in images if image.alt]
            rows.add_page(page, base, [image.url for image in images], [image.alt or "" for image in images])
            return
        texts = [distinct(getattr(image, name) for name in self.texts) for image in images]
        urls = [image.url for image, found in zip(images, texts, strict=True) for _ in found]
        rows.add_page(page, base, urls, [text for found in texts for text in found])


def _page(body: bytes) -> Any:
    """The decoded JSON, its links of type Image or not."""
    try:
        return KNOWN.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:  # slower, but takes links of any shape, bytes that are no UTF-8, lone surrogates and control characters
        page = msgspec.convert(json.loads(body.decode("utf-8", "replace"), strict=False), ANY.type)
    except (ValueError, RecursionError) as error:
        raise archive.Unreadable(str(error)) from error
    html = _html(page)
    if html:
        found = (link for link in html.links or () if link is not None and link.path == IMAGE)
        html.links = [Image(link.url, link.alt, link.title) for link in found]
    return page


def _html(page: Any) -> Any:
    envelope = page.envelope
    return envelope and envelope.payload and envelope.payload.response and envelope.payload.response.html
