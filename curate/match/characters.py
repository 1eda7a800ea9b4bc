"""What each character does to a token: parts it, belongs to it, or stands alone.

metaclip  Blank, tab, newline and carriage return part tokens; each of , . ; : ? ! ` stands alone. Nothing else counts.
default   Parting, and dropped: whitespace, control characters, the zero-width space.
          Alone, as marks: punctuation, quotes, brackets, dashes, mathematical signs (Unicode P*, Sm, Sk), save % and +.
          Alone, as symbols: emoji, ™, © (Unicode So, skin tones) and every Chinese, Japanese, Thai, Lao, Khmer,
          Burmese, Tibetan, Yi and Bopomofo character, because these scripts put no blanks between words.
          ' - & @ # * belong to a word with word characters on both sides (don't, x-ray, AT&T), else they are marks.
          Removed: soft hyphens, variation selectors, direction marks.
          The typographic apostrophes, hyphens and double quotes count as ' - and ".
          Everything else makes words: letters, digits, combining marks, currency, % and +.
"""

import unicodedata
from functools import cache

import numpy as np

BLANK, WORD, MARK, SYMBOL, JOINER, REMOVED, FOLDED = range(7)
FOLDS = {"‘": "'", "’": "'", "ʼ": "'", "＇": "'", "‐": "-", "‑": "-", "“": '"', "”": '"', "„": '"', "‟": '"', "＂": '"'}
JOINERS, WORDLIKE, METACLIP_MARKS, METACLIP_BLANKS = "'-&@#*", "%+", ",.;:?!`", " \t\n\r"
UNSPACED = ((0x0E00, 0x0EFF), (0x0F00, 0x109F), (0x1780, 0x17FF), (0x19E0, 0x19FF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
            (0x3021, 0x3029), (0x3031, 0x312F), (0x3190, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0xA4CF), (0xA9E0, 0xA9FF),
            (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F), (0x20000, 0x323AF),
            (0x1F3FB, 0x1F3FF))  # fmt: skip
DROPPED = ((0xAD, 0xAD), (0x200E, 0x200F), (0x202A, 0x202E), (0x2060, 0x2060), (0x2066, 0x2069), (0xFE00, 0xFE0F),
           (0xFEFF, 0xFEFF), (0xE0100, 0xE01EF))  # fmt: skip
UNSTABLE = 0x80  # flag beside the class: a text with such a character may change when it is composed (NFC)
CLASSES = {"Z": BLANK, "P": MARK, "Sm": MARK, "Sk": MARK, "So": SYMBOL, "Cc": BLANK}


def metaclip_classes(blanks: str = METACLIP_BLANKS, marks: str = METACLIP_MARKS) -> np.ndarray:
    """Class of each byte, uint8 [256]."""
    classes = np.full(256, WORD, np.uint8)
    classes[[ord(char) for char in blanks]] = BLANK
    classes[[ord(char) for char in marks]] = MARK
    return classes


@cache
def unicode_classes() -> np.ndarray:
    """Class of each code point under the default rule, with the flag UNSTABLE, uint8 [0x110000]."""
    classes = np.full(0x110000, WORD, np.uint8)
    classes[:0x20000] = [_class_of(chr(code)) for code in range(0x20000)]  # beyond: Han, private use, selectors
    for ranges, kind in ((UNSPACED, SYMBOL), (DROPPED, REMOVED)):
        for first, last in ranges:
            classes[first : last + 1] = kind
    classes[[ord(char) for char in FOLDS]] = FOLDED
    classes[_unstable()] |= UNSTABLE
    return classes


@cache
def ascii_classes() -> np.ndarray:
    """Class of each byte under the default rule, uint8 [256]; only those of ASCII count."""
    return np.array([_class_of(chr(code)) if code < 128 else WORD for code in range(256)], np.uint8)


def folded(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Code points and their classes, without the removed ones and with typographic signs replaced by the ASCII ones."""
    classes = np.take(unicode_classes(), codes) & ~np.uint8(UNSTABLE)
    if np.any(classes == REMOVED):
        kept = classes != REMOVED
        codes, classes = codes[kept], classes[kept]
    (where,) = np.nonzero(classes == FOLDED)
    if len(where):
        sources = np.array(sorted(map(ord, FOLDS)), codes.dtype)
        targets = np.array([ord(FOLDS[chr(code)]) for code in sources], codes.dtype)
        codes = codes.copy()
        codes[where] = targets[np.searchsorted(sources, codes[where])]
        classes[where] = ascii_classes()[codes[where]]
    return codes, classes


def _unstable() -> list[int]:
    """Code points that composing replaces, moves or joins to the one before; a text without them is composed."""
    unstable = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # Korean vowels and final consonants
    for code in (*range(0x20000), *range(0x2F800, 0x2FA20)):
        char = chr(code)
        parts = unicodedata.decomposition(char)
        if parts and parts[0] != "<":
            unstable.update(int(part, 16) for part in parts.split()[1:])
            unstable.update([code] if unicodedata.normalize("NFC", char) != char else [])
        if unicodedata.combining(char):
            unstable.add(code)
    return sorted(unstable)


def _class_of(char: str) -> int:
    if char in JOINERS:
        return JOINER
    if char in WORDLIKE:
        return WORD
    if char == "\u200b":
        return BLANK
    category = unicodedata.category(char)
    return CLASSES.get(category, CLASSES.get(category[0], WORD))
