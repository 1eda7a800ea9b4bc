"""The characters of an HTML page, as browsers decode it: byte order mark, HTTP header, meta tag, a guess.

Labels mean what the WHATWG Encoding Standard says: "latin1" is windows-1252, "gb2312" is GB 18030.
"""

import codecs
import re

MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
DECLARED = re.compile(
    rb"<meta[^>]{0,512}?charset\s{0,9}=[\s\"']{0,9}([\w:.-]{1,40})"
    rb"|<\?xml[^>]{0,256}?encoding\s{0,9}=\s{0,9}[\"']([\w:.-]{1,40})",
    re.IGNORECASE,
)
PRESCAN = 4096  # bytes in which a page says its encoding; the standard looks at 1,024
WIDER = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs",
    "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8",
}  # fmt: skip
WEB = {
    "utf-8", "cp866", "cp874", "cp932", "cp949", "big5hkscs", "gb18030", "euc_jp", "iso2022_jp", "koi8-r", "koi8-u",
    "mac-roman", "mac-cyrillic", *(f"cp{page}" for page in range(1250, 1259)),
    *(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
}  # fmt: skip


def as_utf8(page: bytes, declared: str | None = None) -> bytes:
    """The page in UTF-8; `declared` is the charset of the HTTP header. What cannot be decoded becomes U+FFFD."""
    for mark, name in MARKS:
        if page.startswith(mark):
            return page[len(mark) :].decode(name, "replace").encode("utf-8", "replace")
    name = _codec(declared) or _codec(_said(page)) or "cp1252"
    if name in ("cp1252", "utf-8") and _is_utf8(page):  # servers say latin1 of everything
        return page
    return page.decode(name, "replace").encode("utf-8", "replace")


def _is_utf8(page: bytes) -> bool:
    try:
        page.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _said(page: bytes) -> str | None:
    found = DECLARED.search(page, 0, PRESCAN)
    return (found[1] or found[2]).decode("ascii", "replace") if found else None


def _codec(label: str | None) -> str | None:
    """The codec behind a label, None for one that browsers do not know."""
    if not label or not label.isascii() or "\0" in label:
        return None
    try:
        name = codecs.lookup(label.strip(" \t\n\"'").removeprefix("x-")).name
    except LookupError:
        return None
    name = WIDER.get(name, name)
    return name if name in WEB else None
