"""The same matching as one compiled loop (numba) over the Arrow buffers: same tables, same results, twice as quick.

Texts that composing or case folding changes in more than single characters, and texts that are not UTF-8, are left to
the numpy path: `Compiled` names them.
"""

from functools import cache

import numpy as np
import pyarrow as pa

from curate.harvest.match.characters import FOLDS, UNSTABLE, ascii_classes, metaclip_classes, unicode_classes
from curate.harvest.match.kernel import LEFT, TOGETHER, UNICODE, matched
from curate.harvest.match.tokens import buffers
from curate.harvest.match.trie import Trie


class Compiled:
    """Matches blocks of texts with the tables of a Matcher. Compiled at the first call, once for a machine."""

    def __init__(self, trie: Trie, mode: str, casefold: bool, nfc: bool, longest: int):
        self.spaced, self.lower, self.longest = mode == "metaclip", casefold and mode != "metaclip", longest
        classes = metaclip_classes() if self.spaced else _byte_classes()
        pages = _no_pages() if self.spaced else _pages(casefold, nfc)
        self.text_tables = [_frozen(table) for table in (classes, *pages)]
        self.trie_tables = [_frozen(table) for table in (trie.words, trie.windows, trie.twins)]
        self.bits, self.plain = np.uint64(len(trie.words).bit_length() - 1), bool(trie.plain[0])

    def match(self, block: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Matches in each text, int64 [n]; their queries, int32, ascending in a text; rows that are left, int64."""
        data, offsets = buffers(block)
        room = max(int(np.diff(offsets).max(initial=0)), TOGETHER) + 16
        text, kinds = np.zeros(room, np.uint8), np.zeros(room, np.uint8)
        counts, left = np.zeros(len(block), np.int64), np.zeros(len(block), np.bool_)
        queries = matched(_frozen(data), offsets, text, _eights(text), kinds, _eights(kinds), *self.text_tables,
                         *self.trie_tables, self.bits, self.plain, self.spaced, self.lower, self.longest, counts,
                         left)  # fmt: skip
        return counts, queries, np.flatnonzero(left)


def _frozen(array: np.ndarray) -> np.ndarray:
    """A read-only view: what is loaded and what is built is the same type to the compiler then."""
    view = array.view()
    view.flags.writeable = False
    return view


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


def _eights(data: np.ndarray) -> np.ndarray:
    """The eight bytes from each place as one word: a view."""
    return np.lib.stride_tricks.as_strided(data[:8].view("<u8"), (len(data) - 8,), (1,))
