"""Pools that hold the images: tars, folders and parquet give pairs without reading an image, then images by row."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import pair
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from test_pools import as_csv, as_jsonl, as_parquet, as_tsv, zstd

from curate import pools
from curate.errors import BadShard, CurateError
from curate.pools import check_places, explicit, folder, open_pool
from curate.shard import tar_bytes

PAIRS = [pair(index) for index in range(6)]


def samples(pairs, texts=True, about=False) -> list[tuple[str, bytes]]:
    """The members of a tar."""
    files = []
    for row in pairs:
        files.append((f"{row['key']}.jpg", row["image"]))
        if texts:
            files.append((f"{row['key']}.txt", row["caption"].encode()))
        if about:
            files.append((f"{row['key']}.json", json.dumps({"url": row["url"], "caption": row["caption"]}).encode()))
    return files


def sidecar(path, pairs, **columns):
    table = {name: [row[name] for row in pairs] for name in ("key", "url", "caption")}
    pq.write_table(pa.table({**table, "status": ["success"] * len(pairs), **columns}), path)


def rows_of(pool, part=None) -> list[tuple[str, str, int]]:
    found = [table for name in [part] if name for table in pool.read(name)] or [
        table for name in pool.parts() for table in pool.read(name)
    ]
    return [(row["url"], row["caption"], row["row"]) for table in found for row in table.to_pylist()]


def failing(pool) -> tuple[list[tuple[str, str, int]], str]:
    """The rows of the only part, and why it broke."""
    found = []

    def drain():
        for table in pool.read(pool.parts()[0]):
            found.extend(zip(*table.select(["url", "caption", "row"]).to_pydict().values(), strict=True))

    with pytest.raises(BadShard) as failure:
        drain()
    return found, str(failure.value)


def images_of(pool, rows) -> dict[int, bytes]:
    return dict(pool.images(pool.parts()[0], rows))


def places(name: str) -> list[tuple[str, str, int]]:
    return [(f"{name}/{row['key']}", row["caption"], number) for number, row in enumerate(PAIRS)]


WEB = [(row["url"], row["caption"], number) for number, row in enumerate(PAIRS)]
WANTED = {number: PAIRS[number]["image"] for number in (1, 4, 5)}


# tars


def test_texts_come_from_txt_or_json_or_the_parquet_file_beside(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(PAIRS)))
    (tmp_path / "b.tar").write_bytes(tar_bytes(samples(PAIRS, texts=False, about=True)))
    (tmp_path / "c.tar").write_bytes(tar_bytes(samples(PAIRS, texts=False)))
    sidecar(tmp_path / "c.parquet", PAIRS)
    assert rows_of(open_pool(f"{tmp_path}/a.tar")) == places("a.tar")
    for name, wanted in (("b", WEB), ("c", WEB)):
        pool = open_pool(f"{tmp_path}/{name}.tar")
        assert rows_of(pool) == wanted
        assert images_of(pool, [1, 4, 5]) == WANTED
    assert rows_of(open_pool(f"tars(path={tmp_path}/b.tar, url=none, name=mine)")) == places("mine")
    assert len(rows_of(open_pool(str(tmp_path)))) == len(rows_of(open_pool(f"{tmp_path}/[abc].tar"))) == 18


def test_rows_of_the_parquet_file_beside_a_tar_may_stand_in_any_order_and_have_no_image(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(PAIRS[:4])))
    order = [PAIRS[i] for i in (3, 5, 0, 2, 1)]
    sidecar(tmp_path / "a.parquet", order, status=["success", "failed_to_download", *["success"] * 3])
    pool = open_pool(f"{tmp_path}/a.tar")
    assert [url for url, _, _ in rows_of(pool)] == [row["url"] if row is not PAIRS[5] else "" for row in order]
    assert images_of(pool, [0, 1, 2, 4]) == {0: PAIRS[3]["image"], 2: PAIRS[0]["image"], 4: PAIRS[1]["image"]}


PACKED = {"tgz": gzip.compress, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress,
          "tar.zst": zstd}  # fmt: skip


@pytest.mark.parametrize("ending", PACKED)
def test_compressed_tars_are_read_as_streams(ending, tmp_path):
    packed = PACKED[ending](tar_bytes(samples(PAIRS)))
    (tmp_path / f"a.{ending}").write_bytes(packed)
    pool = open_pool(f"{tmp_path}/a.{ending}")
    assert rows_of(pool) == places(f"a.{ending}")
    assert images_of(pool, [1, 4, 5]) == WANTED
    (tmp_path / f"a.{ending}").write_bytes(packed[: len(packed) * 2 // 3])
    found, reason = failing(pool)
    assert found == places(f"a.{ending}")[: len(found)]
    assert "is damaged after" in reason
    assert not images_of(pool, [5])


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_grouped_as_webdataset_does(form, tmp_path):
    long = "x/" * 40 + "y" * 60 if form != tarfile.USTAR_FORMAT else "x/" * 40 + "y"
    files = [("a/1.jpg", b"1"), ("a/1.txt", b"one"), ("b/1.seg.png", b"s"), ("b/1.PNG", b"2"), ("b/1.txt", b"two"),
             (f"{long}.jpg", b"3"), (f"{long}.txt", b"three"), ("./._a.jpg", b"mac"), ("README", b"none")]  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    pool = open_pool(f"{tmp_path}/a.tar")
    found = [row for row in rows_of(pool) if row[0]]
    assert found == [("a.tar/a/1", "one", 0), ("a.tar/b/1", "two", 1), (f"a.tar/{long}", "three", 2)]
    assert images_of(pool, [0, 1, 2]) == {0: b"1", 1: b"2", 2: b"3"}


@pytest.mark.slow
def test_keys_are_those_of_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    names = ["1", "a.b/2", "./3", "x/y/4", "5 5", "x/y/z.w/6", "\u00fc7", "n" * 120]
    kinds = ["jpg", "PNG", "seg.jpg", "jpg", "webp", "jpeg", "jpg", "jpg"]
    files = [(f"{name}.{end}", f"{name} {end}".encode()) for name, kind in zip(names, kinds, strict=True)
             for end in (kind, "jpg", "txt")]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(tar_bytes(dict(files).items()))
    theirs = list(webdataset.WebDataset(f"{tmp_path}/a.tar", shardshuffle=False))
    ours = rows_of(open_pool(f"{tmp_path}/a.tar"))
    assert [(url.removeprefix("a.tar/"), text) for url, text, _ in ours] == [
        (sample["__key__"].removeprefix("./"), sample["txt"].decode()) for sample in theirs
    ]


def test_members_in_any_order_are_samples_in_the_order_of_their_first_one(tmp_path):
    files = sorted(samples(PAIRS), key=lambda file: file[1])
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    pool = open_pool(f"{tmp_path}/a.tar")
    rows = rows_of(pool)
    assert sorted(row[:2] for row in rows) == sorted(row[:2] for row in places("a.tar"))
    by_text = {row["caption"]: row["image"] for row in PAIRS}
    assert images_of(pool, list(range(6))) == {number: by_text[text] for _, text, number in rows}


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("harm", ["cut", "spoilt"])
def test_a_damaged_tar_gives_the_samples_before_and_its_name(beside, harm, tmp_path):
    data = bytearray(tar_bytes(samples(PAIRS)))
    at = data.index(b"000004.jpg")
    data[at + 512 :] = b"" if harm == "cut" else b"\xff" * 4000
    (tmp_path / "a.tar").write_bytes(data)
    if beside:
        sidecar(tmp_path / "a.parquet", PAIRS)
    pool = open_pool(f"{tmp_path}/a.tar")
    found, reason = failing(pool)
    wanted = (WEB if beside else places("a.tar"))[:4]
    if harm == "spoilt":  # the header of the fifth is sound, its bytes and its text are not
        wanted.append(WEB[4] if beside else ("a.tar/000004", "", 4))
    assert [row for row in found if row[0]] == wanted
    assert reason.startswith(f"{tmp_path}/a.tar is damaged after {len(found)} rows: ")
    assert ("truncated at byte" if harm == "cut" else "no tar header at byte") in reason
    assert images_of(pool, [1, 5]) == {1: PAIRS[1]["image"]}


def test_a_tar_without_texts_or_without_images_says_what_it_needs(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(PAIRS, texts=False)))
    assert failing(open_pool(f"{tmp_path}/a.tar")) == ([], f"{tmp_path}/a.tar has no texts: no .txt or .json member "
        "holds any; name the member, the json key or the column of the parquet file beside it: "
        "tars(path=..., caption=NAME)")  # fmt: skip
    (tmp_path / "b.tar").write_bytes(tar_bytes([file for file in samples(PAIRS) if file[0].endswith("txt")]))
    assert "b.tar has no images: none of its members is .jpg, .jpeg, .png" in failing(open_pool(f"{tmp_path}/b.tar"))[1]
    (tmp_path / "c.tar").write_bytes(b"<html>404</html>" * 99)
    assert "c.tar is damaged after 0 rows: no tar header at byte 0" in failing(open_pool(f"{tmp_path}/c.tar"))[1]
    (tmp_path / "d.tar").write_bytes(b"")
    assert rows_of(open_pool(f"{tmp_path}/d.tar")) == []


def test_another_member_json_key_or_column_holds_the_text(tmp_path):
    files = [("1.jpg", b"i"), ("1.txt", b"no"), ("1.Long.TXT", b"a member"), ("1.json", b'{"said": "a key"}')]
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    pq.write_table(pa.table({"key": ["1"], "column": ["a column"]}), tmp_path / "a.parquet")
    for caption, text in (("caption", "no"), ("long.txt", "a member"), ("said", "a key"), ("column", "a column")):
        assert rows_of(open_pool(f"tars(path={tmp_path}/a.tar, caption={caption})")) == [("a.tar/1", text, 0)]


def test_texts_in_tars_may_be_several_odd_or_broken(tmp_path):
    files = {"1.json": b'{"caption": ["one", "", "eins"], "url": 7}', "3.json": b"[1]", "4.json": b'{"caption": null}',
             "2.json": b'{"text": "\\ud800 x\\u0000", "url": null}', "5.txt": b"caf\xe9\r\n", "6.txt": b"",
             "6.json": b'{"text":"6"}', "7.json": b"[" * 99_999}  # fmt: skip
    images = {f"{key}.jpg": b"i" for key in range(1, 8)}
    (tmp_path / "a.tar").write_bytes(tar_bytes(sorted((files | images).items())))
    found, reason = failing(open_pool(f"{tmp_path}/a.tar"))
    assert [(text, row) for _, text, row in found] == [
        ("one", 0), ("", 0), ("eins", 0), ("? x\0", 1), ("", 2), ("", 3), ("caf\N{REPLACEMENT CHARACTER}", 4),
        ("6", 5), ("", 6)]  # fmt: skip
    assert reason == f"{tmp_path}/a.tar: 2 json members without a JSON object (3.json), 7 rows read"


class Counted(MemoryFileSystem):
    """A store in memory that counts the bytes asked of it."""

    protocol = "counted"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    given: ClassVar[dict[str, int]] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("counted://", "memory://"))

    def _open(self, path, mode="rb", **options):
        file = super()._open(path, mode, **options)
        return _Counting(file, path) if mode == "rb" else file


class _Counting(io.RawIOBase):
    def __init__(self, file: MemoryFile, path: str):
        self._file, self._path, self.size = file, path, file.size

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, *to):
        return self._file.seek(*to)

    def tell(self):
        return self._file.tell()

    def read(self, size=-1):
        data = self._file.read(size)
        Counted.given[self._path] = Counted.given.get(self._path, 0) + len(data)
        return data


@pytest.fixture
def counted():
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.store.clear()
    Counted.given.clear()
    return Counted


def test_tars_are_matched_without_reading_an_image_and_only_wanted_images_are_read(counted):
    files = samples([{**row, "image": row["image"] * 50} for row in PAIRS])
    counted().pipe("/x/a.tar", tar_bytes(files))
    pool = open_pool("counted://x/a.tar")
    assert rows_of(pool) == places("a.tar")
    assert counted.given["/x/a.tar"] < 13 * 512 + 6 * 40
    counted.given.clear()
    assert images_of(pool, [1]) == {1: PAIRS[1]["image"] * 50}
    assert counted.given["/x/a.tar"] == 3 * 512 + 50 * len(PAIRS[1]["image"])
    table = io.BytesIO()
    sidecar(table, PAIRS)
    counted().pipe("/x/a.parquet", table.getvalue())
    counted.given.clear()
    assert rows_of(pool) == WEB
    assert counted.given["/x/a.tar"] == 512  # its end


def test_a_dataset_is_a_pool_of_its_shards_with_the_same_uids(dataset):
    pool = open_pool(dataset.url)
    assert [part.rpartition("/")[2] for part in pool.parts()] == ["00000.tar", "00001.tar", "00002.tar"]
    assert len(rows_of(pool)) == 60
    shard = dataset.shards[1].rows().to_pylist()
    found = rows_of(pool, pool.parts()[1])
    assert sorted((url, text) for url, text, _ in found) == sorted((row["url"], row["caption"]) for row in shard)


# folders


@pytest.fixture
def photos(tmp_path):
    """Six images in two folders, without any text."""
    for number, row in enumerate(PAIRS):
        path = tmp_path / "photos" / ("big_cats" if number < 4 else "dogs") / f"{row['key']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"])
    return tmp_path / "photos"


NAMES = [f"{'big_cats' if number < 4 else 'dogs'}/{row['key']}.jpg" for number, row in enumerate(PAIRS)]
INSIDE = [(f"photos/{name}", row["caption"]) for name, row in zip(NAMES, PAIRS, strict=True)]


def test_a_text_lies_beside_each_image(photos):
    for name, row in zip(NAMES, PAIRS, strict=True):
        (photos / name).with_suffix(".txt").write_text(row["caption"] + "\n")
        (photos / name).with_suffix(".tags").write_text("tagged " + row["key"])
    (photos / ".hidden").mkdir()
    for name in (".hidden/1.jpg", "dogs/._x.jpg", "dogs/notes.md"):
        (photos / name).write_bytes(b"x")
    pool = open_pool(str(photos))
    assert [row[:2] for row in rows_of(pool)] == INSIDE
    assert [row[2] for row in rows_of(pool)] == [0, 1, 2, 3, 0, 1]
    cats, dogs = pool.parts()
    assert dict(pool.images(cats, [0, 3])) == {0: PAIRS[0]["image"], 3: PAIRS[3]["image"]}
    assert dict(pool.images(dogs, [1])) == {1: PAIRS[5]["image"]}
    assert rows_of(open_pool(f"folder(path={photos}, caption=tags)"))[1][1] == "tagged 000001"
    assert {row[1] for row in rows_of(open_pool(f"folder(path={photos}, caption=folder)"))} == {"big cats", "dogs"}


TABLES = {"csv": as_csv, "tsv": as_tsv, "jsonl": as_jsonl, "parquet": as_parquet}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_texts_lies_in_the_folder_or_above(kind, photos):
    rows = [*zip(NAMES, [row["caption"] for row in PAIRS], strict=True), (f"./{NAMES[0]}", "another"), ("no.jpg", "x")]
    (photos / f"metadata.{kind}").write_bytes(TABLES[kind](rows, "file_name", "text"))
    wanted = [*INSIDE[:1], (INSIDE[0][0], "another"), *INSIDE[1:]]
    assert [row[:2] for row in rows_of(open_pool(str(photos)))] == wanted
    (photos / f"metadata.{kind}").rename(photos / f"mine.{kind}")
    text = f"folder(path={photos}, table=mine.{kind}, caption=text)"
    assert [row[:2] for row in rows_of(open_pool(text))] == wanted
    (photos / f"dogs/captions.{kind}").write_bytes(TABLES[kind]([("000004.jpg", "nearer")], "image", "caption"))
    (photos / f"mine.{kind}").rename(photos / f"metadata.{kind}")
    assert rows_of(open_pool(str(photos)))[5:] == [(INSIDE[4][0], "nearer", 0), (INSIDE[5][0], "", 1)]


def test_the_url_in_a_table_says_where_an_image_comes_from(photos):
    (photos / "dogs/metadata.csv").write_text("file_name,text,url\n000004.jpg,four,http://a.test/4\n000005.jpg,five,\n")
    pool = open_pool(f"folder(path={photos}/dogs)")
    assert rows_of(pool) == [("http://a.test/4", "four", 0), ("dogs/000005.jpg", "five", 1)]


def test_a_large_folder_is_cut_into_parts_that_notice_changes(photos, monkeypatch):
    whole = rows_of(open_pool(f"folder(path={photos}, caption=folder)"))
    monkeypatch.setattr(folder, "IMAGES", 3)
    pool = open_pool(f"folder(path={photos}, caption=folder)")
    parts = pool.parts()
    assert len(parts) == 3
    assert [row[:2] for row in rows_of(pool)] == [row[:2] for row in whole]
    assert dict(pool.images(parts[1], [0])) == {0: PAIRS[3]["image"]}
    (photos / NAMES[2]).write_bytes(b"other")
    changed = pool.parts()
    assert [a == b for a, b in zip(parts, changed, strict=True)] == [False, False, True]
    rows_of(pool, parts[2])
    with pytest.raises(CurateError, match=r"photos/big_cats changed while it was harvested"):
        list(pool.images(parts[0], [0]))
    (photos / NAMES[2]).unlink()
    assert len(rows_of(pool)) == 5


def test_a_folder_that_is_no_pool_says_why(photos):
    pool = open_pool(str(photos))
    reasons = []
    for part in pool.parts():
        with pytest.raises(BadShard) as failure:
            list(pool.read(part))
        reasons.append(str(failure.value))
    assert reasons[1].startswith(f"{photos}/dogs has no texts: no .txt file lies beside an image; say where they are")
    (photos / "metadata.csv").write_text("file,words\n")
    with pytest.raises(CurateError, match=r"metadata\.csv has no column 'caption'; its columns: file, words\."):
        rows_of(pool)
    assert "metadata.csv has none for its images" in failing(open_pool(f"folder(path={photos}, caption=words)"))[1]
    (photos / "captions.tsv").write_text("")
    with pytest.raises(CurateError, match=r"several tables: metadata\.csv, captions\.tsv; name one"):
        pool.parts()
    for path in (f"{photos}/*.jpg", f"{photos}/{NAMES[0]}"):
        with pytest.raises(CurateError, match="is no folder; name the folder that holds the images"):
            open_pool(f"folder(path='{path}')").parts()
    (photos / "empty").mkdir()
    with pytest.raises(CurateError, match="empty holds no images"):
        open_pool(f"folder(path={photos}/empty)").parts()
    with pytest.raises(CurateError, match=r"has no table 'x\.csv'"):
        open_pool(f"folder(path={photos}, table=x.csv)").parts()


def test_a_text_that_cannot_be_read_and_an_image_that_is_gone_cost_only_themselves(photos):
    for name in NAMES[:4]:
        (photos / name).with_suffix(".txt").write_text("cat")
    (photos / "big_cats/000001.txt").unlink()
    (photos / "big_cats/000001.txt").symlink_to("/proc/self/mem")  # which no one can read from its start
    pool = open_pool(f"folder(path={photos}/big_cats)")
    found, reason = failing(pool)
    assert [text for _, text, _ in found] == ["cat", "", "cat", "cat"]
    assert "big_cats: 1 text cannot be read (000001.txt: " in reason


# parquet with images

KINDS = {
    "huggingface": ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
                    lambda row: {"bytes": row["image"], "path": "x.jpg"}),
    "img2dataset": ("jpg", pa.binary(), lambda row: row["image"]),
    "large": ("image", pa.large_binary(), lambda row: row["image"]),
}  # fmt: skip


def with_images(path, kind, group=2, **columns):
    name, of_type, cell = KINDS[kind]
    images = pa.array([cell(row) for row in PAIRS], of_type)
    columns = {"text": [row["caption"] for row in PAIRS], name: images, **columns}
    pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), path,
                   row_group_size=group, compression="none")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_parquet_may_hold_the_images(kind, tmp_path):
    with_images(tmp_path / "a.parquet", kind)
    pool = open_pool(f"{tmp_path}/a.parquet")
    wanted = [(f"a.parquet/{number}", row["caption"], number) for number, row in enumerate(PAIRS)]
    assert rows_of(pool) == wanted
    assert images_of(pool, [1, 4, 5]) == WANTED
    assert rows_of(open_pool(f"parquet(path={tmp_path}, image={KINDS[kind][0]}, name=b)"))[0][0] == "b/a.parquet/0"


def test_a_url_beside_the_images_is_where_they_come_from_unless_it_is_to_be_fetched(tmp_path):
    urls = [None, *(row["url"] for row in PAIRS[1:])]
    with_images(tmp_path / "a.parquet", "img2dataset", url=urls, status=["success"] * 5 + ["failed_to_download"])
    found = rows_of(open_pool(f"{tmp_path}/a.parquet"))
    assert [url for url, _, _ in found] == ["a.parquet/0", *urls[1:5], ""]
    pool = open_pool(f"parquet(path={tmp_path}/a.parquet, image=none)")
    (table,) = pool.read(pool.parts()[0])
    assert table.column_names == ["url", "caption"]
    assert table["url"].to_pylist() == ["", *urls[1:]]


def test_each_of_several_texts_is_a_pair_of_its_row(tmp_path):
    texts = [["a", "b"], [], None, ["c", None], ["d"], ["e", "f", "g"]]
    with_images(tmp_path / "a.parquet", "huggingface", group=4, text=None, caption=pa.array(texts))
    found = [row[1:] for row in rows_of(open_pool(f"{tmp_path}/a.parquet"))]
    assert found == [("a", 0), ("b", 0), ("", 1), ("", 2), ("c", 3), ("", 3), ("d", 4), ("e", 5), ("f", 5), ("g", 5)]
    pq.write_table(pa.table({"url": ["u", "v"], "caption": [["a", "b"], ["c"]]}), tmp_path / "b.parquet")
    pool = open_pool(f"{tmp_path}/b.parquet")
    (table,) = pool.read(pool.parts()[0])
    assert table.to_pydict() == {"url": ["u", "u", "v"], "caption": ["a", "b", "c"]}


def test_an_image_column_of_another_kind_is_named(tmp_path):
    columns = {"text": ["t"], "image": ["1.jpg"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(CurateError, match=r"column 'image' is string; images are encoded files: binary, or struct"):
        rows_of(open_pool(f"{tmp_path}/a.parquet"))
    with pytest.raises(CurateError, match=r"no column 'photo'; its columns: text, image"):
        rows_of(open_pool(f"parquet(path={tmp_path}/a.parquet, image=photo)"))
    paths = pa.array([{"bytes": None, "path": "1.jpg"}], KINDS["huggingface"][1])
    pq.write_table(pa.table({"text": ["t"], "image": paths}), tmp_path / "b.parquet")
    assert "'image' holds no bytes, only paths at most" in failing(open_pool(f"{tmp_path}/b.parquet"))[1]
    pq.write_table(pa.table({"text": ["t"], "url": [["u"]]}), tmp_path / "d.parquet")
    with pytest.raises(CurateError, match=r"column 'url' is list<element: string>; urls are strings"):
        rows_of(open_pool(f"{tmp_path}/d.parquet"))
    pq.write_table(pa.table({"text": [{"a": 1}], "image": [b"i"]}), tmp_path / "c.parquet")
    with pytest.raises(CurateError, match=r"column 'text' is struct<a: int64>; texts are strings or lists of strings"):
        rows_of(open_pool(f"{tmp_path}/c.parquet"))


def test_parquet_is_matched_without_an_image_and_only_wanted_row_groups_are_read(counted):
    stored = io.BytesIO()
    with_images(stored, "huggingface", group=1)
    counted().pipe("/x/a.parquet", stored.getvalue())
    footer = len(stored.getvalue()) - sum(len(row["image"]) for row in PAIRS)
    pool = open_pool("counted://x/a.parquet")
    part = pool.parts()[0]
    assert len(rows_of(pool, part)) == 6
    assert counted.given["/x/a.parquet"] < 2 * footer
    counted.given.clear()
    assert dict(pool.images(part, [4])) == {4: PAIRS[4]["image"]}
    assert counted.given["/x/a.parquet"] < 2 * footer + len(PAIRS[4]["image"])


def test_a_spoilt_row_group_costs_its_images_only(tmp_path):
    with_images(tmp_path / "a.parquet", "img2dataset")
    data = (tmp_path / "a.parquet").read_bytes()
    at = data.index(PAIRS[4]["image"])
    (tmp_path / "a.parquet").write_bytes(data[: at - 30] + b"\xff" * 60 + data[at + 30 :])
    assert images_of(open_pool(f"{tmp_path}/a.parquet"), [0, 4]) == {0: PAIRS[0]["image"]}


# which kind a pool is, and what it is called


def test_the_kind_of_a_folder_is_told_by_what_lies_in_it(photos, tmp_path, dataset):
    assert explicit(str(photos)).name == "folder"
    (photos / "metadata.csv").write_text("file_name,text\n")
    assert explicit(str(photos)).name == "folder"
    (photos / "results.csv").write_text("file_name,text\n")
    with pytest.raises(CurateError, match=r"several kinds \(csv, folder\); name one: csv\(path="):
        explicit(str(photos))
    (tmp_path / "laion").mkdir()
    for ending in ("tar", "parquet"):
        (tmp_path / f"laion/00000.{ending}").write_bytes(b"")
    (tmp_path / "laion/00000_stats.json").write_text("{}")
    assert explicit(str(tmp_path / "laion")).name == "tars"
    (tmp_path / "laion/other.parquet").write_bytes(b"")
    with pytest.raises(CurateError, match=r"several kinds \(parquet, tars\)"):
        explicit(str(tmp_path / "laion"))
    dataset.after("measure", {}, "").save()
    dataset.folder.write_table("signals/caption/00000.parquet", pa.table({"uid": ["0"]}))
    assert str(explicit(dataset.url)) == f"tars(path={dataset.url})"


def test_places_stay_where_a_pool_is_moved_and_equal_ones_are_refused(tmp_path):
    for parent in ("one", "two"):
        (tmp_path / parent / "shards").mkdir(parents=True)
        (tmp_path / parent / "shards/0.tar").write_bytes(tar_bytes(samples(PAIRS)))
    one, two = (open_pool(f"{tmp_path}/{parent}/shards") for parent in ("one", "two"))
    assert rows_of(one) == rows_of(two) == places("shards/0.tar")
    assert rows_of(open_pool(f"{tmp_path}/one/shards/*.tar")) == rows_of(one)
    check_places([one, open_pool(f"{tmp_path}/one/shards/*.tar")])
    with pytest.raises(CurateError, match=r"are both called 'shards', .* otherwise: KIND\(path=.*, name=ANOTHER"):
        check_places([one, two])
    other = open_pool(f"tars(path={tmp_path}/two/shards, name=other)")
    check_places([one, other])
    assert rows_of(other) == places("other/0.tar")
    for parent in ("one", "two"):
        pq.write_table(pa.table({"url": ["http://a"], "caption": ["c"]}), tmp_path / parent / "a.parquet")
    check_places([open_pool(f"{tmp_path}/{parent}/a.parquet") for parent in ("one", "two")])
    assert pools.Places("memory://x/y").base == "y"
    assert pools.Places("http://a.test/x.tar?key=secret").base == "x.tar"
    assert pools.kind_of("https://a.test/x.tar.gz?sign=a.csv") == "tars"
    assert not pools.is_glob("https://a.test/x.tar?sign=a")


def test_names_that_are_no_utf8_are_told_apart(tmp_path):
    files = [("a\udcff.jpg", b"1"), ("a\udcff.txt", b"one"), ("a\udcfe.jpg", b"2"), ("a\udcfe.txt", b"two")]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    pool = open_pool(f"{tmp_path}/a.tar")
    assert rows_of(pool) == [("a.tar/a\\xff", "one", 0), ("a.tar/a\\xfe", "two", 1)]
    assert images_of(pool, [1]) == {1: b"2"}
