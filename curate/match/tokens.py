"""Cut texts into tokens, many at once: character classes, then borders, then one 64-bit hash a token."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.match.characters import JOINER, MARK, WORD
from curate.match.hashing import MIX, SALT


@dataclass
class Tokens:
    """The k tokens of n texts; those of text i are bounds[i]:bounds[i + 1]."""

    hashes: np.ndarray  # uint64 [k]
    bounds: np.ndarray  # int64 [n + 1]
    longest: int  # bytes in the longest one
    before: np.ndarray | None = None  # int32 [k], how each touches the one before it; None: 1, a plain border
    after: np.ndarray | None = None  # int64 [n], metaclip: trailing blanks, or all of them in a text without tokens
    rows: np.ndarray | None = None  # int64 [n], which row of a block each text is; None: all, in order


def joined(parts: list[Tokens]) -> Tokens:
    """The tokens of several runs of texts as those of one."""
    counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.bounds) for part in parts)])
    before = [np.ones(len(part.hashes), np.int32) if part.before is None else part.before for part in parts]
    after = [part.after for part in parts if part.after is not None]
    return Tokens(
        np.concatenate([part.hashes for part in parts]),
        np.cumsum(counts),
        max(part.longest for part in parts),
        np.concatenate(before),
        np.concatenate(after) if after else None,
    )


def buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and offsets (from 0) of a string or binary array, without a copy."""
    width = np.int64 if pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type) else np.int32
    _, offsets, data = texts.buffers()
    if not len(texts) or offsets is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    bounds = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    content = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    return content, bounds - bounds[0]


def looked_up(table: np.ndarray, data: np.ndarray) -> np.ndarray:
    """table[data], uint8; read-only. Bytes do it quicker than an array."""
    return np.frombuffer(data.tobytes().translate(table.tobytes()), np.uint8)


def spans(classes: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start and end of each token, and where the tokens of each text begin and end."""
    padded = np.zeros(len(classes) + 2, bool)
    left, word, right = (
        padded[:-2],
        padded[1:-1],
        padded[2:],
    )  # views: whether the place before, here, behind is a word's
    np.equal(classes, WORD, out=word)
    first = offsets[(offsets > 0) & (offsets < len(classes))]  # where a text begins behind another one
    joiner = classes == JOINER
    if joiner.any():
        joiner &= left
        joiner &= right
        joiner[first] = joiner[first - 1] = False
        word |= joiner
    alone = (classes >= MARK) > word
    starts, ends = word > left, word > right
    starts[first], ends[first - 1] = word[first], word[first - 1]
    starts |= alone
    ends |= alone
    return np.flatnonzero(starts), np.flatnonzero(ends) + 1, before_each(starts, offsets)


def before_each(places: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """How many of the places, bool [n], are true before each offset (0 to n), int64; no sum is kept for every place."""
    bits = np.zeros((len(places) >> 6) + 1, np.uint64)
    bits.view(np.uint8)[: len(places) + 7 >> 3] = np.packbits(places, bitorder="little")
    word = offsets >> 6
    sums = np.zeros(len(bits), np.int64)
    np.cumsum(np.bitwise_count(bits[:-1]), out=sums[1:])
    below = (np.uint64(1) << (offsets & 63).view(np.uint64)) - np.uint64(1)
    return sums[word] + np.bitwise_count(bits[word] & below)


def hashes_of(data: np.ndarray, starts: np.ndarray, length: np.ndarray, longest: int) -> np.ndarray:
    """A 64-bit hash of each span, from its bytes, eight at a time, as far as a span of `longest` bytes can agree."""
    eights = _eights(data)
    hashes = _mixed(_words(np.take(eights, starts), length))
    done = 8
    (longer,) = np.nonzero(length > done)
    while len(longer) and done <= longest:
        more = length[longer] - done
        hashes[longer] = _mixed(hashes[longer] ^ _words(np.take(eights, starts[longer] + done), more))
        done += 8
        longer = longer[more > 8]
    return hashes


def _eights(data: np.ndarray) -> np.ndarray:
    """The eight bytes from each place as one word, uint64 [bytes + 1]; zeros behind the last byte."""
    padded = np.zeros(len(data) + 8, np.uint8)
    padded[: len(data)] = data
    overlapping = np.lib.stride_tricks.as_strided(padded[:8].view("<u8"), (len(data) + 1,), (1,))
    return overlapping.copy()  # words where the processor likes them: looked up four times as quickly


def _words(eights: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Of each word its first `length` bytes (1 or more) and their count; different for different bytes. In place."""
    count = np.minimum(length, 8).view(np.uint64)
    eights <<= np.uint64(64) - (count << np.uint64(3))
    count *= SALT
    eights += count
    return eights


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64, in place; from the 22nd, each bit of the result depends on nearly all of the value's."""
    values *= MIX[0]
    values ^= values >> np.uint64(32)
    values *= MIX[1]
    return values
