"""The near pairs of codes that agree on some bits: codes are placed into buckets by these, and compared in each."""

import numpy as np
from scipy.sparse import csr_array

from curate.compiled.loops import with_loops
from curate.dedup.buckets_layout import COARSE, PRIME

BUCKET_BITS = (4, 24)  # fewest and most bits of a key
ONE_PASS = 1 << 21  # codes that are sorted at once; more go by COARSE bits first, as the cache likes it
TELLING = 6  # times as many bits of two codes as may differ: few that are unlike look alike in so many
SPARSE = 32  # times as many neighbours as pairs of a bucket are worth comparing, since they lie side by side
PIECE = 1 << 16  # neighbours compared at a time
LARGE = 4096  # codes in a bucket that are compared with each other
COMPILED_FROM = 1 << 16  # codes: to compile takes some seconds, once for a machine, and fewer no more without
Rows = tuple[np.ndarray, np.ndarray]  # of both codes of each pair


def near_pairs(words: np.ndarray, mask: np.ndarray, threshold: int) -> tuple[Rows, list[np.ndarray]]:
    """Pairs of uint64 [n, words] codes that differ in at most `threshold` bits, each once in either order: all that
    agree under the mask, and some others. Those of buckets with more than LARGE codes are left out: the rows of each of
    these come beside, int64, ascending."""
    bits = bucket_bits(len(words))
    if len(words) >= COMPILED_FROM and (compiled := with_loops("curate.dedup.buckets_compiled")):
        near, large = compiled.near_pairs(words, mask, threshold, bits, LARGE)
    else:
        held, rows, bounds = _buckets(words, mask, threshold, bits)
        near = _in_buckets(words, held, rows, bounds, threshold)
        large = [rows[bounds[at] : bounds[at + 1]] for at in np.flatnonzero(np.diff(bounds) > LARGE).tolist()]
    return near, [np.sort(own).astype(np.int64) for own in large]


def bucket_bits(n: int) -> int:
    return min(max(n.bit_length() - 2, BUCKET_BITS[0]), BUCKET_BITS[1])


