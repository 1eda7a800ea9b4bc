"""`harvest --all`: no query list, every pair of the pools, or a sample of them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import pair
from test_harvest import HERE, candidates_of, rows_of, write_pool

from curate.cli import main
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.harvest import run
from curate.shard import uid_of


def taken(tmp_path, pools, name="dataset", **options) -> Dataset:
    return run(Dataset.create(str(tmp_path / name)), pools, None, **{"download": False, "engine": HERE} | options)


def uids(dataset: Dataset) -> set[str]:
    return {row["uid"] for row in candidates_of(dataset) if row["selected_by"]}


def test_every_distinct_pair_with_a_web_url_is_taken_whatever_its_text(tmp_path):
    rows = [*rows_of(600), ("http://a.test/blank.jpg", ""), ("http://a.test/null.jpg", None)]
    dataset = taken(tmp_path, [write_pool(tmp_path / "pool.parquet", rows)])
    wanted = {uid_of(url, text or "") for url, text in rows if url.startswith("http")}
    assert uids(dataset) == wanted
    counts = dataset.history[-1]["counts"]
    assert (counts["pool"], counts["pairs"], counts["selected"]) == (604, len(wanted), len(wanted))
    assert not [name for name in counts if "quer" in name]
    count = f"{len(wanted):,}"
    assert dataset.history[-1]["summary"] == (
        f"harvest: 604 pairs read, {count} distinct ones, {count} drawn (1 without an image or a web url)"
    )


@pytest.mark.slow
def test_a_cap_draws_a_sample_that_no_cut_of_the_pool_changes(tmp_path):
    rows = rows_of(600)
    whole = [write_pool(tmp_path / "whole.parquet", rows)]
    parts = [write_pool(tmp_path / f"parts/{at}.parquet", rows[at::3]) for at in range(3)]
    few, many = taken(tmp_path, whole, "few", cap=50), taken(tmp_path, whole, "many", cap=100)
    cut, other = taken(tmp_path, parts, "cut", cap=50), taken(tmp_path, whole, "other", cap=50, seed=1)
    assert len(uids(few)) == 50 < len(uids(many)) == 100
    assert uids(few) < uids(many)
    assert uids(few) == uids(cut) != uids(other)


def test_a_folder_of_images_becomes_a_dataset(tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(30):
        (tmp_path / f"photos/{index}.jpg").write_bytes(pair(index)["image"])
    command = [
        "harvest",
        f"folder(path={tmp_path}/photos, caption=folder)",
        "--all",
        "--out",
        str(tmp_path / "out"),
        "--engine",
        HERE,
    ]
    result = CliRunner().invoke(main, [*command, "--shard-size", "10"])
    assert result.exit_code == 0, result.output
    assert "30 images" in result.output
    shards = Dataset.open(str(tmp_path / "out")).shards
    found = []
    for shard in shards:
        with shard.images() as images:
            found += list(images.values())
    assert sorted(found) == sorted(pair(index)["image"] for index in range(30))


def test_dead_images_are_made_up_for_within_the_cap(tmp_path):
    images = [pair(index)["image"] if index % 2 else b"no image" for index in range(60)]
    table = pa.table({"image": images, "text": [f"number {index}" for index in range(60)]})
    pq.write_table(table, tmp_path / "rows.parquet")
    dataset = taken(tmp_path, [str(tmp_path / "rows.parquet")], download=True, cap=20, top_up=5, min_success=0.0)
    kept = [dataset.kept(shard, dataset.selection) for shard in dataset.shards]
    assert sum(map(len, kept)) == 20
    assert "20 count under the cap" in dataset.history[-1]["summary"]


def test_a_list_and_all_pairs_exclude_each_other_and_one_of_them_is_needed(tmp_path):
    pool = write_pool(tmp_path / "pool.parquet", rows_of(5))
    (tmp_path / "queries.txt").write_text("red\n")
    for given in ([], ["--all", "--queries", str(tmp_path / "queries.txt")]):
        result = CliRunner().invoke(main, ["harvest", pool, *given, "--out", str(tmp_path / "out")])
        assert result.exit_code == 1
        assert "--queries" in result.output
        assert "--all" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", [{"match": "metaclip"}, {"casefold": True}, {"tail_share": 0.1}, {"balance": "metaclip"}]
)
def test_options_about_queries_are_refused_where_there_are_none(tmp_path, option):
    pool = write_pool(tmp_path / "pool.parquet", rows_of(5))
    with pytest.raises(CurateError, match=f"--{next(iter(option)).replace('_', '-')} with --all"):
        taken(tmp_path, [pool], **option)


def test_a_dataset_of_matched_pairs_is_not_gone_on_with(tmp_path):
    pool = write_pool(tmp_path / "pool.parquet", rows_of(50))
    taken(tmp_path, [pool])
    (tmp_path / "queries.txt").write_text("red\n")
    with pytest.raises(CurateError, match="other options"):
        run(Dataset.create(str(tmp_path / "dataset")), [pool], str(tmp_path / "queries.txt"), download=False)
