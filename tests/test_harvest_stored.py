"""Harvest from pools that hold the images: nothing is fetched, sound small JPEG stay as they are, byte for byte."""

import hashlib
import io
import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import pair
from harvest_web import serving
from PIL import Image
from test_harvest import ALL, contents
from test_storage import s3  # noqa: F401  a fixture

from curate.dataset import Dataset
from curate.errors import CurateError
from curate.harvest import run
from curate.shard import tar_bytes, uid_of

PAIRS = [pair(index) for index in range(60)]
FAILED = "missing or damaged in the pool"


@pytest.fixture
def pools(tmp_path) -> dict[str, str]:
    """The same 60 pairs as tars of 25, as a folder and as parquet."""
    for start in range(0, 60, 25):
        files = [(f"{row['key']}.{kind}", content) for row in PAIRS[start : start + 25]
                 for kind, content in (("jpg", row["image"]), ("txt", row["caption"].encode()))]  # fmt: skip
        (tmp_path / "tars").mkdir(exist_ok=True)
        (tmp_path / f"tars/{start:05d}.tar").write_bytes(tar_bytes(files))
    for row in PAIRS:
        path = tmp_path / "photos" / row["key"][-1] / f"{row['key']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"])
        path.with_suffix(".txt").write_text(row["caption"])
    table = pa.table({"image": [{"bytes": row["image"], "path": None} for row in PAIRS],
                      "text": [row["caption"] for row in PAIRS]})  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=20)
    (tmp_path / "queries.txt").write_text("red\ncircle\nsquare\nnumber\n")
    return {"tars": str(tmp_path / "tars"), "folder": str(tmp_path / "photos"), "parquet": f"{tmp_path}/rows.parquet"}


@pytest.fixture
def harvested(tmp_path):
    """harvested(pools, name, **options) -> the dataset."""

    def harvest(pools, name="dataset", **options) -> Dataset:
        url = name if "://" in name else str(tmp_path / name)
        defaults = {"engine": "local(workers=1)", "shard_size": 16, "downloader": "native", "cap": 1000}
        return run(Dataset.create(url), pools, str(tmp_path / "queries.txt"), **defaults | options)

    return harvest


def stored(dataset: Dataset) -> dict[str, tuple[dict, bytes]]:
    """Row and image by caption."""
    found = {}
    for shard in dataset.shards:
        with shard.images() as images:
            found |= {row["caption"]: (row, images[row["key"]]) for row in shard.rows().to_pylist()}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tars", "folder", "parquet"])
def test_small_jpegs_of_a_pool_stay_byte_for_byte(kind, pools, harvested):
    dataset = harvested([pools[kind]])
    found = stored(dataset)
    assert dataset.history[-1]["counts"]["downloaded"] == len(found) == 60
    for row in PAIRS:
        about, image = found[row["caption"]]
        assert image == row["image"]
        assert about["sha256"] == hashlib.sha256(row["image"]).hexdigest()
        assert about["uid"] == uid_of(about["url"], row["caption"])
    url = found[PAIRS[41]["caption"]][0]["url"]
    assert url == {"tars": "tars/00025.tar/000041", "folder": "photos/1/000041.jpg", "parquet": "rows.parquet/41"}[kind]
    assert len(dataset.shards) == 4
    # a shard is one stretch of the pool
    first = dataset.shards[0].rows()["caption"].to_pylist()
    if kind != "folder":
        assert sorted(int(text.rsplit(" ", 1)[1]) for text in first) == list(range(len(first)))


