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
    return np.zeros(1, np.uint16), np.zeros((1, 256), np.uint8), np.zeros((1, 256), np.uint32)


@cache
def _pages(casefold: bool, nfc: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the default rule makes of each code point: its class and the code point it counts as, in pages of 256."""
    codes = np.arange(0x110000, dtype=np.uint32)
    left = (unicode_classes() >= UNSTABLE) & nfc
    if casefold:
        for code in range(0x20000):  # beyond, nothing has case
            lowered = chr(code).casefold()
            if len(lowered) > 1:
                left[code] = True
            else:
                codes[code] = ord(lowered)
        left |= (unicode_classes() >= UNSTABLE)[codes] & nfc
    targets = codes.copy()
    for sign, plain in FOLDS.items():
        targets[codes == ord(sign)] = ord(plain)
    classes = (unicode_classes() & ~np.uint8(UNSTABLE))[targets]
    classes[left] = LEFT
    both = np.concatenate((targets.reshape(-1, 256), classes.reshape(-1, 256).astype(np.uint32)), axis=1)
    pages, page = np.unique(both, axis=0, return_inverse=True)
    return page.ravel().astype(np.uint16), pages[:, 256:].astype(np.uint8), np.ascontiguousarray(pages[:, :256])


def _eights(data: np.ndarray) -> np.ndarray:
    """The eight bytes from each place as one word: a view."""
    return np.lib.stride_tricks.as_strided(data[:8].view("<u8"), (len(data) - 8,), (1,))
