"""Searches that are spread over tasks: the pairs of the search in one piece, in bounded buckets, on any engine."""

import gc
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dedup_rules import dropped, scene, shown, worse
from test_dedup_search import near_codes, near_vectors, unit_vectors

from curate import named, ranges, shuffle
from curate.dataset import Dataset
from curate.dedup import equal, firsts, groups_report, join_bits, join_vectors, ranking
from curate.dedup import run as dedup
from curate.dedup.by_number import by_number
from curate.dedup.codes import Comparison, read
from curate.dedup.faiss_install import load_search
from curate.dedup.groups import stars
from curate.dedup.hamming import as_words, hamming_pairs
from curate.dedup.likeness import Gather, Likeness
from curate.dedup.pairs import SCHEMA, Near, write_pairs
from curate.dedup.pool import Column, Pool, collect
from curate.dedup.ranking import Part, Ranking, rank, ranked_of, record
from curate.dedup.stars import stars_by_range
from curate.files import Folder
from curate.measure import _made_by, measure
from curate.shard import Shard
from curate.signal_files import rows_hash

HERE = "local(workers=1)"
NONE = np.zeros(0, np.int64)
search = load_search()


def as_list(pairs) -> list[tuple]:
    return list(zip(*(column.tolist() for column in pairs), strict=True))


