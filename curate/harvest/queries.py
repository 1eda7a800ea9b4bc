"""The query list: one query a line, blanks and repetitions dropped, order kept."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from curate.errors import CurateError
from curate.storage.streams import Lines, exists

PREVIEW = 1 << 20


@dataclass(frozen=True)
class Queries:
    """The list as it is matched, and what was dropped from the file."""

    texts: list[str]
    blank: int
    repeated: int

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()


EVERYTHING = Queries(["*"], 0, 0)  # stands in every text


def read(path: str) -> Queries:
    """The queries of a UTF-8 file (.txt, also .gz .bz2 .xz .zst; any fsspec URL).

    Raises CurateError where the file is missing, damaged, no UTF-8, or holds no query.
    """
    if not exists(path):
        raise CurateError(
            f"no such query list: {path}; write one, a query a line, or: curate queries build --out {path}"
        )
    with Lines(path) as lines:
        content = b"".join(iter(lambda: lines.read(PREVIEW), b""))
        if lines.damage:
            raise CurateError(f"the query list {path} is damaged: {lines.damage}")
    try:
        stripped = [line.strip() for line in content.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CurateError(f"the query list {path} is not UTF-8 (line {line}): save it as UTF-8") from error
    if stripped and not stripped[-1]:
        stripped.pop()  # what follows the last line end is no line
    filled = [text for text in stripped if text]
    texts = list(dict.fromkeys(filled))
    if not texts:
        raise CurateError(f"the query list {path} holds no query; write one a line")
    return Queries(texts, len(stripped) - len(filled), len(filled) - len(texts))
