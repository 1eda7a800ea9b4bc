"""All pairs of bit codes within a Hamming distance, by joins on some of their bits.

Each of a few tables puts codes with equal bits at some places into one bucket, and only codes of a bucket are compared.
`tables` chooses the places: for short codes and small distances so that two codes within the distance share a bucket in
at least one table (the pigeonhole of Manku, Jain and Das Sarma, WWW 2007, on two levels); for long codes at random, as
in locality-sensitive hashing (Indyk and Motwani, STOC 1998), with a stated recall. A pair comes from the first table
that finds it. A bucket that is too large is searched in the same way by its other bits.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

ROW_BLOCK = 512  # rows of the distance matrix that the brute-force search holds
COMPARE, STREAMED, SORT = 5.0, 1.5, 30.0  # nanoseconds for a pair of a bucket, of neighbours, and to place one code
PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads chosen bits over a key
BUCKET_BITS = (4, 24)  # fewest and most bits of a key
ONE_PASS, COARSE = 1 << 21, 10  # codes that are sorted at once; more go by so many bits first, as the cache likes it
TELLING = 6  # times as many bits of two codes as may differ: few that are unlike look alike in so many
SPARSE = 32  # times as many neighbours as pairs of a bucket are worth comparing, since they lie side by side
GROUPS = 16  # of blocks at most, for exact tables
PIECE = 1 << 16  # neighbours compared at a time
LARGE = 4096  # codes in a bucket that are compared with each other; more are joined by their other bits
DEEPEST = 2  # times a bucket is joined again
CROWD_SAMPLE, CROWDED = 512, 0.02  # pairs of a large bucket that are tried, and the share of near ones in a crowd
DENSE = 8192  # codes of a crowd that are compared with each other: beyond, each is compared with the first of them only
DENSE_PAIRS = 20_000_000  # of one such bucket
RECALL_INSIDE = 0.9999  # the same inside a bucket that is joined again
RECALL = 0.995  # of the pairs right at the threshold, where tables are drawn at random
AFFORDABLE, ALWAYS = 4.0, 3e9  # times the cost of random tables that exact ones may have; nanoseconds they always may
SEED = 0
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
Capped = list[tuple[int, int]]  # (first code, codes) of buckets in which not every pair was compared


@dataclass(frozen=True)
class Tables:
    """masks: uint64 [tables, words], the bits that codes of a bucket share, in the byte order of the codes; no table
    stands for the comparison of every code with every other. recall: the chance to find a pair right at the threshold,
    1 where no pair can be missed."""

    masks: np.ndarray
    recall: float = 1.0

    def __len__(self) -> int:
        return len(self.masks)


def hamming_pairs(codes: np.ndarray, threshold: int, plan: Tables | None = None, recall: float = RECALL,
                  capped: Capped | None = None) -> Pairs:  # fmt: skip
    """(i, j, distance) of all pairs i < j of uint8 [n, bytes] codes that differ in at most `threshold` bits.

    int64, int64, int32 arrays, sorted by i, then j. Memory grows with n and with the pairs found. Where more than DENSE
    codes agree on nearly all bits, each is compared with the first of them only, and `capped` is told.
    """
    words = as_words(codes)
    plan = plan or tables(len(codes), codes.shape[1] * 8, threshold, recall)
    return in_order(_by_tables(words, threshold, plan, [] if capped is None else capped, whole(codes.shape[1] * 8)))


def tables(n: int, bits: int, threshold: int, recall: float = RECALL) -> Tables:
    """The cheapest tables for n evenly spread codes: exact ones wherever they are affordable."""
    return _tables(n, np.arange(bits), -(-bits // 64), threshold, recall)


def in_order(parts: list[Pairs]) -> Pairs:
    i, j, distance = (np.concatenate(column) for column in zip(*[_none(), *parts], strict=True))
    order = np.lexsort((j, i))
    return i[order], j[order], distance[order]


def joined(words: np.ndarray, threshold: int, plan: Tables, at: int, capped: Capped, free: np.ndarray,
           depth: int = 0) -> Pairs:  # fmt: skip
    """The pairs that table `at` of a plan is the first to find, i < j, in no order.

    words: uint64 [n, words]; free: a mask of the bits that may differ.
    """
    mask = plan.masks[at]
    held, rows, bounds = _buckets(words, mask, threshold)
    parts = [_in_buckets(words, held, rows, bounds, threshold)]
    for bucket in np.flatnonzero(np.diff(bounds) > LARGE).tolist():
        own = np.sort(rows[bounds[bucket] : bounds[bucket + 1]]).astype(np.int64)
        if any(_all_agree(words[own], earlier) for earlier in plan.masks[:at]):
            continue  # they shared a bucket before
        told: Capped = []
        i, j, _ = in_order(_in_large(words[own], threshold, told, free & ~mask, depth))
        parts.append((own[i], own[j]))
        capped += [(int(own[first]), size) for first, size in told]
    i, j = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    differing = np.stack([words[i, word] ^ words[j, word] for word in range(words.shape[1])])
    first = _agree(differing, mask)
    for earlier in plan.masks[:at]:
        i, j, differing = i[first], j[first], differing[:, first]
        first = ~_agree(differing, earlier)
    i, j, differing = i[first], j[first], differing[:, first]
    return np.minimum(i, j), np.maximum(i, j), np.bitwise_count(differing).sum(axis=0, dtype=np.int32)


def _all_agree(words: np.ndarray, mask: np.ndarray) -> bool:
    return not np.any((words ^ words[:1]) & mask)


def _agree(differing: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """bool [pairs]: whether no bit under the mask differs. differing: uint64 [words, pairs]."""
    same = np.ones(differing.shape[1], bool)
    for word in np.flatnonzero(mask).tolist():
        same &= (differing[word] & mask[word]) == 0
    return same


def whole(bits: int) -> np.ndarray:
    """The mask of all bits of a code."""
    return _mask(np.arange(bits), -(-bits // 64))


def as_words(codes: np.ndarray) -> np.ndarray:
    """uint8 [n, bytes] -> uint64 [n, words], zeros at the end; column after column, as they are read."""
    padded = np.zeros((len(codes), -(-codes.shape[1] // 8) * 8), np.uint8)
    padded[:, : codes.shape[1]] = codes
    return np.asfortranarray(padded.view(np.uint64))


# ---- which tables -------------------------------------------------------------------------------------------------


def _tables(n: int, places: np.ndarray, words: int, threshold: int, recall: float) -> Tables:
    """Tables over the bits at `places` of codes of that many words."""
    best, cost = None, n * n / 2 * STREAMED * words
    for per_table, groups in itertools.product(range(1, 7), range(1, GROUPS + 1)):
        blocks = threshold + groups * (per_table - 1) + 1
        if blocks <= len(places):
            chosen = _chosen(blocks, per_table, groups)
            each = _cost(n, len(places) * per_table / blocks, words)
            if chosen is not None and len(chosen) * each < cost:
                best, cost = chosen, len(chosen) * each
    exact = best
    drawn = _drawn(n, places, words, threshold, recall)
    if drawn is not None and max(len(drawn) * _cost(n, _sampled(n), words) * AFFORDABLE, ALWAYS) < cost:
        return drawn
    if exact is None:
        return Tables(np.zeros((0, words), np.uint64))
    blocks = 1 + max(map(max, exact))
    owner = np.arange(len(places)) % blocks
    return Tables(np.stack([_mask(places[np.isin(owner, list(table))], words) for table in exact]))


def _cost(n: int, key_bits: float, words: int) -> float:
    """Nanoseconds for one table whose buckets n evenly spread codes share by `key_bits` bits."""
    return n * SORT + n * n / 2 * 2.0**-key_bits * COMPARE * words


def _chosen(blocks: int, per_table: int, groups: int) -> list[tuple[int, ...]] | None:
    """Blocks that must agree, for each table; None for more than 1,000 tables.

    Of `groups` groups of blocks, one holds `per_table` blocks that agree wherever more than groups * (per_table - 1)
    blocks agree at all: then all choices of `per_table` blocks within a group are enough.
    """
    parts = np.array_split(np.arange(blocks), groups)
    if sum(math.comb(len(part), per_table) for part in parts) > 1000:
        return None
    return [table for part in parts for table in itertools.combinations(part.tolist(), per_table)]


def _drawn(n: int, places: np.ndarray, words: int, threshold: int, recall: float) -> Tables | None:
    """Random tables that find a pair right at the threshold with a chance of `recall`; None for more than 1,000."""
    size = _sampled(n)
    if recall >= 1 or not threshold or size + threshold > len(places):
        return None
    agree = math.comb(len(places) - threshold, size) / math.comb(len(places), size)
    needed = math.ceil(math.log1p(-recall) / math.log1p(-agree))
    if needed > 1000:
        return None
    rng = np.random.default_rng(SEED)
    masks = [_mask(rng.permutation(places)[:size], words) for _ in range(needed)]
    return Tables(np.stack(masks), 1 - (1 - agree) ** needed)


def _sampled(n: int) -> int:
    return min(max(12, n.bit_length()), 30)


def _mask(places: np.ndarray, words: int) -> np.ndarray:
    bits = np.zeros(words * 64, bool)
    bits[places] = True
    return np.packbits(bits).view(np.uint64)


# ---- the pairs of a table -------------------------------------------------------------------------------------------


def _by_tables(words: np.ndarray, threshold: int, plan: Tables, capped: Capped, free: np.ndarray,
               depth: int = 0) -> list[Pairs]:  # fmt: skip
    if len(plan):
        return [joined(words, threshold, plan, at, capped, free, depth) for at in range(len(plan))]
    if len(words) <= DENSE:
        return _brute_force(words, threshold)
    first = max(16, min(1000, DENSE_PAIRS // len(words)))
    capped.append((0, len(words)))
    return _brute_force(words, threshold, first)


def _buckets(words: np.ndarray, mask: np.ndarray, threshold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is compared of each code, bucket by bucket (bits of the code itself where it is one word, else of its
    signature); the rows they belong to; where each bucket starts, and the end of the last. Codes that agree under the
    mask share one."""
    bits = min(max(len(words).bit_length() - 2, BUCKET_BITS[0]), BUCKET_BITS[1])
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


