"""The cap: exactly the first min(count, cap) pairs of each query, in an order that only uids and the seed decide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.harvest.choose import cap as caps


def plainly(rank, low, matches, queries, cap):
    """The reference: sort each query's pairs, take the first `cap`."""
    drawn = set()
    for query in range(queries):
        having = [pair for pair, ids in enumerate(matches) if query in ids]
        drawn |= {(pair, query) for pair in sorted(having, key=lambda pair: (rank[pair], low[pair]))[:cap]}
    return drawn


def as_lists(matches):
    offsets = np.concatenate(([0], np.cumsum([len(ids) for ids in matches]))).astype(np.int64)
    return offsets, np.array([query for ids in matches for query in sorted(ids)], np.int32)


def by_windows(rank, low, matches, queries, cap, pieces, spread=6.0):
    """What the stage does: counts, windows in pieces, a wider window for what they missed, then the draw."""
    offsets, ids = as_lists(matches)
    counts = np.bincount(ids, minlength=queries).astype(np.int64)
    last_rank, last_low = np.full(queries, caps.LAST), np.full(queries, caps.LAST)
    missing, passes = np.flatnonzero(counts > cap), 0
    while len(missing):
        seen = caps.window(counts, missing, cap, spread)
        below, parts = np.zeros(len(missing), np.int64), []
        for piece in np.array_split(np.arange(len(rank)), pieces):
            cut = as_lists([matches[i] for i in piece])
            more, *inside = caps.look(seen, rank[piece], low[piece], *cut)
            below += more
            parts.append(inside)
        slot, ranks, lows = (np.concatenate([part[i] for part in parts]) for i in range(3))
        found, ranks, lows = caps.cut(below, slot, ranks, lows, cap)
        last_rank[missing[found]], last_low[missing[found]] = ranks[found], lows[found]
        missing, spread, passes = missing[~found], spread * 4, passes + 1
        assert passes < 60
    drawn = caps.drawn(rank, low, offsets, ids, last_rank, last_low)
    row = np.repeat(np.arange(len(rank)), np.diff(offsets))
    return set(zip(row[drawn].tolist(), ids[drawn].tolist(), strict=True))


