"""An export is a plain img2dataset folder: payloads to the byte, planned numbering, readable by everyone's loader."""

import io
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import draw, encoded, pair, write_shard

from curate import filter as filtering
from curate import shard as shards
from curate.cli import main
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.filter import export
from curate.measure import measure
from curate.shard import uid_of

HERE = "local(workers=0)"


def exported(datasets: list[Dataset], url: str, **options) -> Dataset:
    return export.run(datasets, Dataset.create(url), **{"engine": HERE, **options})


def contents(dataset: Dataset) -> list[tuple[str, bytes]]:
    """(name, payload) of every member of every tar, read with the standard library."""
    found = []
    for shard in dataset.shards:
        with tarfile.open(fileobj=io.BytesIO(dataset.folder.read_bytes(shard.tar))) as archive:
            found += [(member.name, archive.extractfile(member).read()) for member in archive]
    return found


def files(dataset: Dataset) -> dict[str, bytes]:
    names = [name for name in dataset.folder.names("**") if name != "manifest.json"]
    return {name: dataset.folder.read_bytes(name) for name in names}


def weighted(dataset: Dataset, weights: dict[str, int], name: str = "w") -> Dataset:
    """The dataset with a selection that gives each uid a weight, 1 where none is named."""
    for shard in dataset.shards:
        uids = shard.rows()["uid"].to_pylist()
        table = pa.table({"uid": uids, "weight": pa.array([weights.get(uid, 1) for uid in uids], pa.int32()),
                          "reason": pa.nulls(len(uids), pa.string())})  # fmt: skip
        dataset.folder.write_table(f"selections/{name}/{shard.name}.parquet", table)
    return dataset.after("mix", {}, "", **dataset.with_selection(name, "mix", None)).save()


@pytest.fixture
def even(dataset) -> Dataset:
    """The 30 pairs of `dataset` with an even key, selected."""
    return filtering.run(dataset, where=("key::int % 2 = 0",), name="even", engine=HERE)


def test_payloads_are_copied_to_the_byte_under_keys_that_count_on(even, tmp_path):
    out = exported([even], str(tmp_path / "out"), shard_size=12)
    wanted = [row["key"] for shard in even.shards for row in shard.rows().to_pylist() if int(row["key"]) % 2 == 0]
    source = dict(contents(even))
    found = contents(out)
    keys = [f"{shard:05d}{position:04d}" for shard, size in ((0, 12), (1, 12), (2, 6)) for position in range(size)]
    assert [name for name, _ in found] == [f"{key}.{kind}" for key in keys for kind in ("jpg", "txt")]
    assert [payload for _, payload in found] == [source[f"{key}.{kind}"] for key in wanted for kind in ("jpg", "txt")]
    stats = out.folder.names("shards/*_stats.json")
    assert [out.folder.read_json(name)["successes"] for name in stats] == [12, 12, 6]
    assert out.folder.read_json("shards/sizes.json") == {"00000.tar": 12, "00001.tar": 12, "00002.tar": 6}
    assert out.history[-1]["summary"] == f"export: 30 pairs in 3 shards at {out.url}"


def test_the_parquet_names_the_members_and_carries_the_columns_of_source_and_signals(even, tmp_path):
    measured = filtering.run(even, where=("key::int % 2 = 0",), signals=("size",), engine=HERE)
    out = exported([measured], str(tmp_path / "out"), shard_size=12)
    source = {row["uid"]: row for shard in even.shards for row in shard.rows().to_pylist()}
    payloads = dict(contents(out))
    for shard in out.shards:
        for row in shard.rows().to_pylist():
            assert payloads[f"{row['key']}.txt"].decode() == row["caption"] == source[row["uid"]]["caption"]
            assert (row["url"], row["size_width"], row["status"]) == (source[row["uid"]]["url"], 64, "success")
    assert len(pq.read_table(f"{out.url}/shards/00000.parquet")) == 12
    bare = exported([measured], str(tmp_path / "bare"), signals=False)
    assert "size_width" not in bare.shards[0].rows().column_names


def test_members_of_any_kind_and_long_names_come_along(tmp_path):
    folder, long = Folder(str(tmp_path / "in")), "k" * 180
    image = encoded(draw("red", "circle"), "PNG")
    members = [
        (f"{long}.png", image),
        (f"{long}.txt", b"red"),
        (f"{long}.json", b'{"a": 1}'),
        (f"{long}.seg.npy", b"x"),
    ]
    table = pa.table({"key": [long], "url": ["u"], "caption": ["red"], "status": ["success"]})
    shards.write(folder, "00000", shards.tar_bytes(members), table, {})
    out = exported([Dataset.open(folder.url)], str(tmp_path / "out"))
    assert contents(out) == [(f"000000000.{name.split('.', 1)[1]}", payload) for name, payload in members]