def signatures(words: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint64 [n]: equal for rows that agree under the mask, seldom for others; the upper bits are well mixed."""
    first, *others = np.flatnonzero(mask).tolist() or [0]
    mixed = words[:, first] & mask[first]
    mixed *= PRIME
    for word in others:
        mixed ^= mixed >> np.uint64(29)
        mixed ^= words[:, word] & mask[word]
        mixed *= PRIME
    return mixed


def _buckets(words: np.ndarray, mask: np.ndarray, threshold: int,
             bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """What is compared of each code, bucket by bucket (bits of the code itself where it is one word, else of its
    signature); the rows they belong to; where each bucket starts, and the end of the last. Codes that agree under the
    mask share one."""
    alone = words.shape[1] == 1
    room = 64 - bits - len(words).bit_length()  # for bits of the code between its bucket and its row
    if len(words) <= ONE_PASS and (not alone or threshold * TELLING <= room):
        return _sorted(words, mask, bits)
    signed = signatures(words, mask)
    held = words[:, 0] if alone else signed
    if len(words) <= ONE_PASS:
        return _placed(held, signed, bits)
    held, rows, _ = _placed(held, signed, COARSE)
    placed, inner, bounds = _placed(held, signatures(held[:, None], mask) if alone else held, bits)
    return placed, rows[inner], bounds


def _sorted(words: np.ndarray, mask: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with as much of each code as finds room in 64 bits between its bucket and its row: sorting numbers takes
    half the time of placing codes and rows apart."""
    key, index = np.uint64(64 - bits), np.uint64(len(words).bit_length())
    inside, row = (np.uint64(1) << key) - np.uint64(1), (np.uint64(1) << index) - np.uint64(1)
    mixed = np.arange(len(words), dtype=np.uint64)
    for start in range(0, len(words), PIECE // 2):
        own = words[start : start + PIECE // 2]
        signed = signatures(own, mask)
        if words.shape[1] == 1:
            signed &= ~inside
            signed |= (own[:, 0] << index) & inside
        signed &= ~row
        mixed[start : start + len(own)] |= signed
    mixed.sort()
    rows = mixed.astype(np.uint32)
    rows &= np.uint32(row)
    sizes = np.bincount((mixed >> key).view(np.int64), minlength=1 << bits)
    mixed >>= index
    held = mixed.astype(np.uint32)  # its lower bits: the upper ones are those of the bucket
    return held, rows.view(np.int32), np.concatenate(([0], np.cumsum(sizes)))


def _placed(held: np.ndarray, signed: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values by the upper bits of their signatures, where each stood, and the bounds of the buckets.

    The transpose of a sparse matrix with one entry a row is a counting sort: several times as fast as np.argsort.
    """
    keys = (signed >> np.uint64(64 - bits)).astype(np.int32)
    placed = csr_array((held, keys, np.arange(len(held) + 1, dtype=np.int32)), shape=(len(held), 1 << bits)).tocsc()
    return placed.data, placed.indices, placed.indptr


def _in_buckets(words: np.ndarray, held: np.ndarray, rows: np.ndarray, bounds: np.ndarray,
                threshold: int) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The near pairs of rows in every bucket of at most LARGE.

    In most buckets few codes lie, so all neighbours up to a lag are compared, of one bucket or not: they lie side by
    side. What is left of the larger buckets is gathered.
    """
    sizes = np.diff(bounds)
    small = np.where(sizes > LARGE, 0, sizes)
    lag = _last_lag(small, len(rows))
    largest = threshold if words.shape[1] == 1 else 0  # of what is held, which is a signature where codes are longer
    parts = [_neighbours(held, lag, largest)]
    larger = np.flatnonzero(small > lag + 1)
    at = _ranges(bounds[larger], small[larger])
    end = np.repeat(bounds[larger] + small[larger], small[larger])
    while len(at):
        lag += 1
        inside = at + lag < end
        at, end = at[inside], end[inside]
        near = at[np.bitwise_count(held[at] ^ held[at + lag]) <= largest]
        parts.append((near, near + lag))
    left, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    if (sizes > LARGE).any():
        outside = ~np.repeat(sizes > LARGE, sizes)[left]
        left, right = left[outside], right[outside]
    return _near(words, rows[left], rows[right], threshold)


def _near(words: np.ndarray, i: np.ndarray, j: np.ndarray, threshold: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the pairs that differ in at most `threshold` bits; most others are known by their first words."""
    distance = np.zeros(len(i), np.uint16)
    for word in range(words.shape[1]):
        distance += np.bitwise_count(words[i, word] ^ words[j, word])
        near = distance <= threshold
        i, j, distance = i[near], j[near], distance[near]
    return i, j


def _last_lag(sizes: np.ndarray, n: int) -> int:
    """Up to which lag the n neighbours at that lag are no more than SPARSE times the pairs of the buckets."""
    counts = np.bincount(sizes)
    buckets = np.cumsum(counts[::-1])[::-1]  # that have at least so many codes
    pairs = np.cumsum(buckets[::-1])[::-1]  # from [lag + 1]: those at a lag
    return int(np.count_nonzero(pairs[2:] * SPARSE > n))


def _neighbours(held: np.ndarray, lags: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """(i, i + lag) of all neighbours up to a lag that differ in at most `largest` bits; a piece that the cache holds at
    a time."""
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(held), PIECE):
        piece = held[start : start + PIECE + lags]
        for lag in range(1, lags + 1):
            near = np.flatnonzero(np.bitwise_count(piece[lag:][:PIECE] ^ piece[:-lag][:PIECE]) <= largest)
            if len(near):
                left.append(near + start)
                right.append(near + (start + lag))
    return np.concatenate(left), np.concatenate(right)


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int64: starts[0], starts[0] + 1, ... sizes[0] of them, then those of the next."""
    offsets = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum(), dtype=np.int64) + np.repeat(starts - offsets, sizes)