@st.composite
def pools(draw):
    queries = draw(st.integers(1, 5))
    matches = draw(st.lists(st.sets(st.integers(0, queries - 1), min_size=1), min_size=1, max_size=60))
    kind = draw(st.sampled_from(["uniform", "few values", "one end", "all equal"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rank = {
        "uniform": lambda n: rng.integers(0, 2**64, n, np.uint64, endpoint=False),
        "few values": lambda n: rng.integers(0, 3, n).astype(np.uint64) * np.uint64(2**62),
        "one end": lambda n: np.uint64(2**64 - 1) - rng.integers(0, 9, n).astype(np.uint64),
        "all equal": lambda n: np.zeros(n, np.uint64),
    }[kind](len(matches))
    low = rng.permutation(len(matches)).astype(np.uint64)
    return rank, low, [sorted(ids) for ids in matches], queries


@pytest.mark.slow
@settings(max_examples=150)
@given(pools(), st.integers(1, 30), st.integers(1, 4))
def test_the_windows_draw_what_sorting_everything_draws_also_where_ranks_are_equal(pool, cap, pieces):
    rank, low, matches, queries = pool
    assert by_windows(rank, low, matches, queries, cap, pieces) == plainly(rank, low, matches, queries, cap)


@settings(max_examples=30)
@given(pools(), st.integers(1, 12))
def test_the_pairs_of_a_small_cap_are_among_those_of_a_larger_one(pool, cap):
    rank, low, matches, queries = pool
    assert by_windows(rank, low, matches, queries, cap, 1) <= by_windows(rank, low, matches, queries, 2 * cap, 1)


def test_a_window_that_misses_is_looked_for_in_a_wider_one():
    rank = np.sort(np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64, endpoint=False))
    matches, low = [[0]] * len(rank), np.arange(len(rank), dtype=np.uint64)
    rank[:50_000] //= np.uint64(1000)  # far from uniform: the first windows hold nothing
    drawn = by_windows(rank, low, matches, 1, 200, 3)
    assert drawn == {(pair, 0) for pair in np.argsort(rank)[:200]}


def test_windows_of_a_uniform_rank_hold_the_limit_and_little_else():
    rank = np.random.default_rng(1).integers(0, 2**64, 200_000, np.uint64, endpoint=False)
    seen = caps.window(np.array([len(rank)]), np.array([0]), 20_000, 6.0)
    lists = np.arange(len(rank) + 1), np.zeros(len(rank), np.int32)
    below, slot, *_ = caps.look(seen, rank, rank, *lists)
    assert below[0] < 20_000 <= below[0] + len(slot)
    assert len(slot) < 2_000


@pytest.mark.parametrize("seed", [0, 1, -1, 2**64 + 5])
def test_ranks_are_the_splitmix_of_the_uid_and_the_seed(seed):
    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    high, low = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    wanted = mix((high + mix((low + mix(seed % 2**64)) % 2**64)) % 2**64)
    assert caps.ranks(np.array([high], np.uint64), np.array([low], np.uint64), seed)[0] == wanted


def test_another_seed_draws_another_sample():
    uids = np.random.default_rng(2).integers(0, 2**64, (2, 1000), np.uint64, endpoint=False)
    first, second = (np.argsort(caps.ranks(*uids, seed))[:100] for seed in (0, 1))
    assert len(set(first) & set(second)) < 30


# MetaCLIP's balancing


def tossed_plainly(rank, matches, counts, cap, salt):
    """The reference, in Python's own numbers."""

    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    return {(pair, query) for pair, ids in enumerate(matches) for query in ids
            if mix(int(rank[pair]) ^ int(salt[query])) / 2**64 < cap / counts[query]}  # fmt: skip


@pytest.mark.slow
@settings(max_examples=50)
@given(pools(), st.integers(1, 30))
def test_each_query_tosses_for_each_of_its_pairs_by_a_hash_of_the_two(pool, cap):
    rank, _, matches, queries = pool
    offsets, ids = as_lists(matches)
    counts = np.bincount(ids, minlength=queries)
    salt = np.random.default_rng(queries).integers(0, 2**64, queries, np.uint64)
    drawn = caps.tossed(rank, offsets, ids, caps.chances(counts, cap), salt)
    row = np.repeat(np.arange(len(rank)), np.diff(offsets))
    found = set(zip(row[drawn].tolist(), ids[drawn].tolist(), strict=True))
    assert found == tossed_plainly(rank, matches, counts, cap, salt)
    assert {(pair, query) for pair, having in enumerate(matches) for query in having if counts[query] <= cap} <= found


def test_a_query_draws_each_pair_with_probability_cap_over_count_whatever_the_others_draw():
    rng = np.random.default_rng(7)
    rank, salt = rng.integers(0, 2**64, 200_000, np.uint64), rng.integers(0, 2**64, 3, np.uint64)
    counts, caps_of = np.array([200_000, 200_000, 800_000]), 20_000  # 0.1, 0.1 and 0.025
    offsets, ids = np.arange(0, 600_001, 3), np.tile(np.arange(3, dtype=np.int32), 200_000)
    drawn = caps.tossed(rank, offsets, ids, caps.chances(counts, caps_of), salt).reshape(-1, 3)
    for query, chance in enumerate((0.1, 0.1, 0.025)):
        assert abs(drawn[:, query].mean() - chance) < 4 * np.sqrt(chance / 200_000)
    assert abs((drawn[:, 0] & drawn[:, 1]).mean() - 0.01) < 4 * np.sqrt(0.01 / 200_000)
    less = caps.tossed(rank, offsets, ids, caps.chances(counts, 10_000), salt).reshape(-1, 3)
    assert not (less & ~drawn).any()


@settings(max_examples=100)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any), st.integers(1, 1000))
def test_the_cap_of_a_tail_is_the_smallest_whose_queries_hold_that_share(counts, thousandths):
    share = thousandths / 1000

    def held(cap):
        return sum(count for count in counts if count <= cap)

    found = caps.cap_of_tail(np.array(counts), share)
    assert held(found) >= share * sum(counts)
    assert all(held(cap) < share * sum(counts) for cap in range(found))
