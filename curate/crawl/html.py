"""The images of an HTML page, found tag by tag as the WHATWG tokenizer finds them; the page never becomes a tree.

A tree can grow with the square of its page: 59 kB of `<p><b id=1><b id=2>... <p>x<p>x...` cost Lexbor 15 s and 5.8 GB.
Here the time grows with the length alone. Comments, scripts, text areas and templates are passed over.
"""

import html
import re
from dataclasses import dataclass, field

from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser

# what may stand behind a "<", by the states of the tokenizer; possessive, so that no page makes it look twice
_VALUE = rb"""=[\t\n\f\r ]*+(?:"[^"]*+"?+|'[^']*+'?+|[^\t\n\f\r >"'][^\t\n\f\r >]*+)?+"""
# names up to a value; or a name that begins with "=", and its value
_ATTRIBUTES = (
    rb"(?:(?=[\t\n\f\r /]*+[^\t\n\f\r />=])[^>=]*+(?:%b)?+|"
    rb"[\t\n\f\r /]*+=[^\t\n\f\r />=]*+(?:[\t\n\f\r ]*+%b)?+|[\t\n\f\r /]++)*+>?+"
) % (_VALUE, _VALUE)
_TIDY = rb"""[a-z0-9]++(?: [a-z0-9_:-]++="[^"]*+")*+"""  # most tags begin and end so: the short way
_TAG = rb"(?:%b(?:>|[^\t\n\f\r />]*+%b)|/[a-z][^\t\n\f\r />]*+%b|[!?/][^>]*+>?+)?+" % (_TIDY, _ATTRIBUTES, _ATTRIBUTES)
_NAMED = (
    rb"(?:!--|(?:s(?:cript|tyle)|t(?:extarea|itle|emplate)|xmp|i(?:frame|mg|mage)|no(?:embed|frames)|plaintext|amp-img|"
    rb"base|/?fig(?:ure|caption))[\t\n\f\r />])"
)
NEXT = re.compile(rb"[^<]*+(?:<(?:/[a-eg-z][a-z0-9]*+>|(?!%b)%b)[^<]*+)*+<([!/]?[a-z-]+)" % (_NAMED, _TAG))
TAG = re.compile(b"<" + _TAG.replace(b">?+", b"(>)?+").replace(b"(?:>|", b"(?:(>)|"))  # no group: cut off by the end
TEXT = re.compile(rb"([^<]*+)(?><!--.*?--!?>|<!--.*|<%b)?+" % _TAG, re.DOTALL)
COMMENT_END = re.compile(rb"--!?>")
RAW = {
    name: re.compile(rb"</%b[\t\n\f\r />]" % name)
    for name in (b"script", b"style", b"textarea", b"title", b"xmp", b"iframe", b"noembed", b"noframes", b"template")
}
IMAGES = (b"img", b"amp-img", b"image")


@dataclass
class Images:
    """The <base href> of a page; the attributes of its images, and the caption of the figure around each or None."""

    base: str | None
    attributes: list[dict[str, str | None]]
    captions: list[str | None]


def images(page: bytes) -> Images:
    """What a page in UTF-8 shows."""
    found = _Scan(page).run()
    tree = LexborHTMLParser(b"".join(found.tags), options=LexborDocumentOptions.WO_EVENTS)
    base = tree.css_first("base[href]")
    return Images(base.attrs.get("href") if base else None, [i.attributes for i in tree.tags("img")], found.captions)


@dataclass
class _Figure:
    waiting: list[int] = field(default_factory=list)  # images without a caption so far
    caption: str | None = None


class _Scan:
    def __init__(self, page: bytes):
        self.page, self.small = page, page.lower()
        self.tags: list[bytes] = []  # <base> and <img>, one behind the other
        self.captions: list[str | None] = []  # of each <img>
        self.figures: list[_Figure] = []
        self.caption_from: int | None = None  # where the text of an open figcaption begins
        self.endless: set[bytes] = set()  # tags that nothing closes

    def run(self) -> "_Scan":
        at: int | None = 0
        while at is not None and (found := NEXT.match(self.small, at)):
            at = self._step(found[1], found.start(1) - 1)
        self._end_caption(len(self.page))
        while self.figures:
            self._end_figure()
        return self

    def _step(self, name: bytes, start: int) -> int | None:
        """Where to go on behind the tag at `start`; None at the end of what can be seen."""
        if name.startswith(b"!--"):
            return _behind(COMMENT_END.search(self.small, start + 2))
        tag = TAG.match(self.small, start)
        if name == b"plaintext" or not tag or not tag.lastindex:
            return None
        end = tag.end()
        if name in RAW:
            return self._behind_raw(name, end)
        if name in IMAGES:
            self._add_image(b"<img" + self.page[start + 1 + len(name) : end])
        elif name == b"base":
            self.tags.append(self.page[start:end])
        elif name.endswith((b"figure", b"figcaption")):
            self._end_caption(start)
            if name == b"figure":
                self.figures.append(_Figure())
            elif name == b"/figure" and self.figures:
                self._end_figure()
            elif name == b"figcaption" and self.figures:
                self.caption_from = end
        return end

    def _behind_raw(self, name: bytes, at: int) -> int | None:
        closed = None if name in self.endless else RAW[name].search(self.small, at)
        if closed:
            return TAG.match(self.small, closed.start()).end()  # type: ignore[union-attr]
        self.endless.add(name)
        # <title/> inside <svg> and a template have nothing to close
        return at if name == b"template" or self.small[at - 2 : at] == b"/>" else None

    def _add_image(self, tag: bytes) -> None:
        if self.figures:
            self.figures[-1].waiting.append(len(self.captions))
        self.tags.append(tag)
        self.captions.append(None)

    def _end_caption(self, at: int) -> None:
        if self.caption_from is not None and self.figures[-1].caption is None:
            self.figures[-1].caption = _text(self.page[self.caption_from : at])
        self.caption_from = None

    def _end_figure(self) -> None:
        figure = self.figures.pop()
        if figure.caption:
            for number in figure.waiting:
                self.captions[number] = figure.caption
        elif self.figures:  # those of the figure around it count
            few, many = sorted((figure.waiting, self.figures[-1].waiting), key=len)
            many.extend(few)
            self.figures[-1].waiting = many


def _behind(found: re.Match[bytes] | None) -> int | None:
    return found.end() if found else None


def _text(source: bytes) -> str:
    small, pieces, at = source.lower(), [], 0
    while at < len(source) and (found := TEXT.match(small, at)):
        pieces.append(source[at : found.end(1)])
        at = found.end()
    return " ".join(html.unescape(b" ".join(pieces).decode("utf-8", "replace")).split())
