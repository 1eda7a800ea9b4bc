"""Samples are copied block by block or member by member, to the same bytes."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pytest

from curate import shard as shards
from curate import tar
from curate.dataset import Dataset
from curate.errors import BadShard
from curate.files import Folder
from curate.filter import blocks, export
from curate.filter.blocks import Blocks

HERE = "local(workers=0)"


def exported(tmp_path, name: str, archive: bytes, keys: list[str]) -> dict[str, bytes]:
    folder = Folder(str(tmp_path / "in"))
    table = pa.table({"key": keys, "url": keys, "caption": keys, "status": ["success"] * len(keys)})
    shards.write(folder, "00000", archive, table, {})
    out = export.run([Dataset.open(folder.url)], Dataset.create(str(tmp_path / name)), shard_size=7, engine=HERE)
    assert not out.failures
    return {file: out.folder.read_bytes(file) for file in out.folder.names("shards/*")}


def random_files(samples: int, largest: int) -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, largest, (samples, 3)) * rng.integers(0, 2, (samples, 3))
    extensions = ("JPG", "seg.png", "txt")
    return [(f"{key:05d}.{extension}", rng.bytes(size)) for key in rng.permutation(samples)
            for extension, size in zip(extensions, sizes[key], strict=True)]  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 10, blocks.AT_ONCE])
def test_block_by_block_and_member_by_member_give_the_same_bytes(tmp_path, monkeypatch, at_once):
    files = random_files(40, 3000)
    archive, keys = shards.tar_bytes(files), sorted({name.partition(".")[0] for name, _ in files})[3:]
    monkeypatch.setattr(blocks, "AT_ONCE", at_once)
    found = exported(tmp_path, "blocks", archive, keys)
    monkeypatch.setattr(Blocks, "of", lambda view: None)
    assert exported(tmp_path, "members", archive, keys) == found
    payloads = []
    for name in sorted(found):
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(found[name])) as copy:
                payloads += [copy.extractfile(member).read() for member in copy]
    assert sorted(payloads) == sorted(content for name, content in files if name.partition(".")[0] in keys)


def test_whatever_a_member_is_padded_with_is_not_copied(tmp_path):
    clean = shards.tar_bytes([("a.txt", b"x" * 700), ("b.txt", b"")])
    dirty = bytearray(clean)
    dirty[512 + 700 : 3 * 512] = b"?" * (1024 - 700)
    assert Blocks.of(memoryview(bytes(dirty)))
    assert exported(tmp_path / "1", "out", bytes(dirty), ["a", "b"]) == exported(
        tmp_path / "2", "out", clean, ["a", "b"]
    )


@pytest.mark.parametrize(
    "names",
    [["d/a.jpg", "d/a.txt"], ["a.jpg", "b.jpg", "a.txt"], ["a.jpg", "a.JPG"], ["a.jpg", "a.jpg"], ["a" * 101 + ".jpg"]],
)
def test_folders_scattered_samples_and_members_that_stand_twice_go_member_by_member(names):
    assert Blocks.of(memoryview(shards.tar_bytes([(name, b"x") for name in names]))) is None


def test_the_headers_of_a_plain_tar_are_those_of_the_careful_walk():
    archive = memoryview(shards.tar_bytes([*random_files(20, 2000), ("none", b"x"), ("\u00e9.txt", b"")]))
    found = tar.headers(archive)
    walked = list(tar.members(archive))
    assert found.at.tolist() == [member.start for member in walked]
    assert found.size.tolist() == [member.size for member in walked]
    assert [name.decode() for name in found.name.tolist()] == [member.name for member in walked]


@pytest.mark.parametrize("spoil", ["cut", "checksum", "kind", "size", "end", "html"])
def test_a_tar_that_is_damaged_or_not_plain_is_left_to_the_careful_walk(spoil):
    archive = bytearray(shards.tar_bytes([("a.jpg", b"x" * 600), ("a.txt", b"y")]))
    if spoil == "cut":
        archive = archive[: 512 + 300]
    elif spoil == "end":
        archive = archive[: archive.rindex(b"y") // 512 * 512 + 512]
    elif spoil == "html":
        archive = bytearray(b"<html>" + bytes(range(250)) * 4)
    else:
        archive[{"checksum": 150, "kind": 156, "size": 130}[spoil]] ^= 3
    assert tar.headers(memoryview(bytes(archive))) is None


def test_an_extension_that_no_header_holds_is_named(tmp_path):
    archive = shards.tar_bytes([("a." + "e" * 95, b"x"), ("a.jpg", b"x")])
    folder = Folder(str(tmp_path / "in"))
    table = pa.table({"key": ["a"], "url": ["a"], "caption": ["a"], "status": ["success"]})
    shards.write(folder, "00000", archive, table, {})
    found = Blocks.of(memoryview(archive))
    with pytest.raises(BadShard, match="too long for a tar header"):
        found.copy(*found.find(["a"]), ["000000000"], io.BytesIO())
    out = export.run([Dataset.open(folder.url)], Dataset.create(str(tmp_path / "out")), engine=HERE)
    assert "too long for a tar header" in out.failures["shards/00000"]