def test_a_tar_without_a_parquet_is_exported_with_one(tmp_path, dataset):
    for name in dataset.folder.names("shards/*.parquet"):
        dataset.folder.remove(name)
    out = exported([dataset], str(tmp_path / "out"))
    assert sorted(out.shards[0].rows()["caption"].to_pylist()) == sorted(pair(index)["caption"] for index in range(60))


def test_a_pair_of_weight_three_is_there_three_times_with_keys_and_uids_of_its_own(dataset, tmp_path):
    first = dataset.shards[0].rows().to_pylist()[0]
    out = exported([weighted(dataset, {first["uid"]: 3})], str(tmp_path / "out"), shard_size=2)
    rows = [row for shard in out.shards for row in shard.rows().to_pylist()]
    copies = [row["uid"] for row in rows if row["caption"] == first["caption"]]
    assert sorted(copies) == sorted([first["uid"], uid_of(first["uid"], "1"), uid_of(first["uid"], "2")])
    assert len({row["uid"] for row in rows}) == len({row["key"] for row in rows}) == len(rows) == 62


def test_several_datasets_follow_one_another_with_the_columns_of_both(dataset, make_dataset, tmp_path):
    more = make_dataset([pair(index) | {"score": 0.5} for index in range(60, 90)], url=str(tmp_path / "more"))
    out = exported([dataset, more], str(tmp_path / "out"), shard_size=50)
    tables = [shard.rows() for shard in out.shards]
    assert [len(table) for table in tables] == [50, 40]
    assert tables[0].schema == tables[1].schema
    scores = {row["url"]: row["score"] for table in tables for row in table.to_pylist()}
    assert scores == {pair(index)["url"]: 0.5 if index >= 60 else None for index in range(90)}


def test_columns_that_do_not_fit_together_are_named(dataset, make_dataset, tmp_path):
    words = make_dataset([pair(index) | {"score": "high"} for index in range(60, 80)], url=str(tmp_path / "words"))
    numbers = make_dataset([pair(index) | {"score": 0.5} for index in range(80, 90)], url=str(tmp_path / "numbers"))
    with pytest.raises(CurateError, match=r"score.*export them one by one"):
        exported([words, numbers], str(tmp_path / "out"))


@pytest.mark.slow
def test_plain_webdataset_reads_an_export(even, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    out = exported([even], str(tmp_path / "out"), shard_size=12)
    urls = [f"{out.url}/{shard.tar}" for shard in out.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "txt"))
    assert sorted(text for _, text in samples) == sorted(pair(index)["caption"] for index in range(0, 60, 2))
    assert {image.size for image, _ in samples} == {(64, 64)}


