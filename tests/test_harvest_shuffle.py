"""Shuffling sorted files: few opens for each range, and the same candidates for any cut of the pool."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import ranges, shuffle
from curate.dataset import Dataset
from curate.errors import BadShard
from curate.files import Folder
from curate.harvest import run
from curate.harvest.choose import limits, matches, uids
from curate.harvest.choose.matches import Part, grouped, sorted_by_uid
from curate.shard import uid_of

TABLES = ("candidates/*.parquet", "reports/*.parquet")


def runs_of(folder: Folder, rows: int, count: int, end: int = ranges.END) -> tuple[list[str], pa.Table]:
    """Sorted files of random pairs, a tenth of them in two files."""
    rng, names, tables = np.random.default_rng(0), [], []
    for number in range(count):
        high = rng.integers(0, end, rows, np.uint64)
        if tables:
            high[: rows // 10] = tables[-1]["high"].to_numpy()[: rows // 10]
        table = pa.table({"high": high, "low": high, "part": np.full(rows, -1, np.int32), "row": np.full(rows, -1)})
        tables.append(sorted_by_uid(table))
        names.append(f"runs/{number:05d}.arrow")
        ranges.write(folder, names[-1], tables[-1], "high", {})
    return names, sorted_by_uid(pa.concat_tables(tables))


@pytest.mark.parametrize("url", ["{tmp}/files", "memory://ranges"])
@pytest.mark.parametrize("rows", [0, 1, 100, 30_000])
def test_a_range_of_a_file_is_read_without_the_rest(tmp_path, url, rows):
    folder = Folder(url.format(tmp=tmp_path))
    values = np.sort(np.random.default_rng(1).integers(0, 2**64, rows, np.uint64))
    table = pa.table({"value": values, "text": [str(value) for value in values]})
    ranges.write(folder, "a.arrow", table, "value", {"made": "so"})
    assert ranges.made_by(folder, "a.arrow") == {"made": "so"}
    assert ranges.made_by(folder, "b.arrow") is None
    for number in range(7):
        start, stop = ranges.bounds(number, 7)
        found = ranges.between(folder, ["a.arrow"], "value", start, stop)
        assert found["value"].to_pylist() == [value for value in values.tolist() if start <= value < stop]
        assert found["text"].to_pylist() == [str(value) for value in found["value"].to_pylist()]
    assert ranges.between(folder, ["a.arrow"], "value", 0, ranges.END, ["value"]).equals(table.select(["value"]))


def test_a_run_that_is_missing_or_cut_short_is_named(tmp_path):
    folder = Folder(str(tmp_path))
    names, _ = runs_of(folder, 50, 1)
    (tmp_path / names[0]).write_bytes((tmp_path / names[0]).read_bytes()[:-40])
    with pytest.raises(BadShard, match=r"runs/00000\.arrow cannot be read"):
        ranges.between(folder, names, "high", 0, ranges.END)
    with pytest.raises(BadShard, match=r"runs/9\.arrow is missing"):
        ranges.between(folder, ["runs/9.arrow"], "high", 0, ranges.END)


@pytest.mark.slow
@pytest.mark.parametrize("end", [ranges.END, 1_000])
@pytest.mark.parametrize("count", [3, 4, 5, 40])
def test_after_the_shuffle_every_range_lies_in_few_files_and_no_row_is_lost(tmp_path, monkeypatch, count, end):
    monkeypatch.setattr(shuffle, "FAN", 4)
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", 300)
    folder, opened = Folder(str(tmp_path)), []
    names, wanted = runs_of(folder, 100, count, end)
    real = ranges.between
    monkeypatch.setattr(ranges, "between", lambda *args: opened.append(len(args[1])) or real(*args))
    gather = shuffle.Gather(folder, "state", "high", sorted_by_uid)
    held, outcome = shuffle.shuffled(gather, names, 100 * count, 0, "shuffle", "local(workers=1)", end)
    assert not outcome.failures
    assert max([0, *opened]) <= 4
    assert sum(opened) <= 3 * 4 * (count + shuffle.pieces_for(100 * count))
    for of in (1, 8, 32):
        for number in range(of):
            start, stop = ranges.bounds(number, of, end)
            if of >= len(held.files):
                assert len(held.over(start, stop)) <= 4
            found = sorted_by_uid(real(folder, held.over(start, stop), "high", start, stop))
            high = wanted["high"].to_numpy()
            assert found["high"].to_pylist() == [value for value in high.tolist() if start <= value < stop]
    every = held.over(0, ranges.END)
    assert sorted(every) == sorted({name for files in held.files for name in files})
    assert sorted_by_uid(real(folder, every, "high", 0, ranges.END)).equals(wanted)
    assert shuffle.shuffled(gather, names, 100 * count, 0, "shuffle", "local(workers=1)", end)[0] == held


def test_small_files_are_matched_together_and_large_or_unknown_ones_alone():
    sizes = [10, 10, matches.GROUP_BYTES, 10, 10, 0, 10, *[1] * 2500]
    groups = grouped(Part(number, "pool", f"{number}", size) for number, size in enumerate(sizes))
    assert [part.number for group in groups for part in group.parts] == list(range(len(sizes)))
    assert [len(group.parts) for group in groups] == [2, 1, 2, 1, 1000, 1000, 501]
    assert len({group.marker for group in groups}) == len(groups)


def test_uids_of_columns_are_those_of_their_rows():
    urls = pa.chunked_array([pa.array(["left out", "", "http://ü"]).slice(1), pa.array([], pa.string()), ["x" * 300]])
    texts = pa.chunked_array([["", "a\0b"], ["日本 \ud7ff"]])
    wanted = [uid_of(url, text) for url, text in zip(urls.to_pylist(), texts.to_pylist(), strict=True)]
    assert uids.hex_digits(*uids.halves(urls, texts)).to_pylist() == wanted
    assert uids.hex_digits(*uids.halves(urls.slice(3), texts.slice(3))).to_pylist() == []


def pool_of(path, rows: int, parts: int) -> str:
    """The same rows in so many files, those of a part in reverse."""
    path.mkdir()
    urls = [f"http://a.test/{i % (rows * 9 // 10)}.jpg" for i in range(rows)]
    texts = [" ".join(f"w{i % (rows * 9 // 10) * k % (7 + 13 * k)}" for k in range(1, 5)) for i in range(rows)]
    for number, which in enumerate(np.array_split(np.arange(rows), parts)):
        table = pa.table({"url": urls, "caption": texts}).take(which[::-1])
        pq.write_table(table, path / f"{number}.parquet")
    return str(path)


def harvested(tmp_path, pool: str, name: str, engine: str = "local(workers=1)", **options) -> dict[str, str]:
    """Hash of every table of a harvest."""
    queries = tmp_path / "queries.txt"
    queries.write_text("".join(f"w{i}\n" for i in range(60)))
    dataset = run(Dataset.create(str(tmp_path / name)), [pool], str(queries), download=False, engine=engine,
                  **{"cap": 50} | options)  # fmt: skip
    names = [name for pattern in TABLES for name in dataset.folder.names(pattern)]
    assert len(names) > 1
    return {name: hashlib.sha256(dataset.folder.read_bytes(name)).hexdigest() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"balance": "metaclip"}, {"cap": None, "tail_share": 0.3}])
def test_one_two_and_seven_parts_give_the_same_bytes_shuffled_or_not(tmp_path, monkeypatch, options):
    for name, value in (("BUCKET_ROWS", 400), ("FAN", 4)):
        monkeypatch.setattr(shuffle, name, value)
    whole = harvested(tmp_path, pool_of(tmp_path / "one", 1200, 1), "whole", **options)
    assert len(whole) == 4 + 1
    monkeypatch.setattr(matches, "GROUP_BYTES", 1)  # every file alone
    assert harvested(tmp_path, pool_of(tmp_path / "two", 1200, 2), "halves", **options) == whole
    monkeypatch.setattr(limits, "CUT_ROWS", 30)
    monkeypatch.setattr(limits, "STRETCHES", 3)
    assert harvested(tmp_path, pool_of(tmp_path / "seven", 1200, 7), "sevenths", **options) == whole


@pytest.mark.slow
def test_many_small_runs_are_shuffled_in_two_levels(tmp_path, monkeypatch):
    whole = harvested(tmp_path, pool_of(tmp_path / "one", 1200, 1), "whole")
    for module, name, value in ((shuffle, "FAN", 3), (matches, "GROUP_BYTES", 1), (matches, "RUN_ROWS", 1)):
        monkeypatch.setattr(module, name, value)
    levels, real = [], shuffle.run_all
    monkeypatch.setattr(shuffle, "run_all", lambda *args: levels.append(args[1]) or real(*args))
    assert harvested(tmp_path, pool_of(tmp_path / "ten", 1200, 10), "ten") == whole
    assert len(levels) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["local(workers=2)", pytest.param("ray(workers=2)", id="ray", marks=pytest.mark.ray)]
)
def test_workers_and_ray_give_the_same_bytes(tmp_path, engine):
    whole = harvested(tmp_path, pool_of(tmp_path / "one", 3000, 1), "whole")
    assert harvested(tmp_path, pool_of(tmp_path / "seven", 3000, 7), "sevenths", engine) == whole
