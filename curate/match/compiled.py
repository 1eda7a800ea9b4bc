"""The same matching as one compiled loop over the Arrow buffers: same tables, same results, twice as quick.

Texts that composing or case folding changes in more than single characters, and texts that are not UTF-8, are left to
the numpy path: `Compiled` names them.
"""

from functools import cache

import numpy as np
import pyarrow as pa

from curate.compiled.machine import load
from curate.match.characters import FOLDS, UNSTABLE, ascii_classes, metaclip_classes, unicode_classes
from curate.match.layout import ARRAYS, LEFT, LOOPS, RECENT, SPARE, TOGETHER, UNICODE
from curate.match.tokens import buffers
from curate.match.trie import Trie

TABLES = ("classes", "pages", "page_classes", "page_steps", "words", "windows", "twins")


class Compiled:
    """Matches blocks of texts with the tables of a Matcher. Raises RuntimeError where the loops cannot be compiled."""

    def __init__(self, trie: Trie, mode: str, casefold: bool, nfc: bool, longest: int):
        spaced = mode == "metaclip"
        classes, pages = (metaclip_classes(), _no_pages()) if spaced else (_byte_classes(), _pages(casefold, nfc))
        self.tables = dict(zip(TABLES, (classes, *pages, trie.words, trie.windows, trie.twins)))
        self.options = (len(trie.words).bit_length() - 1, bool(trie.plain[0]), len(trie.twins) > 0, spaced,
                        casefold and not spaced, longest)  # fmt: skip
        self.loops = load(LOOPS)

    def match(self, block: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Matches in each text, int64 [n]; their queries, int32, ascending in a text; rows that are left, int64."""
        data, offsets = buffers(block)
        rows, size = len(block), 0
        counts, left = np.zeros(rows, np.int64), np.zeros(rows, np.uint8)
        found, progress = np.empty(len(data) // 8 + rows + 1024, np.int32), np.zeros(2, np.int64)
        arrays = {**self.tables, **_rooms(int(np.diff(offsets).max(initial=0))), "data": data, "offsets": offsets,
                  "counts": counts, "left": left, "progress": progress}  # fmt: skip
        while progress[0] < rows:
            self.loops(*LOOPS.addresses(arrays | {"found": found}), rows, len(found) - SPARE, *self.options)
            size = int(progress[1])
            if progress[0] < rows:
                found = np.concatenate((found, np.empty_like(found)))
        return counts, found[:size], np.flatnonzero(left)


def _rooms(longest: int) -> dict[str, np.ndarray]:
    """What the loops work in, for texts of at most `longest` bytes."""
    sizes = {"bounds": TOGETHER + 1, "few": 18, "recent": RECENT, "known": RECENT}
    names = ("text", "kinds", "hashes", "before", "values", "nexts", "some", "paths", *sizes)
    return {name: np.zeros(sizes.get(name, max(longest, TOGETHER) + 16), ARRAYS[name]) for name in names}


def _byte_classes() -> np.ndarray:
    classes = ascii_classes().copy()
    classes[128:] = UNICODE
    return classes


def _no_pages() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(1, np.uint16), np.zeros((1, 256), np.uint8), np.zeros((1, 256), np.int32)


@cache
def _pages(casefold: bool, nfc: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the default rule makes of each code point, in pages of 256: the page of each 256 code points (many share
    one), the classes in it, and the steps to the code points that they count as."""
    steps = np.zeros(0x110000, np.int32)
    left = (unicode_classes() >= UNSTABLE) & nfc
    if casefold:
        for code in range(0x20000):  # beyond, nothing has case
            lowered = chr(code).casefold()
            if len(lowered) > 1:
                left[code] = True
            else:
                steps[code] = ord(lowered) - code
    for sign, plain in FOLDS.items():
        steps[np.flatnonzero(_counted_as(steps, 0x20000) == ord(sign))] += ord(plain) - ord(sign)
    classes = unicode_classes().copy()
    (moved,) = np.nonzero(steps)
    classes[moved] = unicode_classes()[moved + steps[moved]]
    left[moved] |= (classes[moved] >= UNSTABLE) & nfc
    classes &= ~np.uint8(UNSTABLE)
    classes[left] = LEFT
    return _shared(classes.reshape(-1, 256), steps.reshape(-1, 256))


def _counted_as(steps: np.ndarray, end: int) -> np.ndarray:
    return np.arange(end, dtype=np.int32) + steps[:end]


def _shared(*tables: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The number of each row among the different rows of two tables, and these rows."""
    numbers: dict[bytes, int] = {}
    page = [numbers.setdefault(b"".join(row.tobytes() for row in rows), len(numbers)) for rows in zip(*tables)]
    first = np.unique(page, return_index=True)[1]
    return np.array(page, np.uint16), tables[0][first], tables[1][first]