def test_a_harvested_dataset_can_be_harvested_again(pools, harvested, tmp_path):
    once = harvested([pools["tars"]], "once")
    (tmp_path / "queries.txt").write_text("red\n")
    again = stored(harvested([once.url], "again"))
    first = stored(once)
    assert set(again) == {text for text in first if "red" in text}
    assert all(again[text][0]["uid"] == first[text][0]["uid"] and again[text][1] == first[text][1] for text in again)


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_what_does_not_fit_is_made_to_or_named(tmp_path, harvested):
    grey = np.tile(np.arange(96, dtype=np.uint8) * 2, (64, 1))
    turned = Image.Exif()
    turned[0x0112] = 6
    fitting = encoded(grey, "JPEG")
    files = {"fits": fitting, "large": encoded(np.kron(grey, np.ones((8, 8), np.uint8)), "JPEG"),
             "png": encoded(grey, "PNG"), "glass": encoded(np.zeros((64, 64, 4), np.uint8), "PNG"),
             "turned": encoded(grey, "JPEG", exif=turned), "cut": fitting[:-100], "html": b"<html></html>",
             "tiny": encoded(grey[:8, :8], "JPEG"), "empty": b""}  # fmt: skip
    (tmp_path / "odd").mkdir()
    for name, content in files.items():
        (tmp_path / "odd" / f"{name}.jpg").write_bytes(content)
        (tmp_path / "odd" / f"{name}.txt").write_text(f"red {name}")
    (tmp_path / "queries.txt").write_text("red\n")
    dataset = harvested([str(tmp_path / "odd")])
    found = {text.split()[1]: (row, image) for text, (row, image) in stored(dataset).items()}
    assert sorted(found) == ["fits", "glass", "large", "png", "turned"]
    assert found["fits"][1] == fitting
    sizes = {name: Image.open(io.BytesIO(image)).size for name, (_, image) in found.items()}
    assert sizes == {"fits": (96, 64), "glass": (64, 64), "large": (384, 256), "png": (96, 64), "turned": (64, 96)}
    assert all(image[:2] == b"\xff\xd8" for _, image in found.values())
    assert np.asarray(Image.open(io.BytesIO(found["glass"][1])).convert("L")).mean() > 250
    assert found["large"][0]["sha256"] == hashlib.sha256(files["large"]).hexdigest()
    failed = dataset.history[-1]["counts"]["failed"]
    assert failed == {"not an image": 2, "image too small": 1, "not decodable": 1}
    assert dataset.folder.read_table("shards/00000.parquet").num_rows == 9


def test_two_texts_of_one_image_are_two_pairs(tmp_path, harvested):
    texts = [["a red dog", "a red cat"], ["a blue bird"]]
    images = [row["image"] for row in PAIRS[:2]]
    pq.write_table(pa.table({"image": images, "caption": texts}), tmp_path / "rows.parquet")
    (tmp_path / "queries.txt").write_text("red\n")
    found = stored(harvested([f"{tmp_path}/rows.parquet"]))
    assert sorted(found) == ["a red cat", "a red dog"]
    assert {image for _, image in found.values()} == {images[0]}
    assert {row["url"] for row, _ in found.values()} == {"rows.parquet/0"}


def test_a_damaged_tar_is_reported_and_costs_what_it_lacks(tmp_path, pools, harvested):
    path = tmp_path / "tars/00025.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    dataset = harvested([pools["tars"]])
    assert list(dataset.failures) == [str(path)]
    assert "00025.tar is damaged after" in dataset.failures[str(path)]
    counts = dataset.history[-1]["counts"]
    assert 40 < counts["downloaded"] < 55
    assert counts["failed"] == {}
    # an image that goes between matching and reading
    whole = harvested([pools["folder"]], "gone", download=False)
    (tmp_path / "photos/3/000003.jpg").write_bytes(b"")
    with pytest.raises(CurateError, match=r"harvested with other options \(pools\)"):
        harvested([pools["folder"]], "gone")
    assert whole.history[-1]["counts"]["pairs"] == 60


def test_images_lost_between_matching_and_reading_are_counted(tmp_path, pools, harvested):
    pq.write_table(pa.table({"key": [row["key"] for row in PAIRS] + ["nokey"], "caption": ["red dog"] * 61,
                             "url": [f"http://a.test/{i}" for i in range(61)]}), tmp_path / "all.parquet")  # fmt: skip
    files = [(f"{row['key']}.jpg", row["image"]) for row in PAIRS]
    (tmp_path / "all.tar").write_bytes(tar_bytes(files))
    dataset = harvested([f"{tmp_path}/all.tar"])
    assert dataset.history[-1]["counts"]["failed"] == {FAILED: 1}
    assert dataset.history[-1]["counts"]["downloaded"] == 60


