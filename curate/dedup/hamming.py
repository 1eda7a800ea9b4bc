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

from curate.dedup.buckets import near_pairs

ROW_BLOCK = 512  # rows of the distance matrix that the brute-force search holds
COMPARE, STREAMED, SORT = 5.0, 1.5, 30.0  # nanoseconds for a pair of a bucket, of neighbours, and to place one code
GROUPS = 16  # of blocks at most, for exact tables
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
    near, large = near_pairs(words, mask, threshold)
    parts = [near]
    for own in large:
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
    """uint8 [n, bytes] -> uint64 [n, words], zeros at the end."""
    padded = np.zeros((len(codes), -(-codes.shape[1] // 8) * 8), np.uint8)
    padded[:, : codes.shape[1]] = codes
    return padded.view(np.uint64)


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
