"""Images of web pages and the texts about them: which URL is fetched, what a text is, rows in batches."""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urljoin

import pyarrow as pa

from curate.errors import CurateError

WEB = re.compile(r"https?://(?:\[[^\]/?#]*\]|[^/?#\\\[\]])", re.IGNORECASE).match
BASE = re.compile(r"((https?:)//[^/?#]+)(/[^?#]*)?").match
# what `urljoin` only puts behind its base: no scheme, no query, no character that it has an opinion on
PLAIN = re.compile(r"(//?|\./|\.\./|)[A-Za-z0-9_~%+@,=&!$()*-][A-Za-z0-9_~%+@,=&!$()*./-]*").fullmatch
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
        path = (found[3] or "/") if found else ""
        self._plain = found is not None and "/." not in path and "//" not in path
        if found:
            folder = path[: path.rfind("/") + 1]
            self._starts = {
                "": found[1] + folder,
                "./": found[1] + folder,
                "../": found[1] + folder[: folder.rfind("/", 0, -1) + 1 or 1],
                "/": found[1] + "/",
                "//": found[2] + "//",
            }

    _plain = False  # while <base> itself is resolved

    def __call__(self, url: str) -> str | None:
        """The URL without blanks around it and line breaks inside, or None where it does not lead to http(s)."""
        if not url.isprintable() or " " in url or "\\" in url:
            url = _tidy(url)
        if url.startswith(("https://", "http://")):
            return url if WEB(url) else None
        plain = PLAIN(url) if self._plain else None
        if plain and url.find("/.", plain.end(1)) < 0 and url.find("//", 1) < 0:
            return self._starts[plain[1]] + url[plain.end(1) :]
        return self._joined(url) if url and url[:5].lower() != "data:" else None

    def _joined(self, url: str) -> str | None:
        try:
            found = urljoin(self.base, url)
        except ValueError:  # no address: http://[x
            return None
        scheme, colon, rest = found.partition(":")
        return f"{scheme.lower()}{colon}{rest}" if WEB(found) else None


class Rows:
    """Rows of url, caption and page that become a table when there are enough."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.captions: list[str] = []
        self.pages: list[str | None] = []

    def __len__(self) -> int:
        return len(self.urls)

    def add(self, url: str, captions: list[str], page: str | None) -> None:
        for caption in captions:
            self.urls.append(url)
            self.captions.append(caption)
            self.pages.append(page)

    def table(self) -> pa.Table:
        """The rows as strings, which begin anew."""
        table = pa.table({"url": _strings(self.urls), "caption": _strings(self.captions), "page": _strings(self.pages)})
        self.urls, self.captions, self.pages = [], [], []
        return table


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


def _strings(values: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write and UTF-8 cannot
        return pa.array([v and v.encode("utf-8", "replace").decode() for v in values], pa.string())
