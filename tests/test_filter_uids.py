"""The uids of a selection are copied compressed from another file; what comes out is the selection all the same."""

import io
import subprocess
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import pair

from curate import filter as filtering
from curate.dataset import Dataset
from curate.filter import keys, limits, subset
from curate.filter.keys import of_values
from curate.filter.pages import Coded, coded
from curate.filter.uids import beside, stored
from curate.measure import measure
from curate.shard import uid_of

HERE = "local(workers=0)"
UIDS = [uid_of(str(number), "") for number in range(1000)]
PLACE = np.arange(1000)
OTHERS = {
    "weight": coded(PLACE.astype(np.int32)),
    "reason": Coded(["b", "a"], np.where(PLACE % 2, 1, 2).astype(np.uint8), 2),
    "failed": Coded(np.array([0, 1, 2, 3, 2**63], np.uint64), (PLACE % 5).astype(np.uint8)),
    "kept": coded((PLACE % 2).astype(np.int32)),
}


def opened(table: pa.Table, **options):
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    source = pa.BufferReader(buffer.getvalue())
    return stored(pq.ParquetFile(source), source)


@pytest.mark.parametrize("compression", ["zstd", "none", "snappy"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("per_group", [1000, 300])
def test_copied_uids_stand_beside_other_columns_in_a_file_that_every_reader_reads(
    tmp_path, compression, dictionary, per_group
):
    table = pa.table({"x": range(1000), "uid": UIDS, "y": ["a"] * 1000})
    uids = opened(table, compression=compression, use_dictionary=dictionary, row_group_size=per_group,
                  write_page_index=True)  # fmt: skip
    path = tmp_path / "selection.parquet"
    path.write_bytes(b"".join(beside(uids, OTHERS, {b"curate": b"{}"})))
    found = pq.read_table(path)
    assert found.to_pydict() == {"uid": UIDS, **{name: column.array.to_pylist() for name, column in OTHERS.items()}}
    assert found.schema.types[1:] == [pa.int32(), pa.string(), pa.uint64(), pa.int32()]
    assert pq.read_schema(path).metadata == {b"curate": b"{}"}
    found = duckdb.sql(f"SELECT uid, weight, reason FROM '{path}' WHERE uid > 'f' ORDER BY weight").fetchall()
    rows = zip(UIDS, range(1000), [None, "a"] * 500, strict=True)
    assert found == [row for row in rows if row[0] > "f"]
    sums = duckdb.sql(f"SELECT sum(failed), sum(kept), count(reason) FROM '{path}' WHERE failed <> 3").fetchall()
    assert sums == [(200 * (0 + 1 + 2 + 2**63), 400, 400)]
    with open(path, "rb") as file:
        source = pa.PythonFile(file, "r")
        assert stored(pq.ParquetFile(source), source).same(uids)


def test_other_uids_are_other_bytes():
    assert opened(pa.table({"uid": UIDS})).same(opened(pa.table({"uid": UIDS, "x": range(1000)})))
    assert not opened(pa.table({"uid": UIDS})).same(opened(pa.table({"uid": UIDS[::-1]})))
    assert not opened(pa.table({"uid": UIDS})).same(opened(pa.table({"uid": UIDS[:999]})))
    assert opened(pa.table({"x": [1]})) is None


@pytest.mark.slow
def test_selecting_by_what_is_measured_loads_nothing_that_it_does_not_need(dataset):
    measured = measure(dataset, ["caption"], HERE)
    unneeded = {"cv2", "fsspec", "numpy.ma", "pandas", "PIL", "pyarrow.compute", "pyarrow.dataset"}
    code = (f"import sys; from curate.memory import without_pandas; without_pandas(); from curate import filter; "
            f"from curate.dataset import Dataset; "
            f"filter.run(Dataset.open({measured.url!r}), where=('caption_words > 0',), top='50%', "
            f"by='caption_characters', engine={HERE!r}); print(sorted({unneeded} & set(sys.modules)))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("wrong", ["A" * 32, "g" * 32, "a" * 31 + " ", "a" * 31, "é" * 16, None])
def test_uids_that_are_not_32_small_hex_digits_are_no_numbers(wrong):
    assert keys.hex_halves(pa.array([UIDS[0], wrong], pa.string())) is None
    high, low = keys.hex_halves(pa.array([UIDS[0], UIDS[1]]), np.array([1]))
    assert f"{high[0]:016x}{low[0]:016x}" == UIDS[1]


def test_ids_of_all_parts_are_sorted_by_both_halves():
    parts = [np.array(pairs, subset.PAIR) for pairs in ([(1, 5), (7, 9)], [(1, 3), (1, 5), (7, 8)], [])]
    assert subset.ordered(parts).tolist() == [(1, 3), (1, 5), (1, 5), (7, 8), (7, 9)]


def chosen(dataset: Dataset) -> list[pa.Table]:
    return [dataset.folder.read_table(f"selections/{dataset.selection}/{shard.name}.parquet")
            for shard in dataset.shards]  # fmt: skip


def test_a_selection_is_the_same_whether_its_uids_were_copied_or_written(dataset):
    measured = measure(dataset, ["caption"], HERE)
    copied = filtering.run(measured, where=("caption_characters % 2 = 0", "uid < 'c'"), name="copied", engine=HERE)
    written = filtering.run(measured, where=("length(caption) % 2 = 0", "uid < 'c'"), name="written", engine=HERE)
    for one, two in zip(chosen(copied), chosen(written), strict=True):
        assert one.schema.remove_metadata() == two.schema.remove_metadata()
        assert one.drop_columns(["reason"]).equals(two.drop_columns(["reason"]))
        assert set(one["reason"].to_pylist()) == {None, "caption_characters % 2 = 0", "uid < 'c'"}


@pytest.mark.parametrize("drop", [0, 1, 19])
def test_a_filter_after_another_selection_starts_from_what_that_kept(dataset, drop):
    """Also where the parent kept everything (its uids are the signal's), or lists rows in a file of its own."""
    measured, weights = measure(dataset, ["caption"], HERE), {}
    for shard in measured.shards:
        uids = shard.rows()["uid"].to_pylist()
        weight = [0] * drop + [2] * (len(uids) - drop)
        weights |= dict(zip(uids, weight, strict=True))
        table = pa.table({"uid": uids, "weight": pa.array(weight, pa.int32()), "reason": [None] * len(uids)})
        measured.folder.write_table(f"selections/parent/{shard.name}.parquet", table)
    parent = measured.after("dedup", {}, "", **measured.with_selection("parent", "dedup", None)).save()
    filtered = filtering.run(parent, where=("caption_characters >= 0",), engine=HERE)
    rows = [row for table in chosen(filtered) for row in table.to_pylist()]
    assert {row["uid"]: row["weight"] for row in rows} == {uid: weight for uid, weight in weights.items() if weight}


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 1, 7, limits.FEW])
@pytest.mark.parametrize("exact", [False, True])
def test_the_cut_is_the_same_however_many_ranks_the_driver_may_read(make_dataset, tmp_path, monkeypatch, few, exact):
    monkeypatch.setattr(limits, "FEW", few)
    pairs = [{**pair(index), "score": float(np.float32(index % 7 / 7))} for index in range(60)]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"steps: [{{best: {{top: 40%, by: score, exact_count: {str(exact).lower()}}}}}]")
    filtered = filtering.run(make_dataset(pairs), str(recipe), engine=HERE)
    counts = filtered.history[-1]["counts"]
    scores = sorted((row["score"] for row in pairs), reverse=True)
    assert counts["funnel"][0]["threshold"] == scores[23]
    assert counts["kept"] == (24 if exact else sum(score >= scores[23] for score in scores))


def test_keys_order_as_their_values():
    values = np.array([-np.inf, -1e300, -2.5, -5e-324, -0.0, 0.0, 5e-324, 1.0, np.inf])
    found = of_values(values)
    assert (np.sort(found) == found).all()
    assert found[4] == found[5]
