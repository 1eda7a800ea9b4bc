"""The two ways to cut queries and texts into tokens; characters.py says what each character does.

A query matches where its tokens stand one after the other and touch as they do in the query. `before` says how: under
the default rule 1, but 0 between two symbols (or characters of scripts without blanks) that follow each other directly,
so that a window of them is a substring; under MetaCLIP's rule the blanks that its spacing leaves between them.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
from curate.match.tokens import Tokens, buffers, hashes_of, looked_up, spans

UNLIMITED = 1 << 62
# a tab, a mark that touches anything but blanks, marks with one blank between them where spacing leaves at least two
METACLIP_DEAD = re.compile(r"[\t\n\r]|[^ ][,.;:?!`]|[,.;:?!`][^ ]|[,.;:?!`] [,.;:?!`]")
Parts = list[tuple[np.ndarray | None, Tokens]]  # rows of the block (None: all) and their tokens


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

    def texts(self, block: pa.Array, longest: int) -> Parts:
        """Tokens of a block of binary texts; those longer than `longest` bytes need no exact hash."""
        return [(None, self._tokens(block, metaclip_classes(), longest))]

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

    def texts(self, block: pa.Array, longest: int) -> Parts:
        """Tokens of a block of binary texts; those longer than `longest` bytes need no exact hash."""
        ascii_rows = pc.string_is_ascii(block.view(pa.large_string()))
        rows = ascii_rows.to_numpy(zero_copy_only=False)
        if rows.all():
            return [(None, self._ascii(block, longest))]
        return [
            (np.flatnonzero(rows), self._ascii(block.filter(ascii_rows), longest)),
            (np.flatnonzero(~rows), self._unicode(block.filter(pc.invert(ascii_rows)), longest)[0]),
        ]

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
        data = np.frombuffer(codes.tobytes().decode("utf-32-le").encode(), np.uint8)
        place = np.zeros(len(codes) + 1, np.int64)
        np.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000), out=place[1:])
        return _tokens(data, place[starts], place[ends], longest, bounds, before), kinds

    def _codes(self, texts: pa.Array) -> np.ndarray:
        """Code points of the texts, each ended by a newline, which composing and case folding do not look across."""
        newline, nothing = pa.scalar(b"\n", texts.type), pa.scalar(b"", texts.type)
        ended = pc.binary_join_element_wise(pc.replace_substring(texts, b"\n", b" "), newline, nothing)
        text = self._composed(buffers(ended)[0].tobytes().decode("utf-8", "replace"))
        text = self._composed(text.casefold()) if self.casefold else text
        return _code_points(text)

    def _composed(self, text: str) -> str:
        """NFC of each line; lines that it cannot change, nearly all, are not looked at one by one."""
        if not self.nfc:
            return text
        codes = _code_points(text)
        unstable = np.flatnonzero(np.take(unicode_classes(), codes) >= UNSTABLE)
        if not len(unstable):
            return text
        lines = text.split("\n")
        for line in np.unique(np.searchsorted(np.flatnonzero(codes == ord("\n")), unstable)).tolist():
            lines[line] = unicodedata.normalize("NFC", lines[line])
        return "\n".join(lines)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def encoded(queries: Sequence[str]) -> pa.Array:
    """Queries as bytes; a lone surrogate keeps the bytes that a careless JSON reader gives it."""
    return pa.array([query.encode("utf-8", "surrogatepass") for query in queries], pa.large_binary())


def _tokens(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, longest: int, bounds: np.ndarray, *touch) -> Tokens:
    length = ends - starts
    return Tokens(hashes_of(data, starts, length, longest), bounds, int(length.max(initial=0)), *touch)
