"""The two ways to cut queries and texts into tokens; characters.py says what each character does.

A query matches where its tokens stand one after the other and touch as they do in the query. `before` says how: under
the default rule 1, but 0 between two symbols (or characters of scripts without blanks) that follow each other directly,
so that a window of them is a substring; under MetaCLIP's rule the blanks that its spacing leaves between them.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from curate.match.characters import (
    MARK,
    SYMBOL,
    UNSTABLE,
    WORD,
    ascii_classes,
    folded,
    metaclip_classes,
    unicode_classes,
)
from curate.match.tokens import Tokens, before_each, buffers, hashes_of, joined, looked_up, spans

UNLIMITED, NONE = 1 << 62, np.zeros(0, np.int64)
# a tab, a mark that touches anything but blanks, marks with one blank between them where spacing leaves at least two
METACLIP_DEAD = re.compile(r"[\t\n\r]|[^ ][,.;:?!`]|[,.;:?!`][^ ]|[,.;:?!`] [,.;:?!`]")


@dataclass(frozen=True)
class Metaclip:
    """MetaCLIP's substring rule (Xu et al., Demystifying CLIP Data, 2023, arXiv 2309.16671), on bytes.

    Text: blanks around it and around each of , . ; : ? ! `, tabs and newlines to blanks. Query: blanks around it. Then
    one is searched for the other, which is the same as comparing what stands between the blanks, and counting them.
    """

    def queries(self, texts: pa.Array) -> tuple[Tokens, np.ndarray]:
        """Tokens of the queries (blanks alone part them), and which can never match."""
        dead = [bool(METACLIP_DEAD.search(query.decode("utf-8", "replace"))) for query in texts.to_pylist()]
        return self._tokens(texts, metaclip_classes(" ", ""), UNLIMITED), np.array(dead, bool)

    def texts(self, block: pa.Array, longest: int) -> Tokens:
        """Tokens of a block of binary texts; those longer than `longest` bytes need no exact hash."""
        return self._tokens(block, metaclip_classes(), longest)

    def _tokens(self, texts: pa.Array, table: np.ndarray, longest: int) -> Tokens:
        data, offsets = buffers(texts)
        classes = looked_up(table, data)
        starts, ends, bounds = spans(classes, offsets)
        marks = classes[starts] == MARK
        before = np.ones(len(starts), np.int32)
        before[1:] = starts[1:] - ends[:-1]
        before[1:] += marks[:-1]
        filled = bounds[:-1] < bounds[1:]
        first, last = bounds[:-1][filled], bounds[1:][filled] - 1
        before[first] = starts[first] - offsets[:-1][filled] + 1
        before += marks
        after = offsets[1:] - offsets[:-1] + 2
        after[filled] = offsets[1:][filled] - ends[last] + marks[last] + 1
        return _tokens(data, starts, ends, longest, bounds, before, after)


@dataclass(frozen=True)
class Default:
    """Both sides cut alike; composed (NFC) and case-folded where asked for."""

    casefold: bool = False
    nfc: bool = True

    def queries(self, texts: pa.Array) -> tuple[Tokens, np.ndarray]:
        """Tokens of the queries, and which can never match: those without a word or a symbol."""
        tokens, kinds = self._unicode(texts, UNLIMITED)
        speaking = np.concatenate(([0], np.cumsum((kinds == WORD) | (kinds == SYMBOL))))
        dead = speaking[tokens.bounds[1:]] == speaking[tokens.bounds[:-1]]
        return tokens, dead

    def texts(self, block: pa.Array, longest: int) -> Tokens:
        """Tokens of a block of binary texts, the ASCII ones first; those longer than `longest` need no exact hash."""
        data, offsets = buffers(block)
        ascii_rows = np.diff(before_each(data >= 0x80, offsets)) == 0
        if ascii_rows.all():
            return self._ascii(block, longest)
        parts = [
            self._ascii(block.filter(pa.array(ascii_rows)), longest),
            self._unicode(block.filter(pa.array(~ascii_rows)), longest)[0],
        ]
        return replace(joined(parts), rows=np.argsort(~ascii_rows, kind="stable"))

    def _ascii(self, texts: pa.Array, longest: int) -> Tokens:
        """What _unicode gives for ASCII texts, without the way through code points."""
        data, offsets = buffers(texts)
        starts, ends, bounds = spans(looked_up(ascii_classes(), data), offsets)
        if self.casefold:
            data = data + ((data >= ord("A")) & (data <= ord("Z"))) * np.uint8(32)
        return _tokens(data, starts, ends, longest, bounds)

    def _unicode(self, texts: pa.Array, longest: int) -> tuple[Tokens, np.ndarray]:
        """Tokens and the character class of each. Bytes that are not UTF-8 count as U+FFFD."""
        codes, classes = folded(self._codes(texts))
        lines = np.concatenate(([0], np.flatnonzero(codes == ord("\n")) + 1))
        starts, ends, bounds = spans(classes, lines)
        kinds = classes[starts]
        before = np.ones(len(starts), np.int32)
        before[1:] -= (kinds[1:] == SYMBOL) & (kinds[:-1] == SYMBOL) & (starts[1:] == ends[:-1])
        data = np.frombuffer(_text(codes).encode(), np.uint8)
        place = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))  # where each code point begins
        return _tokens(data, place[starts], place[ends], longest, bounds, before), kinds

    def _codes(self, texts: pa.Array) -> np.ndarray:
        """Code points of the texts, each ended by a newline, which composing and case folding do not look across."""
        data, offsets = buffers(texts)
        ended = np.full(len(data) + len(texts), ord("\n"), np.uint8)
        inside = np.ones(len(ended), bool)
        inside[offsets[1:] + np.arange(len(texts))] = False
        ended[inside] = np.where(data == ord("\n"), np.uint8(ord(" ")), data)
        text = ended.tobytes().decode("utf-8", "replace")
        codes = self._composed(text)
        return self._composed(_text(codes).casefold()) if self.casefold else codes

    def _composed(self, text: str) -> np.ndarray:
        """Code points of the NFC of each line; only lines that it may change are looked at one by one."""
        codes = _code_points(text)
        unstable = np.flatnonzero(np.take(unicode_classes(), codes) >= UNSTABLE) if self.nfc else NONE
        if not len(unstable):
            return codes
        ends = np.flatnonzero(codes == ord("\n"))
        lines, done = np.unique(np.searchsorted(ends, unstable)), 0
        parts: list[str] = []
        for start, end in zip((np.append(-1, ends)[lines] + 1).tolist(), ends[lines].tolist()):
            parts += (text[done:start], unicodedata.normalize("NFC", text[start:end]))
            done = end
        return _code_points("".join((*parts, text[done:])))


def _code_points(text: str) -> np.ndarray:
    return np.array([text]).view(np.uint32)[: len(text)]  # numpy lays strings out as code points


def _text(codes: np.ndarray) -> str:
    return codes.tobytes().decode("utf-32-le")


def encoded(queries: Sequence[str]) -> pa.Array:
    """Queries as bytes; a lone surrogate keeps the bytes that a careless JSON reader gives it."""
    return pa.array([query.encode("utf-8", "surrogatepass") for query in queries], pa.large_binary())


def _tokens(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, longest: int, bounds: np.ndarray, *touch) -> Tokens:
    length = ends - starts
    return Tokens(hashes_of(data, starts, length, longest), bounds, int(length.max(initial=0)), *touch)