def test_pools_of_one_name_or_of_nothing_useful_are_refused(tmp_path, pools, harvested):
    (tmp_path / "other/photos").mkdir(parents=True)
    (tmp_path / "other/photos/000000.jpg").write_bytes(PAIRS[0]["image"])
    with pytest.raises(CurateError, match=r"both called 'photos'"):
        harvested([pools["folder"], f"{tmp_path}/other/photos"])
    with pytest.raises(CurateError, match=r"photos has no texts: no \.txt file lies beside an image"):
        harvested([f"{tmp_path}/other/photos"])
    (tmp_path / "texts.tar").write_bytes(tar_bytes([("1.txt", b"red")]))
    with pytest.raises(CurateError, match=r"texts\.tar has no images"):
        harvested([f"{tmp_path}/texts.tar"], "third")
    files = [("1.jpg", PAIRS[0]["image"]), ("1.txt", b"red"), ("2.txt", b"red, without an image")]
    (tmp_path / "half.tar").write_bytes(tar_bytes(files))
    counts = harvested([f"{tmp_path}/half.tar"], "fourth").history[-1]["counts"]
    assert (counts["pool"], counts["unusable"], counts["downloaded"]) == (2, 1, 1)


@pytest.mark.slow
def test_all_of_it_lies_in_memory(pools, harvested, tmp_path):
    memory = fsspec.filesystem("memory")
    for path in sorted(
        [*Path(pools["tars"]).rglob("*.tar"), *Path(pools["folder"]).rglob("*.*"), tmp_path / "rows.parquet"]
    ):
        memory.pipe(f"/copies/{path.relative_to(tmp_path)}", path.read_bytes())
    for name in ("tars", "photos", "rows.parquet"):
        here = contents(harvested([str(tmp_path / name)], f"here-{name}"), *ALL)
        assert contents(harvested([f"memory://copies/{name}"], f"memory://there-{name}"), *ALL) == here


@pytest.mark.slow
def test_pools_on_s3_give_what_they_give_on_a_disk(pools, harvested, tmp_path, s3):  # noqa: F811
    store = fsspec.filesystem("s3")
    for path in sorted([*Path(pools["tars"]).rglob("*.tar"), *Path(pools["folder"]).rglob("*.*")]):
        store.pipe(f"bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    store.pipe("bucket/rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    here = harvested([str(tmp_path / name) for name in ("tars", "photos", "rows.parquet")], "here")
    there = harvested([f"s3://bucket/{name}" for name in ("tars", "photos", "rows.parquet")], "there")
    assert there.history[-1]["counts"]["downloaded"] == 180
    assert {text: image for text, (_, image) in stored(there).items()} == {
        text: image for text, (_, image) in stored(here).items()
    }
    assert contents(there, *ALL) == contents(here, *ALL)


@pytest.mark.slow
def test_tars_folders_parquet_and_the_web_in_one_harvest(pools, harvested, tmp_path):
    with serving() as web:
        pairs = [web.pair(index) for index in range(20)]
        pq.write_table(pa.table({"url": [url for url, _ in pairs], "text": [text for _, text in pairs]}),
                       tmp_path / "web.parquet")  # fmt: skip
        mixed = [*pools.values(), f"{tmp_path}/web.parquet"]
        one = harvested(mixed, "one", allow_private=True)
        assert one.history[-1]["counts"]["downloaded"] == one.history[-1]["counts"]["selected"] == 60 * 3 + 20
        two = harvested(mixed, "two", allow_private=True, engine="local(workers=2)")
        assert contents(two, *ALL) == contents(one, *ALL)
        urls = {row["url"].split("/")[0] for shard in one.shards for row in shard.rows().to_pylist()}
        assert urls == {"tars", "photos", "rows.parquet", "http:"}
        keys = [row["key"] for shard in one.shards for row in shard.rows().to_pylist()]
        assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_a_killed_harvest_of_pools_ends_with_the_same_bytes(pools, harvested, start, tmp_path):
    wanted = contents(harvested(list(pools.values()), "calm"), *ALL)
    out = tmp_path / "stormy"
    command = ["harvest", *pools.values(), "--queries", f"{tmp_path}/queries.txt",
               "--out", str(out), "--cap", "1000", "--shard-size", "16", "--engine", "local(workers=2)", "-q", "--json",
               "--downloader", "native"]  # fmt: skip
    for sign in ("work/harvest/identity.json", "shards/*.tar", "shards/*_stats.json"):
        start(*command, killed_once=f"{out}/{sign}").killed()
    code, said, errors = start(*command).ended()
    assert code == 0, errors
    assert json.loads(said)["downloaded"] == 180
    assert contents(Dataset.open(str(out)), *ALL) == wanted
