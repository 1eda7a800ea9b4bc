"""Searches that are spread over tasks: the pairs of the search in one piece, in bounded buckets, on any engine."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dedup_rules import dropped, scene, shown, worse
from test_dedup_search import near_codes, near_vectors, unit_vectors

from curate.dataset import Dataset
from curate.dedup import equal, join_bits, join_vectors, order, spill
from curate.dedup import run as dedup
from curate.dedup.codes import Codes, Comparison, classes, read
from curate.dedup.faiss_install import load_search
from curate.dedup.hamming import hamming_pairs
from curate.dedup.pool import collect
from curate.dedup.whitened import sampled
from curate.files import Folder
from curate.measure import measure
from curate.shard import Shard

HERE = "local(workers=1)"
search = load_search()


def as_list(pairs) -> list[tuple]:
    return list(zip(*(column.tolist() for column in pairs), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [16, 2], ids=["picked", "placed"])
@pytest.mark.parametrize(("width", "threshold"), [(8, 4), (8, 8), (32, 31)])
def test_ranges_of_codes_hold_the_pairs_of_all_codes(tmp_path, monkeypatch, width, threshold, ranges):
    monkeypatch.setattr(join_bits, "RANGES", ranges)
    monkeypatch.setattr(join_bits, "FILES", 2)
    codes = np.unique(near_codes(1200, width, 1, flips=threshold + 2), axis=0)
    monkeypatch.setattr(join_bits, "BUCKET", 500)
    monkeypatch.setattr(join_bits, "PART", 300)
    found = join_bits.code_pairs(Folder(str(tmp_path)), codes, np.arange(len(codes)), threshold, 1.0, HERE, [])
    assert as_list(found) == as_list(hamming_pairs(codes, threshold, recall=1.0))
    assert len(found[0]) > 300
    assert not Folder(str(tmp_path)).names("*/placed/**")


def test_a_range_that_is_done_is_not_joined_again(tmp_path, monkeypatch):
    codes = np.unique(near_codes(500, 8, 1, flips=4), axis=0)
    monkeypatch.setattr(join_bits, "BUCKET", 100)
    folder = Folder(str(tmp_path))
    first = join_bits.code_pairs(folder, codes, np.arange(len(codes)), 4, 1.0, HERE, [])
    done = {name: folder.read_bytes(name) for name in folder.names("*/pairs/*.parquet")}
    folder.remove(next(iter(done)))
    monkeypatch.setattr(join_bits, "joined", None)  # would break a join of anything else than what is missing
    with pytest.raises(TypeError):
        join_bits.code_pairs(folder, codes, np.arange(len(codes)), 4, 1.0, HERE, [])
    monkeypatch.undo()
    monkeypatch.setattr(join_bits, "BUCKET", 100)
    assert as_list(join_bits.code_pairs(folder, codes, np.arange(len(codes)), 4, 1.0, HERE, [])) == as_list(first)
    assert {name: folder.read_bytes(name) for name in done} == done


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 200), kinds=st.integers(1, 60), width=st.sampled_from([1, 8, 20]), part=st.integers(1, 90),
       bucket=st.integers(1, 90), seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_ranges_of_digests_hold_the_rows_with_equal_codes(tmp_path_factory, n, kinds, width, part, bucket, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (kinds, width), np.uint8)[rng.integers(0, kinds, n)]
    codes = Codes(Comparison("exact", "exact", "equal", 0), values, rng.random(n) < 0.9, np.zeros(n, bool))
    outside, moving = rng.random(n) < 0.1, rng.random(n) < 0.2
    told = [(value.tobytes(), bool(moves)) if usable else None
            for value, moves, usable in zip(values, moving, codes.comparable & ~outside, strict=True)]  # fmt: skip
    folder = Folder(str(tmp_path_factory.mktemp("equal")))
    whole = equal.repeated(codes, [moving], outside, folder, HERE)
    assert not folder.names("**")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal, "PART", part)
        patch.setattr(equal, "BUCKET", bucket)
        rows, ids = equal.repeated(codes, [moving], outside, folder, HERE)
        assert equal.distinct(codes, folder, HERE).tolist() == classes(codes)[1].tolist()
    assert (rows.tolist(), ids.tolist()) == (whole[0].tolist(), whole[1].tolist())
    assert rows.tolist() == [row for row, said in enumerate(told) if said and told.count(said) > 1]
    assert len({(told[row], cls) for row, cls in zip(rows.tolist(), ids.tolist(), strict=True)}) == len({*ids.tolist()})


def test_a_range_of_digests_that_is_done_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(equal, "PART", 40)
    monkeypatch.setattr(equal, "BUCKET", 25)
    folder, values = Folder(str(tmp_path)), np.arange(100, dtype=np.uint8)[:, None] // 2
    codes = Codes(Comparison("exact", "exact", "equal", 0), values, np.ones(100, bool), np.zeros(100, bool))
    whole = equal.repeated(codes, [], np.zeros(100, bool), folder, HERE)
    done = {name: folder.read_bytes(name) for name in folder.names("repeats-*/*")}
    assert len(done) == 4
    folder.remove(next(iter(done)))
    monkeypatch.setattr(equal.Repeats, "_range", None)  # would break the reading of anything else than what is missing
    with pytest.raises(TypeError):
        equal.repeated(codes, [], np.zeros(100, bool), folder, HERE)
    monkeypatch.undo()
    monkeypatch.setattr(equal, "PART", 40)
    monkeypatch.setattr(equal, "BUCKET", 25)
    again = equal.repeated(codes, [], np.zeros(100, bool), folder, HERE)
    assert [column.tolist() for column in again] == [column.tolist() for column in whole]
    assert {name: folder.read_bytes(name) for name in done} == done


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 150), kinds=st.integers(1, 4), bucket=st.integers(1, 90), block=st.integers(1, 90),
       seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_buckets_of_rows_lie_in_the_order_of_all_rows(n, kinds, bucket, block, seed):
    rng = np.random.default_rng(seed)
    columns = {name: rng.integers(0, kinds, n) for name in ("pixels", "original", "clip")}
    uids = [f"{uid:x}" for uid in rng.integers(0, max(1, n), n)]  # some of them twice
    rows = pa.table({"uid": pa.array(uids, pa.large_string())} | columns)
    told = list(zip(*(-columns[name] for name in columns), uids, range(n), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BUCKET", bucket)
        patch.setattr(spill, "BLOCK", block)
        best = order.ranked(rows)
        rank = order.places(best, n)
    assert best.tolist() == [row for *_, row in sorted(told)]
    assert np.array_equal(rank[best], np.arange(n))


@pytest.mark.slow
def test_a_sample_by_uid_does_not_depend_on_the_order_of_rows(pool):
    rows = np.random.default_rng(1).permutation(600)
    taken = sampled(pool, rows, 50)
    assert len(taken) == 50
    assert np.array_equal(taken, sampled(pool, np.sort(rows), 50))
    assert taken.max() > 300


def with_vectors(dataset: Dataset, vectors: np.ndarray) -> Dataset:
    """The dataset as if "embedding" had measured these vectors, in the order of its shards and uids."""
    dataset, start = measure(dataset, ["size"], HERE), 0
    for shard in dataset.shards:
        table = dataset.measured(shard, "size")
        dataset.folder.write_table(f"signals/embedding/{shard.name}.parquet", table.select(["uid"]))
        own = vectors[start : start + len(table)].astype(np.float16)
        dataset.folder.write_array(f"signals/embedding/{shard.name}.npy", own)
        start += len(table)
    return dataset.after("measure", {}, "", signals={**dataset.signals, "embedding": "embedding"})


@pytest.fixture
def pool(make_dataset):
    """600 rows in 6 shards with vectors of 32 dimensions, every third near the one before it."""
    blank = shown(0, scene(0))
    rows = [{**blank, "key": f"{index:06d}", "caption": f"number {index}"} for index in range(600)]
    dataset = with_vectors(make_dataset(rows, per_shard=100), unit_vectors(600))
    return collect(dataset, [Comparison("embedding", "embedding", "cosine", 0.9)], None)


def compared(pool, rows: np.ndarray, capped: list | None = None):
    comparison = pool.codes[0].comparison
    folder = pool.dataset.folder.within("work/dedup/test")
    return join_vectors.vector_pairs(pool, folder, comparison, rows, None, HERE, [] if capped is None else capped)


@pytest.mark.slow
def test_clusters_lose_no_near_pair(pool):
    rows = np.random.default_rng(0).permutation(600)
    vectors = pool.vectors(pool.codes[0].comparison, rows)
    found = as_list(compared(pool, rows))
    assert {(i, j) for i, j, _ in found} == near_vectors(vectors, 0.9)
    assert found == as_list(search.cosine_pairs(vectors, 0.9))
    assert len(found) > 100


@pytest.mark.slow
def test_a_crowded_cluster_is_compared_with_its_first_vectors_and_named(pool, monkeypatch):
    monkeypatch.setattr(join_vectors, "LARGEST", 10)
    monkeypatch.setattr(join_vectors, "FIRST", 1)
    crowds: list[tuple[int, int]] = []
    whole = set(as_list(search.cosine_pairs(pool.vectors(pool.codes[0].comparison, np.arange(600)), 0.9)))
    found = set(as_list(compared(pool, np.arange(600), crowds)))
    assert crowds
    assert all(size > 10 for _, size in crowds)
    assert found < whole


@pytest.mark.slow
def test_vectors_read_from_their_files_are_those_of_the_rows(pool):
    comparison = pool.codes[0].comparison
    held = np.concatenate(
        [read(pool.dataset, Shard(pool.dataset.folder, shard.name), comparison)[0].values for shard in pool.shards]
    )
    rows = np.array([5, 599, 100, 0, 99])
    assert np.array_equal(pool.vectors(comparison, rows), held[rows])


@pytest.mark.slow
def test_dedup_by_tasks_is_dedup(make_dataset, tmp_path, monkeypatch):
    worse_of = [worse(scene(index)) for index in range(25)]
    rows = [shown(index, scene(index) if index < 25 else worse_of[index % 25]) for index in range(60)]
    whole = dedup(make_dataset(rows, url=str(tmp_path / "a")), ["pdq"], engine=HERE)
    monkeypatch.setattr(join_bits, "BUCKET", 10)
    monkeypatch.setattr(join_bits, "RANGES", 1)  # codes are placed, too
    monkeypatch.setattr(equal, "PART", 15)
    tasks = dedup(make_dataset(rows, url=str(tmp_path / "b")), ["pdq"], engine=HERE)
    assert len(dropped(tasks)) >= 30
    assert dropped(tasks) == dropped(whole)
    assert any(row["distance"] for row in dropped(tasks).values())
    assert not tasks.folder.names("work/dedup/**/*.parquet")
    assert tasks.selection == whole.selection


@pytest.mark.parametrize("spec", [
    pytest.param("local(workers=2)", id="two-processes", marks=pytest.mark.slow),
    pytest.param("ray(workers=2)", id="ray", marks=[pytest.mark.slow, pytest.mark.ray]),
])  # fmt: skip
def test_every_engine_finds_the_same_duplicates(spec, make_dataset, tmp_path, monkeypatch):
    if "ray" in spec:
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    rows = [shown(index, scene(index) if index < 6 else worse(scene(index % 6))) for index in range(12)]
    whole = dedup(make_dataset(rows, 4, str(tmp_path / "a")), engine="local(workers=0)")
    monkeypatch.setattr(join_bits, "BUCKET", 4)  # tasks for ranges of codes
    monkeypatch.setattr(equal, "PART", 5)  # and of digests
    monkeypatch.setattr(equal, "BUCKET", 5)
    tasks = dedup(make_dataset(rows, 4, str(tmp_path / "b")), engine=spec)
    patterns = ("selections/*/*", "reports/duplicates-*")
    found = [
        {name: each.folder.read_bytes(name) for pattern in patterns for name in each.folder.names(pattern)}
        for each in (whole, tasks)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 4
    assert tasks.history[-1]["counts"] == whole.history[-1]["counts"]
    assert whole.history[-1]["counts"]["kept"] == 6
