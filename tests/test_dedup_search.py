"""The searches against brute force, and the stars that their pairs become."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.dedup import buckets, hamming
from curate.dedup.faiss_install import faiss_conflict, load_search
from curate.dedup.groups import Alike, stars
from curate.dedup.hamming import hamming_pairs, tables
from curate.errors import CurateError

search = load_search()


def brute_force(codes: np.ndarray, threshold: int) -> list[tuple[int, int, int]]:
    gaps = np.unpackbits(codes[:, None] ^ codes[None], axis=2).sum(axis=2)
    i, j = np.nonzero(np.triu(gaps <= threshold, 1))
    return list(zip(i.tolist(), j.tolist(), gaps[i, j].tolist(), strict=True))


def near_codes(n: int, width: int, seed: int, flips: int) -> np.ndarray:
    """Random codes; every second one is an earlier one with up to `flips` bits turned."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (n, width), np.uint8)
    for row in range(1, n, 2):
        codes[row] = codes[rng.integers(0, row)]
        for bit in rng.integers(0, width * 8, rng.integers(0, flips + 1)):
            codes[row, bit // 8] ^= 1 << (bit % 8)
    return codes


def as_list(pairs: tuple[np.ndarray, ...]) -> list[tuple[int, int, int]]:
    return list(zip(*(column.tolist() for column in pairs), strict=True))


@pytest.mark.slow
@settings(max_examples=60)
@given(
    n=st.integers(0, 120),
    width=st.sampled_from([2, 8, 12, 32]),
    threshold=st.integers(0, 9),
    planned_for=st.sampled_from([10, 10**5, 10**6, 10**7]),
    seed=st.integers(0, 2**32 - 1),
)
def test_joins_find_exactly_what_brute_force_finds(n, width, threshold, planned_for, seed):
    codes = near_codes(n, width, seed, flips=threshold + 2)
    plan = tables(planned_for, width * 8, threshold, recall=1.0)
    assert plan.recall == 1
    assert as_list(hamming_pairs(codes, threshold, plan)) == brute_force(codes, threshold)


@pytest.mark.parametrize("width", [8, 32])
def test_large_buckets_are_joined_by_their_other_bits(width, monkeypatch):
    codes = near_codes(500, width, 3, flips=5)
    codes[:300, : width // 2] = codes[0, : width // 2]  # hundreds of codes that most tables put into one bucket
    wanted = brute_force(codes, 4)
    monkeypatch.setattr(buckets, "LARGE", 20)
    assert as_list(hamming_pairs(codes, 4, tables(10**6, width * 8, 4, recall=1.0))) == wanted


def test_codes_that_are_all_alike_are_compared_with_the_first_of_them_and_named(monkeypatch):
    alike = np.zeros((512, 8), np.uint8)
    alike[:, 3] = np.arange(512) % 256
    alike[:, 5] = np.arange(512) // 256
    codes = np.concatenate([near_codes(100, 8, 5, flips=0), alike])
    monkeypatch.setattr(buckets, "LARGE", 20)
    monkeypatch.setattr(hamming, "DENSE", 200)
    capped: list[tuple[int, int]] = []
    monkeypatch.setattr(hamming, "DENSE_PAIRS", 16 * 512)
    found = as_list(hamming_pairs(codes, 6, tables(10**6, 64, 6), capped=capped))
    wanted = brute_force(codes, 6)
    assert (100, 256) in capped
    assert set(found) < set(wanted)
    assert {pair for pair in wanted if pair[0] == 100} <= set(found)


@pytest.mark.parametrize("equal", [0, 100])
def test_the_nearest_few_and_the_cpu_together_find_what_a_range_holds(equal):
    """What a GPU is asked, asked of the CPU's index."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (500, 32), np.uint8)
    vectors = rng.normal(size=(500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes[:equal], vectors[:equal] = codes[0], vectors[0]  # more equal ones than are asked for at once
    for index, asked, limit in ((search.CosineIndex(vectors, "cpu"), vectors, 0.5),
                                (search.HammingIndex(codes, "cpu"), codes, 112)):  # fmt: skip
        expected = index.near(asked, limit)
        assert len(expected[0]) > 500
        index.gpu = index.index
        for found, wanted in zip(index.near(asked, limit), expected, strict=True):
            assert np.array_equal(found, wanted)


def test_tables_are_exact_where_that_is_affordable():
    assert len(tables(100, 64, 4)) == 0  # every code with every other
    assert [tables(n, 64, 4).recall for n in (10**5, 10**6, 10**7)] == [1, 1, 1]
    assert tables(10**6, 256, 4).recall == 1
    assert 0.995 <= tables(10**6, 256, 31).recall < 1
    assert len(tables(10**6, 256, 31, recall=0.9999)) > len(tables(10**6, 256, 31))


def test_random_tables_find_the_stated_share_of_the_pairs_at_the_threshold():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (4000, 32), np.uint8)
    for row in range(2000):
        flips = np.zeros(256, bool)
        flips[rng.permutation(256)[:31]] = True
        codes[2000 + row] = codes[row] ^ np.packbits(flips)
    plan = tables(10**6, 256, 31)
    found = hamming_pairs(codes, 31, plan)
    assert 0.99 * 2000 <= len(found[0]) < 2000
    assert (found[2] == 31).all()


def unit_vectors(n: int, dimensions: int = 32) -> np.ndarray:
    """Random directions; every third one lies close to the one before it."""
    rng = np.random.default_rng(n)
    vectors = rng.normal(size=(n, dimensions))
    vectors[1::3] = vectors[0::3][: len(vectors[1::3])] + 0.2 * rng.normal(size=vectors[1::3].shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def near_vectors(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    similarity = np.round(vectors.astype(np.float64) @ vectors.T.astype(np.float64), search.DIGITS)
    i, j = np.nonzero(np.triu(similarity >= threshold, 1))
    return set(zip(i.tolist(), j.tolist(), strict=True))


def test_cosine_pairs_are_those_of_brute_force():
    vectors = unit_vectors(600)
    i, j, distance = search.cosine_pairs(vectors, 0.9)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == near_vectors(vectors, 0.9)
    assert len(i) > 100
    assert (distance <= 0.1).all()


def test_no_vectors_have_no_pairs():
    assert all(len(column) == 0 for column in search.cosine_pairs(np.zeros((0, 8), np.float32), 0.9))


def test_a_benchmark_of_bits_is_found_up_to_and_with_the_threshold():
    benchmark = np.array([[0, 0], [255, 255]], np.uint8)
    pool = np.array([[0b1111, 0], [0b11111, 0], [255, 254]], np.uint8)
    query, found, distance = search.HammingIndex(benchmark).near(pool, 4)
    assert list(zip(query.tolist(), found.tolist(), distance.tolist(), strict=True)) == [(0, 0, 4.0), (2, 1, 1.0)]


def test_a_benchmark_of_vectors_is_found_in_the_pool():
    vectors = unit_vectors(300)
    query, found, _ = search.CosineIndex(vectors[:100], "cpu").near(vectors, 0.9)
    both_ways = {pair for a, b in near_vectors(vectors, 0.9) for pair in ((a, b), (b, a))}
    wanted = {(a, b) for a, b in both_ways if b < 100} | {(row, row) for row in range(100)}
    assert set(zip(query.tolist(), found.tolist(), strict=True)) == wanted


def alike(signal: str, classes: list[int], pairs: list[tuple[int, int, float]] = ()) -> Alike:
    a, b, distance = (np.array(column) for column in zip(*pairs, strict=True)) if pairs else ([], [], [])
    return Alike(signal, np.array(classes), np.array(a, int), np.array(b, int), np.array(distance, float))


def test_a_chain_of_near_pairs_does_not_drop_its_far_end():
    chain = alike("phash", [0, 1, 2], [(0, 1, 4.0), (1, 2, 4.0)])
    assert stars(np.array([0, 1, 2]), [chain]).keeper.tolist() == [-1, 0, -1]
    assert stars(np.array([1, 0, 2]), [chain]).keeper.tolist() == [1, -1, 1]


def test_the_first_signal_names_the_match():
    star = stars(np.array([2, 0, 1]), [alike("exact", [0, 1, 0]), alike("phash", [0, 0, 0])])
    assert star.keeper.tolist() == [2, 2, -1]
    assert star.matched_by.tolist() == [0, 1, -1]


def test_rows_without_a_code_match_nothing():
    assert stars(np.array([0, 1]), [alike("phash", [-1, -1])]).kept.all()


def test_five_thousand_placeholders_cost_no_pairs():
    star = stars(np.arange(5000), [alike("exact", [0] * 5000)])
    assert star.kept.sum() == 1
    assert (star.keeper[1:] == 0).all()


def test_two_faiss_packages_are_told_with_the_way_out(monkeypatch, tmp_path):
    assert faiss_conflict() is None
    for name in ("faiss_cpu-1.15.1", "faiss_gpu-1.15.1"):
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        package, version = name.split("-")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_search.cache_clear()  # as in a new process
    with pytest.raises(CurateError, match="pip uninstall -y faiss-cpu faiss-gpu && pip install faiss-gpu"):
        load_search()
