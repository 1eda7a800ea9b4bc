"""Images of web pages and the texts about them: which URL is fetched, what a text is, rows in batches."""

import re
from collections.abc import Iterable
from urllib.parse import urljoin

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import CurateError

WEB = re.compile(r"https?://(?:\[[^\]/?#]*\]|[^/?#\\\[\]])", re.IGNORECASE).match
BASE = re.compile(r"((https?:)//[^/?#]+)(/[^?#]*)?").match
_PART = r"[A-Za-z0-9_~%+@,=&!$()*-][A-Za-z0-9_~%+@,=&!$()*.-]*+"
# what `urljoin` only puts behind a part of its base: no scheme, no dots to follow, nothing empty
PLAIN = re.compile(rf"(//?|\.\.?/|){_PART}(?:/{_PART})*+/?(?:\?[A-Za-z0-9_~%+@,=&!$()*./:-]+)?").fullmatch
FINISHED = r"^https?://[A-Za-z0-9][!-\[\]-~]*$"  # what Resolver leaves as it is
LINE_BREAKS = re.compile(r"[ \t\n\r\f]*[\t\n\r\f][ \t\n\r\f]*")
IGNORED = dict.fromkeys(map(ord, "\t\n\r"))
BLANK = "".join(map(chr, range(33)))  # what surrounds a URL without being part of it


class Resolver:
    """Absolute http(s) URLs of what a page links to: `urljoin` after the page's <base>, most of it without the work."""

    def __init__(self, page: str, base: str | None = None):
        self.base = page
        if base and (declared := self(base)):
            self.base = declared
        found = BASE(self.base)
        path = (found[3] or "/") if found else "//"
        if found and "/." not in path and "//" not in path:
            self._origin, self._scheme = found[1], found[2]
            self._folder = path[: path.rfind("/") + 1]

    _origin = ""  # none while <base> itself is resolved, or where its path is not plain

    def __call__(self, url: str) -> str | None:
        """The URL without blanks around it and line breaks inside, or None where it does not lead to http(s)."""
        plain = PLAIN(url)
        if plain and self._origin:
            lead = plain[1]
            if lead == "/":
                return self._origin + url
            if lead == "//":
                return self._scheme + url
            return self._origin + (self._parent if lead == "../" else self._folder) + url[len(lead) :]
        if url[:5].lower() == "data:":
            return None
        if (tidy := _tidy(url)) != url:
            return self(tidy)
        if url.startswith(("https://", "http://")):
            return url if WEB(url) else None
        return self._joined(url) if url else None

    @property
    def _parent(self) -> str:
        return self._folder[: self._folder.rfind("/", 0, -1) + 1 or 1]

    def _joined(self, url: str) -> str | None:
        try:
            found = urljoin(self.base, url)
        except ValueError:  # no address: http://[x
            return None
        scheme, colon, rest = found.partition(":")
        return f"{scheme.lower()}{colon}{rest}" if WEB(found) else None


class Rows:
    """What pages show, as it stands there; a batch at a time it becomes rows: absolute url, clean caption, page."""

    def __init__(self) -> None:
        self.urls: list[str | None] = []
        self.captions: list[str] = []
        self.pages: list[str] = []
        self._bases: list[str | None] = []
        self._counts: list[int] = []

    def add_page(self, page: str, base: str | None, urls: list[str | None], captions: list[str]) -> None:
        """The images of a page whose <base href> is `base`, one url for each caption."""
        self.urls += urls
        self.captions += captions
        self.pages.append(page)
        self._bases.append(base)
        self._counts.append(len(urls))

    def table(self) -> pa.Table:
        """The rows with a url of the web and a caption, as strings; the collection begins anew."""
        page_of = np.repeat(np.arange(len(self.pages)), self._counts)
        captions = _strings(self.captions)
        broken = pc.invert(pc.ascii_is_printable(captions))
        joined = pc.replace_substring_regex(captions.filter(broken), LINE_BREAKS.pattern, " ")
        captions = pc.utf8_trim_whitespace(pc.replace_with_mask(captions, broken, joined))
        pages = _strings(self.pages).take(pa.array(page_of))
        table = pa.table({"url": self._absolute(page_of), "caption": captions, "page": pages})
        self.__init__()  # type: ignore[misc]
        return table.filter(pc.and_(pc.is_valid(table["url"]), pc.not_equal(table["caption"], "")))

    def _absolute(self, page_of: np.ndarray) -> pa.Array:
        urls = _strings(self.urls)
        done = pc.fill_null(pc.match_substring_regex(urls, FINISHED), False)
        todo = np.flatnonzero(~done.to_numpy(zero_copy_only=False))
        found: list[str | None] = []
        last, resolve = -1, Resolver("")
        for page, url in zip(page_of[todo].tolist(), urls.take(pa.array(todo)).to_pylist(), strict=True):
            if page != last:
                last, resolve = page, Resolver(self.pages[page], self._bases[page])
            found.append(resolve(url) if url else None)
        return pc.replace_with_mask(urls, pc.invert(done), pa.array(found, pa.string()))


def cleaned(text: str) -> str:
    """The text on one line: a line break or tab, with the blanks beside it, is one blank; none at the ends."""
    return (text if text.isprintable() else LINE_BREAKS.sub(" ", text)).strip()


def distinct(texts: Iterable[str | None]) -> list[str]:
    """The texts that are not blank, cleaned, each once."""
    found: list[str] = []
    for text in texts:
        if text and (text := cleaned(text)) and text not in found:
            found.append(text)
    return found


def largest(srcset: str) -> str:
    """The URL of the largest picture in "small.jpg 320w, large.jpg 1024w" or "one.jpg, two.jpg 2x"; "" where there is
    none."""
    best, most, tokens = "", -1.0, srcset.split()[::-1]
    while tokens:
        url = tokens.pop()
        size = 1.0
        if not url.endswith(",") and tokens:
            said, _, rest = tokens.pop().partition(",")
            if rest:
                tokens.append(rest)
            digits = said[:-1]
            size = float(digits) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", digits) else 1.0
        url = url.strip(",")
        if url and size > most:
            best, most = url, size
    return best


def text_names(texts: str, kind: str, known: str) -> tuple[str, ...]:
    """The names in "alt,title". Raises CurateError for one that does not fully match the pattern `known`."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in texts.split(",") if name.strip()))
    for name in names or [""]:
        if not re.fullmatch(known, name):
            raise CurateError(f"'{name}' in texts='{texts}' is no text that {kind} can read: {KNOWN[kind]}")
    return names


KNOWN = {
    "wat": "alt, title (the other attributes and figcaption stand only in the WARC: warc(path=..., texts='...'))",
    "warc": "figcaption, or an attribute of an image: alt, title, aria-label, data-caption ...",
}


def _tidy(url: str) -> str:
    """As browsers read it: no blanks around, no tabs and line breaks, other blanks escaped, backslashes in the path
    turned."""
    url = url.strip(BLANK).translate(IGNORED).replace(" ", "%20")
    if "\\" in url:
        path = re.match(r"[^?#]*", url)[0]  # type: ignore[index]
        url = path.replace("\\", "/") + url[len(path) :]
    return url


def _strings(values: list[str] | list[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write and UTF-8 cannot
        return pa.array([v and v.encode("utf-8", "replace").decode() for v in values], pa.string())