def _in_large(words: np.ndarray, threshold: int, capped: Capped, free: np.ndarray, depth: int) -> list[Pairs]:
    """The near pairs of a large bucket, by joins on the bits that its table does not look at."""
    if depth == DEEPEST or _crowded(words, threshold):
        plan = Tables(np.zeros((0, words.shape[1]), np.uint64))
    else:
        places = np.flatnonzero(np.unpackbits(free.view(np.uint8)))
        plan = _tables(len(words), places, words.shape[1], threshold, RECALL_INSIDE)
    return _by_tables(words, threshold, plan, capped, free, depth + 1)


def _crowded(words: np.ndarray, threshold: int) -> bool:
    """Whether so many of the pairs are near each other that no table would part them; told by a sample."""
    i = np.linspace(0, len(words) - 1, CROWD_SAMPLE).astype(np.int64)
    j = (i * 7919 + len(words) // 2) % len(words)
    near = np.bitwise_count(words[i] ^ words[j]).sum(axis=1) <= threshold
    return int(np.count_nonzero(near)) > CROWDED * len(i)


def _brute_force(words: np.ndarray, threshold: int, first: int | None = None) -> list[Pairs]:
    """All pairs, or those with one of the `first` codes."""
    parts = [_none()]
    for start in range(0, len(words) if first is None else first, ROW_BLOCK):
        block, rest = words[start : start + ROW_BLOCK][: None if first is None else first - start], words[start:]
        found = np.zeros((len(block), len(rest)), np.int32)
        for word in range(words.shape[1]):
            found += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        i, j = np.nonzero(np.triu(found <= threshold, 1))
        parts.append((i + start, j + start, found[i, j]))
    return parts


def _none() -> Pairs:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32)