@pytest.mark.slow
def test_the_loader_of_open_clip_reads_an_export(even, tmp_path):
    data = pytest.importorskip("open_clip_train.data")
    params = pytest.importorskip("open_clip_train.params")
    open_clip = pytest.importorskip("open_clip")
    out = exported([even], str(tmp_path / "out"), shard_size=12)
    tars = f"{out.url}/shards/{{00000..00002}}.tar"
    assert data.get_dataset_size(tars) == (30, 3)  # from sizes.json
    args = params.parse_args(["--train-data", tars, "--batch-size", "10", "--workers", "1", "--dataset-type",
                              "webdataset"])  # fmt: skip
    args.world_size, args.rank, args.distributed = 1, 0, False
    transform = open_clip.image_transform(32, is_train=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    found = data.get_wds_dataset(args, transform, is_train=True, tokenizer=tokenizer)
    wanted = {tuple(row.tolist()) for row in tokenizer([pair(index)["caption"] for index in range(0, 60, 2)])}
    read = []
    for images, tokens in found.dataloader:
        assert (tuple(images.shape), tuple(tokens.shape)) == ((10, 3, 32, 32), (10, 16))
        read += [tuple(row.tolist()) for row in tokens]
    assert read
    assert set(read) <= wanted


def test_an_export_is_the_same_wherever_and_in_what_order_the_source_was_written(tmp_path):
    for name, order in (("a", 1), ("b", -1)):
        for start in (0, 20):
            write_shard(Folder(str(tmp_path / name)), f"{start // 20:05d}",
                        [pair(index) for index in range(start, start + 20)][::order])  # fmt: skip
    one, two = (exported([Dataset.open(str(tmp_path / name))], str(tmp_path / f"{name}-out")) for name in "ab")
    assert files(one) == files(two)


@pytest.mark.slow
def test_one_and_two_workers_export_the_same_bytes(even, tmp_path):
    one = exported([even], str(tmp_path / "one"), shard_size=7)
    two = exported([even], str(tmp_path / "two"), shard_size=7, engine="local(workers=2)")
    assert files(one) == files(two)


def test_an_export_cut_short_goes_on_and_ends_with_the_same_bytes(even, tmp_path):
    whole = exported([even], str(tmp_path / "out"), shard_size=7)
    before = files(whole)
    for name in ("shards/00001_stats.json", "shards/00002.tar", "shards/00003.parquet", "manifest.json"):
        whole.folder.remove(name)
    again = exported([even], str(tmp_path / "out"), shard_size=7)
    assert files(again) == before
    assert again.history[-1]["counts"]["skipped"] == 5 - 3


def test_a_place_that_holds_something_else_is_refused_and_left_as_it_was(even, tmp_path):
    out = exported([even], str(tmp_path / "out"), shard_size=7)
    before = files(out)
    with pytest.raises(CurateError, match="holds another export; choose another --out"):
        exported([even], out.url, shard_size=8)
    assert files(out) == before
    with pytest.raises(CurateError, match="is no export; choose another --out"):
        exported([even], even.url)
    (tmp_path / "photos/cats").mkdir(parents=True)
    (tmp_path / "photos/cats/1.jpg").write_bytes(b"a cat")
    with pytest.raises(CurateError, match=r"holds other files, such as cats/1\.jpg; choose another --out"):
        exported([even], str(tmp_path / "photos"))
    assert os.listdir(tmp_path / "photos") == ["cats"]


def test_nothing_selected_or_an_unknown_selection_is_one_line(even, tmp_path):
    with pytest.raises(CurateError, match="has no selection 'odd'; it has: even"):
        exported([even], str(tmp_path / "out"), selection="odd")
    nothing = weighted(even, dict.fromkeys([uid for s in even.shards for uid in s.rows()["uid"].to_pylist()], 0))
    with pytest.raises(CurateError, match=r"nothing to export to .*: the selection keeps nothing"):
        exported([nothing], str(tmp_path / "out"))
    with pytest.raises(CurateError, match="at least one pair"):
        exported([even], str(tmp_path / "out"), shard_size=0)
    assert not (tmp_path / "out").exists()


def test_a_truncated_tar_costs_the_shards_it_feeds_and_is_made_good_later(even, tmp_path):
    path = Path(even.url) / "shards/00002.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    out = exported([even], str(tmp_path / "out"), shard_size=10)
    assert list(out.failures) == ["shards/00002"]
    assert "shards/00002.tar: truncated at byte" in out.failures["shards/00002"]
    assert [shard.name for shard in out.shards] == ["00000", "00001"]
    path.write_bytes(whole)
    again = exported([even], out.url, shard_size=10)
    assert not again.failures
    assert len(contents(again)) == 60


def test_an_image_that_the_parquet_lists_and_the_tar_lacks_is_named(even, tmp_path):
    key = even.shards[0].rows().to_pylist()[0]["key"]
    kept = [(name, payload) for name, payload in contents(even)[:40] if not name.startswith(key)]
    even.folder.write_bytes("shards/00000.tar", shards.tar_bytes(kept))
    out = exported([weighted(even, {})], str(tmp_path / "out"), shard_size=20)
    assert f"its tar lacks {key}" in out.failures["shards/00000"]


def test_a_selection_of_other_data_is_not_exported(even, make_dataset, tmp_path):
    other = make_dataset([pair(index) for index in range(100, 160)], url=str(tmp_path / "other"))
    shutil.copytree(f"{even.url}/selections", f"{other.url}/selections")
    borrowed = other.after("filter", {}, "", **other.with_selection("even", "filter", None)).save()
    with pytest.raises(CurateError, match=r"nothing to export .* that this shard does not hold"):
        exported([borrowed], str(tmp_path / "out"))


def test_filter_out_leaves_the_selection_and_the_export_with_the_whole_history(dataset, tmp_path):
    out = filtering.run(dataset, where=("caption like '%red%'",), out=str(tmp_path / "out"), engine=HERE)
    assert [step["stage"] for step in out.history] == ["filter", "export"]
    assert Dataset.open(dataset.url).selection
    assert len(contents(out)) == 2 * 10


def test_an_export_can_be_filtered_and_exported_again_from_memory(even, tmp_path):
    first = exported([even], "memory://export/first", signals=False)
    red = filtering.run(first, where=("caption like '%red%'",), out="memory://export/second", engine=HERE)
    on_disk = exported([even], str(tmp_path / "first"), signals=False)
    same = filtering.run(on_disk, where=("caption like '%red%'",), out=str(tmp_path / "second"), engine=HERE)
    assert files(red) == files(same)
    assert len(contents(red)) == 2 * sum("red" in pair(index)["caption"] for index in range(0, 60, 2))


@pytest.mark.slow
def test_filter_and_export_killed_in_the_middle_and_run_again_give_the_same_bytes(start, tmp_path):
    found = []
    for name, workers in (("left-alone", 0), ("killed", 2)):
        folder = Folder(str(tmp_path / name))
        for shard in range(12):
            write_shard(folder, f"{shard:05d}", [pair(index) for index in range(shard * 30, shard * 30 + 30)])
        command = ["filter", folder.url, "--top", "60%", "--by", "length(caption)", "--where", "key::int % 3 > 0",
                   "--out", f"{folder.url}-out", "-q", "--engine", f"local(workers={workers})"]  # fmt: skip
        out = Folder(f"{folder.url}-out")
        if name == "killed":
            start(*command, killed_once=folder.path("selections/*/00001.parquet")).killed()
            assert not folder.exists("manifest.json") or not out.exists("manifest.json")
            start(*command, killed_once=out.path("shards/*")).killed()
        assert CliRunner().invoke(main, command).exit_code == 0
        both = [path for root in (folder.url, out.url) for path in Path(root).rglob("*") if path.is_file()]
        found.append({str(path.relative_to(tmp_path)).replace("killed", "left-alone"): path.read_bytes()
                      for path in both if path.name != "manifest.json"})  # fmt: skip
    assert found[0] == found[1]


def test_the_same_export_with_signals_is_left_alone(dataset, tmp_path):
    measured = measure(dataset, ["size", "caption"], HERE)
    first = exported([measured], str(tmp_path / "out"))
    again = exported([Dataset.open(measured.url)], first.url)
    assert again.history[-1]["counts"]["skipped"] == len(again.shards) > 0


def test_datasets_are_mixed_by_weights_and_a_fraction_is_drawn_by_uid(dataset, make_dataset, tmp_path):
    more = make_dataset([pair(index) for index in range(60, 120)], url=str(tmp_path / "more"))
    out = exported([dataset, more], str(tmp_path / "out"), weights=(2, 0.5), shard_size=50)
    counts = Counter(int(row["url"].rsplit("/")[-1][:-4]) for shard in out.shards for row in shard.rows().to_pylist())
    assert [counts[index] for index in range(60)] == [2] * 60
    drawn = {index for index in counts if index >= 60}
    assert {counts[index] for index in drawn} == {1}
    assert 15 < len(drawn) < 45
    seeded = exported([dataset, more], str(tmp_path / "seed"), weights=(2, 0.5), seed=1, shard_size=50)
    assert files(seeded) != files(out)
    with pytest.raises(CurateError, match="1 --weight, 2 DATASET; give one for each"):
        exported([dataset, more], str(tmp_path / "wrong"), weights=(2,))
    with pytest.raises(CurateError, match="a weight is more than 0"):
        exported([dataset, more], str(tmp_path / "wrong"), weights=(2, -1))
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_that_tarfile_wrote_with_long_names_and_owners_are_copied_under_plain_headers(tmp_path, form):
    folder, key = Folder(str(tmp_path / "in")), "deep/" + "é" * 120
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for extension, payload in (("jpg", encoded(draw("red", "circle"))), ("txt", b"red")):
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size, info.mtime, info.uname, info.uid = len(payload), 1.5, "someone", 3_000_000
            archive.addfile(info, io.BytesIO(payload))
    table = pa.table({"key": [key], "url": ["u"], "caption": ["red"], "status": ["success"]})
    shards.write(folder, "00000", buffer.getvalue(), table, {})
    out = exported([Dataset.open(folder.url)], str(tmp_path / "out"))
    assert [name for name, _ in contents(out)] == ["000000000.jpg", "000000000.txt"]
    assert contents(out)[0][1] == encoded(draw("red", "circle"))
