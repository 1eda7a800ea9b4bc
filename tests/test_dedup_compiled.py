"""Joins with numba find what joins without it find, for any codes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="numba (the extra 'fast') is missing")
from test_dedup_search import as_list, brute_force, near_codes

from curate.compiled.loops import with_loops
from curate.dedup import buckets, buckets_compiled, hamming
from curate.dedup.hamming import as_words, hamming_pairs, tables

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(buckets, "COMPILED_FROM", 0)
    assert with_loops("curate.dedup.buckets_compiled") is buckets_compiled


@settings(max_examples=100)
@given(
    n=st.integers(0, 120),
    width=st.sampled_from([2, 8, 12, 32]),
    threshold=st.integers(0, 9),
    planned_for=st.sampled_from([10**5, 10**6, 10**7]),
    seed=st.integers(0, 2**32 - 1),
)
def test_compiled_joins_find_exactly_what_brute_force_finds(n, width, threshold, planned_for, seed):
    codes = near_codes(n, width, seed, flips=threshold + 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "COMPILED_FROM", 0)
        found = as_list(hamming_pairs(codes, threshold, tables(planned_for, width * 8, threshold, recall=1.0)))
    assert found == brute_force(codes, threshold)


@pytest.mark.parametrize("room", [1, 1000, 1 << 20])
@pytest.mark.parametrize(("width", "threshold"), [(8, 4), (8, 12), (16, 20), (32, 31)])
def test_every_table_finds_what_it_finds_by_numpy(width, threshold, room, monkeypatch):
    codes = near_codes(9000, width, 2, flips=threshold + 2)  # so many that buckets are placed in two steps
    codes[200:900, : width // 2] = codes[0, : width // 2]
    monkeypatch.setattr(buckets_compiled, "ROOM", room)
    monkeypatch.setattr(buckets, "LARGE", 100)
    words, plan, free = as_words(codes), tables(10**6, width * 8, threshold), hamming.whole(width * 8)
    for at in range(min(len(plan), 12)):
        found = []
        for first in (0, 1 << 60):
            monkeypatch.setattr(buckets, "COMPILED_FROM", first)
            crowds = buckets.near_pairs(words, plan.masks[at], threshold)[1]
            pairs = hamming.in_order([hamming.joined(words, threshold, plan, at, [], free)])
            found.append((as_list(pairs), sorted(own.tolist() for own in crowds)))
        assert found[0] == found[1]
        assert found[0][0]


def test_large_buckets_are_joined_by_their_other_bits(monkeypatch):
    codes = near_codes(500, 8, 3, flips=5)
    codes[:300, :4] = codes[0, :4]
    monkeypatch.setattr(buckets, "LARGE", 20)
    assert as_list(hamming_pairs(codes, 4, tables(10**6, 64, 4, recall=1.0))) == brute_force(codes, 4)