def as_firsts(folder: Folder, codes: np.ndarray, per_file: int) -> firsts.Firsts:
    """The files of these codes, every row of which is the first of its class."""
    held = np.column_stack([as_words(codes), np.arange(len(codes), dtype=np.uint64)])
    files = np.array_split(held, -(-len(codes) // per_file))
    for number, held in enumerate(files):
        folder.write_array(firsts.firsts_of(number), held)
    return firsts.Firsts(folder, len(codes), len(files), len(codes))


def code_pairs(folder: Folder, codes: np.ndarray, threshold: int):
    held = as_firsts(folder.within("codes"), codes, 300)
    return once(join_bits.code_pairs(folder, held, codes.shape[1] * 8, threshold, 1.0, HERE, []))


def once(near: Near):
    """The pairs i < j, which lie in both orders."""
    i, j, distance = near.pairs(0, ranges.END)
    back = np.lexsort((i, j))
    assert as_list((j[back], i[back], distance[back])) == as_list((i, j, distance))
    return i[i < j], j[i < j], distance[i < j]


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [16, 2], ids=["picked", "placed"])
@pytest.mark.parametrize(("width", "threshold"), [(8, 4), (8, 8), (32, 31)])
def test_ranges_of_codes_hold_the_pairs_of_all_codes(tmp_path, monkeypatch, width, threshold, ranges):
    monkeypatch.setattr(join_bits, "RANGES", ranges)
    monkeypatch.setattr(join_bits, "FILES", 2)
    codes = np.unique(near_codes(1200, width, 1, flips=threshold + 2), axis=0)
    whole = code_pairs(Folder(str(tmp_path)), codes, threshold)
    assert not Folder(str(tmp_path)).names("*/pairs/*")
    monkeypatch.setattr(join_bits, "BUCKET", 500)
    found = code_pairs(Folder(str(tmp_path)), codes, threshold)
    assert as_list(found) == as_list(whole) == as_list(hamming_pairs(codes, threshold, recall=1.0))
    assert len(found[0]) > 300
    assert Folder(str(tmp_path)).names("*/pairs/*")
    assert not Folder(str(tmp_path)).names("*/placed/**")


def test_a_range_that_is_done_is_not_joined_again(tmp_path, monkeypatch):
    codes = np.unique(near_codes(500, 8, 1, flips=4), axis=0)
    monkeypatch.setattr(join_bits, "BUCKET", 100)
    folder = Folder(str(tmp_path))
    first = code_pairs(folder, codes, 4)
    done = {name: folder.read_bytes(name) for name in folder.names("*/pairs/*")}
    folder.remove(next(iter(done)))
    monkeypatch.setattr(join_bits, "joined", None)  # would break a join of anything else than what is missing
    with pytest.raises(TypeError):
        code_pairs(folder, codes, 4)
    monkeypatch.undo()
    monkeypatch.setattr(join_bits, "BUCKET", 100)
    assert as_list(code_pairs(folder, codes, 4)) == as_list(first)
    assert {name: folder.read_bytes(name) for name in done} == done


def ranked_pool(folder: Folder, values: np.ndarray, usable: np.ndarray, moving: np.ndarray, places: np.ndarray,
                per_range: int) -> Pool:  # fmt: skip
    """A pool of codes in the order of ranks, as files of so many rows each. places: among the rows of all shards."""
    column = Column(Comparison("exact", "exact", "equal", 0), "0.0", values.shape[1])
    like = record(1, {"moving": np.bool_, column.values: (np.uint8, values.shape[1:]), column.usable: np.bool_})
    held = np.zeros(len(values), like)
    uids = np.array([f"{row:08d}" for row in range(len(values))], "S8")
    held["keys"][:, -2], held["keys"][:, -1] = uids.view(">u8"), places
    held[column.values], held[column.usable], held["moving"] = values, usable, moving
    starts = np.append(np.arange(0, len(values), per_range), len(values))
    for number, start in enumerate(starts[:-1].tolist()):
        folder.write_array(f"ranks/{ranked_of(number)}", held[start : start + per_range])
    ranks = Ranking(folder.within("ranks"), starts, like)
    return Pool(Dataset(folder), [], np.zeros(1, np.int64), ranks, [column], True, False, 0, {}, "rows")


@pytest.mark.slow
@settings(max_examples=12)
@given(n=st.integers(0, 200), kinds=st.integers(1, 60), width=st.sampled_from([1, 8, 20]), part=st.integers(40, 90),
       bucket=st.integers(40, 90), seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_ranges_of_digests_hold_the_rows_with_equal_codes(tmp_path_factory, n, kinds, width, part, bucket, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (kinds, width), np.uint8)[rng.integers(0, kinds, n)]
    usable, outside, moving, places = rng.random(n) < 0.9, rng.random(n) < 0.1, rng.random(n) < 0.2, rng.permutation(n)
    told = [(value.tobytes(), bool(moves)) if there else None
            for value, moves, there in zip(values, moving, usable & ~outside, strict=True)]  # fmt: skip
    folder = Folder(str(tmp_path_factory.mktemp("equal")))
    pool = ranked_pool(folder, values, usable, moving, places, part)
    found = []
    for few in (equal.FEW, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(equal, "FEW", few)
            patch.setattr(equal, "BUCKET", bucket)
            left = equal.listed(folder, np.flatnonzero(outside))
            rows, best = equal.repeated(pool, pool.codes[0], ["moving"], left, folder, HERE).rows(0, n)
            found.append((rows.tolist(), best.tolist()))
            assert bool(folder.names("equal-*/repeats-*/*")) == (n > few)
            first: dict[bytes, int] = {}
            for row in np.argsort(places).tolist():
                if usable[row]:
                    first.setdefault(values[row].tobytes(), row)
            assert firsts.distinct(pool, pool.codes[0], n, folder, HERE).tolist() == list(first.values())
    assert found[0] == found[1]
    rows, best = found[0]
    assert rows == [row for row, said in enumerate(told) if said and told.count(said) > 1]
    assert best == [told.index(told[row]) for row in rows]


def repeats(pool: Pool, folder: Folder):
    return equal.repeated(pool, pool.codes[0], [], equal.listed(folder, NONE), folder, HERE).rows(0, len(pool))


def test_a_range_of_digests_that_is_done_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(equal, "FEW", 40)
    monkeypatch.setattr(equal, "BUCKET", 25)
    folder, values = Folder(str(tmp_path)), np.arange(100, dtype=np.uint8)[:, None] // 2
    pool = ranked_pool(folder, values, np.ones(100, bool), np.zeros(100, bool), np.arange(100), 30)
    whole = repeats(pool, folder)
    done = {name: folder.read_bytes(name) for name in folder.names("equal-*/repeats-*/*")}
    assert len(done) == 4
    folder.remove(next(iter(done)))
    monkeypatch.setattr(equal, "write_shared", None)  # would break the writing of anything else than what is missing
    with pytest.raises(TypeError):
        repeats(pool, folder)
    monkeypatch.undo()
    monkeypatch.setattr(equal, "FEW", 40)
    monkeypatch.setattr(equal, "BUCKET", 25)
    again = repeats(pool, folder)
    assert [column.tolist() for column in again] == [column.tolist() for column in whole]
    assert {name: folder.read_bytes(name) for name in done} == done


@pytest.mark.slow
@settings(max_examples=12)
@given(n=st.integers(0, 150), kinds=st.integers(1, 4), shards=st.integers(1, 5), of=st.integers(30, 90),
       seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_ranges_of_ranks_lie_in_the_order_of_all_rows(tmp_path_factory, n, kinds, shards, of, seed):
    rng = np.random.default_rng(seed)
    columns = {name: rng.integers(0, kinds, n) for name in ("pixels", "original")}
    columns["clip"] = rng.choice([-np.inf, -0.25, -0.0, 0.0, 0.125], n)
    uids = [f"{uid:x}" * rng.integers(1, 12) for uid in rng.integers(0, max(1, n), n)]  # some of them twice
    folder = Folder(str(tmp_path_factory.mktemp("rank")))
    table = pa.table({"uid": pa.array(uids, pa.string())} | columns | {"code": columns["pixels"].astype(np.uint8)})
    cuts = [0, *sorted(rng.integers(0, n + 1, shards - 1).tolist()), n]
    parts = [Part(Shard(folder, f"{at:05d}"), start) for at, start in enumerate(cuts[:-1])]
    rows = np.diff(cuts).tolist()
    for part, count in zip(parts, rows, strict=True):
        folder.write_table(f"{part.shard.name}.parquet", table.slice(part.first, count))
    like = record(max([1, *(-(-len(uid) // 8) for uid in uids)]), {"code": np.uint8})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "RANGE", of)
        ranks, again = (rank(parts, rows, folder, "", like, HERE) for _ in range(2))
    told = list(zip(*(-columns[name] for name in columns), uids, range(n), strict=True))
    best = [row for *_, row in sorted(told)]
    keys = ranks.take(np.arange(n), "keys")
    assert keys[:, -1].tolist() == best
    assert ranking.uids_of(keys).to_pylist() == [uids[row] for row in best]
    assert ranks.starts.tolist() == again.starts.tolist()
    assert len(ranks.ranges) == -(-n // of)
    drawn = rng.integers(0, max(n, 1), n)
    assert ranks.find(keys[drawn]).tolist() == drawn.tolist()
    assert ranks.take(drawn, "code").tolist() == columns["pixels"][np.array(best, np.int64)[drawn]].tolist()


@pytest.mark.slow
def test_a_sample_by_uid_does_not_depend_on_the_ranges_of_ranks(pool, monkeypatch):
    folder = pool.dataset.folder.within("work/dedup/test")
    out = equal.listed(folder, np.arange(5))
    taken = firsts.sampled(pool, pool.codes[0], out, 50, folder, HERE)
    monkeypatch.setattr(ranking, "RANGE", 70)
    again = collect(pool.dataset, [pool.codes[0].comparison], None, engine=HERE)
    assert len(again.ranking.ranges) == 9
    assert np.array_equal(taken, firsts.sampled(again, pool.codes[0], out, 50, folder, HERE))
    assert len(taken) == 50
    assert taken.min() >= 5
    places = pool.places(taken)
    assert np.array_equal(places, np.sort(places))
    assert places.max() > 300


def gathered(ranks: Ranking, name: str, rows: np.ndarray, best: np.ndarray, i: np.ndarray, j: np.ndarray) -> Likeness:
    """What a signal says: the best row with the code of each row, and pairs of these, i < j."""
    folder = ranks.folder.within(name)
    write_pairs(folder, "all", (i, j, (i * 7 + j) % 5 + 1.0), [])
    ranges.write(folder, "equal.arrow", pa.table({"row": rows.astype(np.uint64), "best": best}), "row")
    alike = by_number(folder, ["equal.arrow"], equal.SCHEMA, len(rows), len(ranks), HERE)
    near = by_number(folder, ["pairs/all.arrow"], SCHEMA, 2 * len(i), len(ranks), HERE)
    task = Gather(folder, ranks, False, False, equal.Equal(alike), Near(near))
    for number in ranks.ranges:
        task(number)
    return Likeness(name, folder, ranks)


def both_stars(ranks: Ranking, told: list[Likeness]) -> list[list[list]]:
    """Rows, keepers, places of signals and distances: of the stars of all rows, and range by range."""
    whole = stars(np.arange(len(ranks)), [each.among(np.arange(len(ranks))) for each in told])
    gone = np.flatnonzero(whole.keeper >= 0)
    parts = zip(*(found for _, found in stars_by_range(ranks, told)), strict=True)
    return [
        [column.tolist() for column in (gone, whole.keeper[gone], whole.matched_by[gone], whole.distance[gone])],
        [np.concatenate(column).tolist() for column in parts],
    ]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), signals=st.integers(1, 3), kinds=st.integers(1, 60), near=st.integers(0, 60),
       part=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_stars_taken_range_by_range_are_stars(tmp_path_factory, n, signals, kinds, near, part, seed):
    rng, told = np.random.default_rng(seed), []
    folder = Folder(str(tmp_path_factory.mktemp("stars")))
    ranks = Ranking(folder, np.append(np.arange(0, n, part), n), record(1, {}))
    for at in range(signals):
        rows = np.flatnonzero(rng.random(n) < 0.8)
        _, first, of = np.unique(rng.integers(0, kinds, len(rows)), return_index=True, return_inverse=True)
        best = rows[first][of]
        a, b = rng.choice(best, (2, near)) if len(best) else np.zeros((2, 0), np.int64)
        told.append(gathered(ranks, f"{at}", rows, best, np.minimum(a, b)[a != b], np.maximum(a, b)[a != b]))
    whole, parts = both_stars(ranks, told)
    assert parts == whole


def test_what_is_near_a_class_is_dropped_for_the_row_that_stays_though_its_best_row_went(tmp_path):
    """Row 1 goes for row 0 by one signal; row 2 has its code of another signal, and row 3 one near to that."""
    ranks = Ranking(Folder(str(tmp_path)), np.arange(5), record(1, {}))
    first = gathered(ranks, "first", np.array([0, 1]), np.array([0, 0]), NONE, NONE)
    second = gathered(ranks, "second", np.array([1, 2]), np.array([1, 1]), np.array([1]), np.array([3]))
    whole, parts = both_stars(ranks, [first, second])
    assert whole == parts == [[1, 3], [0, 2], [0, 1], [0, 1]]


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
    return collect(dataset, [Comparison("embedding", "embedding", "cosine", 0.9)], None, engine=HERE)


def compared(pool, capped: list | None = None):
    folder = pool.dataset.folder.within("work/dedup/test")
    told = [] if capped is None else capped
    out = equal.listed(folder, NONE)
    held = firsts.firsts(pool, pool.codes[0], out, folder, HERE)
    return once(join_vectors.vector_pairs(pool, folder, pool.codes[0], out, held, None, HERE, told))


@pytest.mark.slow
def test_clusters_lose_no_near_pair(pool):
    vectors = pool.vectors(pool.codes[0].comparison, np.arange(600))
    found = as_list(compared(pool))
    assert {(i, j) for i, j, _ in found} == near_vectors(vectors, 0.9)
    assert found == as_list(search.cosine_pairs(vectors, 0.9))
    assert len(found) > 100


@pytest.mark.slow
def test_a_crowded_cluster_is_compared_with_its_first_vectors_and_named(pool, monkeypatch):
    monkeypatch.setattr(join_vectors, "GROUP", 10)
    monkeypatch.setattr(join_vectors, "FIRST", 1)
    crowds: list[tuple[int, int]] = []
    whole = set(as_list(search.cosine_pairs(pool.vectors(pool.codes[0].comparison, np.arange(600)), 0.9)))
    found = set(as_list(compared(pool, crowds)))
    assert crowds
    assert all(size > 10 for _, size in crowds)
    assert found < whole


@pytest.mark.slow
def test_the_pairs_do_not_depend_on_how_many_vectors_a_task_holds(pool, monkeypatch):
    few = as_list(compared(pool))
    monkeypatch.setattr(join_vectors, "GROUP", 90)  # no cluster has so many
    crowds: list[tuple[int, int]] = []
    assert as_list(compared(pool, crowds)) == few
    assert not crowds
    assert len(pool.dataset.folder.names("work/dedup/test/*/pairs/*")) > 10


@pytest.mark.slow
def test_tasks_hold_no_file_open_for_each_shard(make_dataset, tmp_path, monkeypatch, few_open_files):
    monkeypatch.setattr(join_bits, "BUCKET", 10)
    monkeypatch.setattr(join_bits, "RANGES", 1)
    monkeypatch.setattr(join_bits, "FILES", 1)
    monkeypatch.setattr(equal, "FEW", 15)
    monkeypatch.setattr(ranking, "RANGE", 1)
    rows = [shown(index, scene(index % 50)) for index in range(60)]
    with few_open_files(40):
        result = dedup(make_dataset(rows, per_shard=1), ["pdq"], engine=HERE)
    assert len(dropped(result)) == 10


@pytest.mark.slow
def test_vectors_read_from_their_files_are_those_of_the_rows(pool):
    comparison = pool.codes[0].comparison
    held = np.concatenate(
        [read(pool.dataset, Shard(pool.dataset.folder, shard.name), comparison)[0].values for shard in pool.shards]
    )
    rows = np.array([5, 599, 100, 0, 99])
    assert np.array_equal(pool.vectors(comparison, rows), held[pool.places(rows)])


@pytest.mark.slow
@pytest.mark.parametrize("url", ["{tmp}/b", "memory://dedup-by-tasks"])
def test_dedup_by_tasks_is_dedup(make_dataset, tmp_path, monkeypatch, url):
    worse_of = [worse(scene(index)) for index in range(25)]
    rows = [shown(index, scene(index) if index < 25 else worse_of[index % 25]) for index in range(60)]
    whole = dedup(make_dataset(rows, url=str(tmp_path / "a")), ["pdq"], engine=HERE)
    monkeypatch.setattr(join_bits, "BUCKET", 10)
    monkeypatch.setattr(join_bits, "RANGES", 1)  # codes are placed, too
    monkeypatch.setattr(equal, "FEW", 15)
    monkeypatch.setattr(ranking, "RANGE", 15)
    monkeypatch.setattr(shuffle, "FAN", 2)
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", 40)
    opened, real = [], ranges.between
    monkeypatch.setattr(ranges, "between", lambda *args: opened.append(len(args[1])) or real(*args))
    tasks = dedup(make_dataset(rows, url=url.format(tmp=tmp_path)), ["pdq"], engine=HERE)
    assert len(opened) > 100
    assert max(opened) <= 2 * 2, "two pieces of FAN files each"
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
    monkeypatch.setattr(equal, "FEW", 5)  # and of digests
    monkeypatch.setattr(equal, "BUCKET", 5)
    monkeypatch.setattr(ranking, "RANGE", 5)  # and of ranks
    monkeypatch.setattr(shuffle, "FAN", 2)  # of which each is read from two files at most
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", 5)
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


class Elsewhere:
    """Runs tasks in this process, and leaves out what they hold as they run."""

    def __init__(self):
        self.peak = 0

    def map(self, task, items):
        for index, item in enumerate(items):
            self.peak = max(self.peak, tracemalloc.get_traced_memory()[1])
            report = task(item)
            gc.collect()  # what waits for it is not held
            tracemalloc.reset_peak()
            yield index, report


def driver_peak(url: str, rows: int, copies: int) -> int:
    """Bytes that the driver of a dedup holds at most, where so many of five images are copies of a fifth, some
    of another bit."""
    folder, rng, per_shard = Folder(url), np.random.default_rng(rows), 5000
    codes = rng.integers(0, 256, (rows, 32), np.uint8)
    of = rng.permutation(rows).reshape(5, -1)
    codes[of[:copies]] = codes[of[-1]]
    codes[of[:copies:2], 5] ^= 1
    for start in range(0, rows, per_shard):
        held = Shard(folder, f"{start // per_shard:05d}")
        uids = pa.array(sorted(rng.bytes(16).hex() for _ in range(per_shard)))
        folder.write_bytes(f"shards/{held.name}.tar", bytes(10_240))
        folder.write_table(held.parquet, pa.table({"uid": uids, "key": uids, "url": uids, "caption": uids}))
        own = pa.array([code.tobytes() for code in codes[start : start + per_shard]], pa.binary(32))
        table = pa.table({"uid": uids, "pdq": own, "pdq_flat": np.zeros(per_shard, bool)})
        about = {"tar_bytes": 10_240, "rows": rows_hash(held.rows())}
        folder.write_table(f"signals/pdq/{held.name}.parquet", table, _made_by(named.parse("pdq"), held, about))
    dataset = Dataset(folder).after("made", {}, "made", signals={"pdq": "pdq"}).save()
    engine = Elsewhere()
    gc.collect()
    gc.freeze()  # collecting is quick then
    tracemalloc.start()
    done = dedup(dataset, ["pdq"], {"pdq": 1}, engine=engine)
    peak = max(engine.peak, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    gc.unfreeze()
    assert done.history[-1]["counts"]["kept"] == rows - rows // 5 * copies
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("copies", [0, 2])
def test_the_driver_holds_no_row_whether_another_is_like_it_or_not(tmp_path, monkeypatch, copies):
    monkeypatch.setattr(ranking, "RANGE", 2_500)
    monkeypatch.setattr(equal, "FEW", 0)
    monkeypatch.setattr(equal, "BUCKET", 5_000)
    monkeypatch.setattr(join_bits, "SMALL", 0)
    monkeypatch.setattr(join_bits, "BUCKET", 5_000)
    monkeypatch.setattr(groups_report, "MEMBERS", 2_000)
    monkeypatch.setattr(groups_report, "STRETCH", 1_000)
    driver_peak(str(tmp_path / "first"), 5_000, copies)  # imports what there is to import
    few, many = (driver_peak(str(tmp_path / f"{rows}"), rows, copies) for rows in (10_000, 50_000))
    assert (many - few) / 40_000 < 4, "less than one number a row"
