"""All pairs of bit codes within a Hamming distance, exactly, by sorted joins on blocks of bits.

Of `blocks` blocks of a code at most `threshold` can differ, so two codes within the threshold agree on at least
`blocks - threshold` of them. For every choice of that many blocks the codes are sorted by those bits, and only
neighbours with equal bits are compared (the pigeonhole of Manku, Jain and Das Sarma, WWW 2007).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

ROW_BLOCK = 512  # rows of the distance matrix that the brute-force search holds
COMPARE, SORT = 1.0, 12.0  # relative cost of comparing one pair, and of keying and sorting one code
PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads block bits over a 32-bit key
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """`blocks` blocks of which `agree` must be equal; agree == 0 compares every code with every other."""

    blocks: int
    agree: int


def hamming_pairs(codes: np.ndarray, threshold: int, plan: Plan | None = None) -> Pairs:
    """(i, j, distance) of all pairs i < j of uint8 [n, bytes] codes that differ in at most `threshold` bits.

    int64, int64, int32 arrays, sorted by i, then j. Memory grows with n and with the pairs found.
    """
    words = _words(codes)
    plan = plan or cheapest_plan(len(codes), codes.shape[1] * 8, threshold)
    parts = _brute_force(words, threshold) if plan.agree == 0 else _joins(words, codes.shape[1] * 8, threshold, plan)
    i, j, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((j, i))
    return i[order], j[order], distance[order]


def cheapest_plan(n: int, bits: int, threshold: int) -> Plan:
    """The number of blocks that costs least for n evenly spread codes; brute force where nothing is cheaper."""
    plans = {Plan(1, 0): n * n / 2 * COMPARE}
    for agree in range(1, 6):
        blocks = threshold + agree
        if blocks > bits:
            break
        equal_by_chance = 2.0 ** -min(32, agree * bits / blocks)
        per_table = n * SORT + n * n / 2 * equal_by_chance * COMPARE * 4  # a gather costs about 4 streamed compares
        plans[Plan(blocks, agree)] = math.comb(blocks, agree) * per_table
    return min(plans, key=lambda plan: plans[plan])


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """int32 bits that differ between rows of two uint64 [n, words] arrays."""
    return np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int32)


def _words(codes: np.ndarray) -> np.ndarray:
    """uint8 [n, bytes] -> uint64 [n, words], zeros at the end."""
    padded = np.zeros((len(codes), -(-codes.shape[1] // 8) * 8), np.uint8)
    padded[:, : codes.shape[1]] = codes
    return padded.view(np.uint64)


def _brute_force(words: np.ndarray, threshold: int) -> list[Pairs]:
    parts = [_none()]
    for start in range(0, len(words), ROW_BLOCK):
        block, rest = words[start : start + ROW_BLOCK], words[start:]
        found = np.zeros((len(block), len(rest)), np.int32)
        for word in range(words.shape[1]):
            found += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        i, j = np.nonzero(np.triu(found <= threshold, 1))
        parts.append((i + start, j + start, found[i, j]))
    return parts


def _joins(words: np.ndarray, bits: int, threshold: int, plan: Plan) -> list[Pairs]:
    masks = _block_masks(bits, words.shape[1], plan.blocks)
    parts = [_none()]
    for chosen in itertools.combinations(range(plan.blocks), plan.agree):
        i, j = _equal_neighbours(_keys(words, masks[list(chosen)]), words, threshold)
        first = _first_agreeing(words[i] ^ words[j], masks, chosen)
        i, j = i[first], j[first]
        parts.append((np.minimum(i, j), np.maximum(i, j), distances(words[i], words[j])))
    return parts


def _equal_neighbours(keys: np.ndarray, words: np.ndarray, threshold: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows with equal 32-bit keys and codes within the threshold."""
    sorted_keys = np.sort((keys.astype(np.uint64) << np.uint64(32)) | np.arange(len(keys), dtype=np.uint64))
    rows = (sorted_keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    runs = (sorted_keys >> np.uint64(32)).astype(np.uint32)
    at, lag = np.arange(len(keys)), 1
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    while len(at := at[: np.searchsorted(at, len(keys) - lag)]):
        at = at[runs[at] == runs[at + lag]]
        i, j = rows[at], rows[at + lag]
        near = distances(words[i], words[j]) <= threshold
        left.append(i[near])
        right.append(j[near])
        lag += 1
    return np.concatenate(left), np.concatenate(right)


def _keys(words: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """uint32 [n]: equal for rows that agree on the masked bits, seldom for others."""
    mask = np.bitwise_or.reduce(masks, axis=0)
    mixed = np.zeros(len(words), np.uint64)
    for word in range(words.shape[1]):
        mixed = (mixed ^ (words[:, word] & mask[word])) * PRIME
        mixed ^= mixed >> np.uint64(29)
    return ((mixed * PRIME) >> np.uint64(32)).astype(np.uint32)


def _first_agreeing(differing: np.ndarray, masks: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    """Whether `chosen` are the first blocks a pair agrees on: each pair then comes from one table only."""
    agreeing = np.stack([((differing & mask) == 0).all(axis=1) for mask in masks], axis=1)
    first = agreeing & (np.cumsum(agreeing, axis=1) <= len(chosen))
    wanted = np.zeros(len(masks), bool)
    wanted[list(chosen)] = True
    return (first == wanted).all(axis=1)


def _block_masks(bits: int, words: int, blocks: int) -> np.ndarray:
    """uint64 [blocks, words]: the bits of each block, in the byte order of the codes."""
    owner = np.arange(bits) * blocks // bits
    padded = np.full(words * 64, -1)
    padded[:bits] = owner
    return np.stack([np.packbits(padded == block).view(np.uint64) for block in range(blocks)])


def _none() -> Pairs:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32)
