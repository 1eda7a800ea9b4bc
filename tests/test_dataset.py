"""The data model: manifest, shards, selections, and what a foreign folder looks like."""

import json

import pyarrow as pa
import pytest
from conftest import pair, write_shard

from curate import shard as shards
from curate.dataset import EMPTY, Dataset
from curate.errors import BadShard, CurateError
from curate.files import Folder


def test_rows_are_sorted_by_uid_and_leave_out_failures(dataset):
    rows = dataset.shards[0].rows()
    assert rows["uid"].to_pylist() == sorted(rows["uid"].to_pylist())
    table = dataset.folder.read_table("shards/00000.parquet")
    failed = table.set_column(table.column_names.index("status"), "status", pa.array(["failed"] + ["success"] * 19))
    dataset.folder.write_table("shards/00000.parquet", failed)
    assert len(dataset.shards[0].rows()) == 19


def test_uid_is_the_xxh3_of_url_and_text():
    assert shards.uid_of("http://a/b.jpg", "text") == "25f89c23c34c197118b5921979b50aaf"
    assert shards.uid_of("ab", "c") != shards.uid_of("a", "bc")


def test_a_foreign_folder_of_img2dataset_tars_is_a_dataset(tmp_path):
    rows = [pair(index) for index in range(4)]
    table = pa.Table.from_pylist(
        [{k: row[k] for k in ("key", "url", "caption")} | {"status": "success"} for row in rows]
    )
    files = [(f"{row['key']}.jpg", row["image"]) for row in rows]
    shards.write(Folder(str(tmp_path)), "00000", shards.tar_bytes(files), table, {})
    found = Dataset.open(str(tmp_path)).shards[0].rows()
    assert sorted(found["uid"].to_pylist()) == sorted(shards.uid_of(row["url"], row["caption"]) for row in rows)


def test_a_tar_without_parquet_gives_rows_from_its_json_and_txt(tmp_path):
    files = [("a.jpg", b"x"), ("a.txt", "über".encode()), ("a.json", json.dumps({"url": "http://u", "n": 3}).encode())]
    Folder(str(tmp_path)).write_bytes("shards/00000.tar", shards.tar_bytes(files))
    row = Dataset.open(str(tmp_path)).shards[0].rows().to_pylist()[0]
    assert row == {"uid": shards.uid_of("http://u", "über"), "key": "a", "url": "http://u", "caption": "über", "n": 3}


def test_equal_pairs_of_a_shard_count_once(tmp_path):
    twice = [pair(1), pair(1) | {"key": "000009"}, pair(2)]
    write_shard(Folder(str(tmp_path)), "00000", twice)
    assert sorted(Dataset.open(str(tmp_path)).shards[0].rows()["key"].to_pylist()) == ["000001", "000002"]


def test_a_folder_that_is_no_dataset_is_named(tmp_path):
    with pytest.raises(CurateError, match="is not a dataset"):
        Dataset.open(str(tmp_path))
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(CurateError, match=r"its tars belong in .*/shards/"):
        Dataset.open(str(tmp_path))


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"schema": 999}', "upgrade curate"),
        ("{}", "no schema number"),
        ('{"schema": 1}', "has no 'shards'"),
        (json.dumps(EMPTY | {"selection": "lost"}), "names a selection 'lost' that it does not describe"),
        ('{"schema": ', "not valid JSON"),
    ],
)
def test_a_manifest_this_version_cannot_read_is_refused(tmp_path, manifest, message):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(CurateError, match=message):
        Dataset.open(str(tmp_path))


def test_a_stage_run_again_starts_where_it_started_before(dataset):
    def select(data: Dataset, stage: str, name: str) -> Dataset:
        return data.after(stage, {}, "", **data.with_selection(name, stage, data.parent_for(stage)))

    both = select(select(dataset, "dedup", "d1"), "filter", "f1")
    assert both.parent_for("filter") == "d1"
    assert both.parent_for("dedup") is None
    assert both.parent_for("other") == "f1"
    assert select(both, "filter", "f2").parent_for("filter") == "d1"
    assert both.parent_for("filter", "all") is None
    assert both.parent_for("filter", "f1") == "f1"
    with pytest.raises(CurateError, match="no selection 'f9'; it has: d1, f1"):
        both.parent_for("filter", "f9")


def test_save_and_open_give_the_same_dataset(dataset):
    saved = dataset.after("measure", {"a": 1}, "done", {"rows": 2}, signals={"size": "size"}).save()
    again = Dataset.open(dataset.url)
    assert again.manifest == saved.manifest
    assert again.signals == {"size": "size"}
    assert again.history[-1]["summary"] == "done"


def test_what_two_commands_save_at_the_same_time_stays(dataset):
    first = dataset.after("measure", {}, "", signals={"size": "size", "blur": "blur"}).save()
    one, other = Dataset.open(dataset.url), Dataset.open(dataset.url)
    one.after("measure", {}, "one", signals={**one.signals, "blur": "blur(as=blur)", "exact": "exact"}).save()
    other = other.after("filter", {}, "other", **other.with_selection("f1", "filter", None)).save()
    first = first.after("measure", {}, "last", signals={"blur": "blur"}).save()
    again = Dataset.open(dataset.url)
    assert again.signals == {"blur": "blur(as=blur)", "exact": "exact"}
    assert again.selection == "f1"
    assert list(again.manifest["selections"]) == ["f1"]
    assert [step["summary"] for step in again.history[-4:]] == ["", "one", "other", "last"]
    assert first.manifest == again.manifest
    assert other.after("filter", {}, "", selection=None).save().selection is None
    assert Dataset.open(dataset.url).history[-2]["summary"] == "last"


def test_a_damaged_parquet_fails_its_shard_by_name(dataset):
    dataset.folder.write_bytes("shards/00001.parquet", b"PAR1")
    with pytest.raises(BadShard, match=r"shards/00001.parquet"):
        dataset.shards[1].rows()


def test_an_unknown_selection_names_those_there_are(dataset):
    with pytest.raises(CurateError, match="no selection 'x'; it has: none yet"):
        dataset.kept(dataset.shards[0], "x")
