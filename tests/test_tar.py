"""The header walk finds what tarfile finds."""

import io
import tarfile

import pytest
from conftest import draw, encoded, pair
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import tar
from curate.errors import BadShard
from curate.shard import tar_bytes

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150).filter(
    lambda name: name not in (".", "..") and name == name.strip()
)


class Packed:
    """Bytes that come in blocks of any size and cannot be sought in, as those of a compressed file."""

    def __init__(self, data: bytes):
        self.blocks = iter([data[at : at + 700] for at in range(0, len(data), 700)])

    def seekable(self):
        return False

    def read(self, size):
        return next(self.blocks, b"")


@settings(max_examples=60)
@given(st.dictionaries(NAMES, st.binary(max_size=1500), min_size=1, max_size=6),
       st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))  # fmt: skip
def test_members_are_those_of_tarfile(files, form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    data = buffer.getvalue()
    found = list(tar.members(memoryview(data)))
    assert {m.name: data[m.data : m.data + m.size] for m in found} == files
    packed = Packed(data)
    for stream in (tar.Stream(io.BytesIO(data)), tar.Stream(packed)):
        assert [(m, stream.read(m.data, m.size)) for m in tar.members(stream)] == [(m, files[m.name]) for m in found]
    joined = b"".join(data[m.start : m.end] for m in found)
    with tarfile.open(fileobj=io.BytesIO(joined + bytes(1024))) as copy:
        assert {m.name for m in copy.getmembers()} == set(files)


def test_folders_and_links_are_no_members_and_do_not_join_the_next_one(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("a")
    (tmp_path / "d" / "l").symlink_to("a.txt")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "d", "d")
    with tar.opened(str(tmp_path / "x.tar")) as view:
        assert [member.name for member in tar.members(view)] == ["d/a.txt"]


def test_samples_group_by_the_path_up_to_the_first_dot():
    data = memoryview(tar_bytes([("a/1.jpg", b"i"), ("a/1.seg.PNG", b"s"), ("b/1.txt", b"t"), ("./a/1.txt", b"u")]))
    found = tar.samples(data)
    assert [(sample.key, sorted(sample.members)) for sample in found] == [
        ("a/1", ["jpg", "seg.png", "txt"]),
        ("b/1", ["txt"]),
    ]


@pytest.mark.parametrize("keep", [100, 700, 1500, -1024])
def test_a_truncated_tar_is_named_with_the_byte(keep):
    data = tar_bytes([("1.jpg", encoded(draw("red", "circle"))), ("2.jpg", pair(1)["image"])])
    cut = data[: len(data.rstrip(b"\0")) // 512 * 512 + 512] if keep < 0 else data[:keep]
    with pytest.raises(BadShard, match=r"00003.tar: truncated at byte \d+"):
        list(tar.members(memoryview(cut), "00003.tar"))
    for file in (io.BytesIO(cut), Packed(cut)):
        with pytest.raises(BadShard, match=r"00003.tar: truncated at byte \d+"):
            list(tar.members(tar.Stream(file), "00003.tar"))


def test_bytes_that_are_no_tar_are_named():
    with pytest.raises(BadShard, match="no tar header at byte 0"):
        list(tar.members(memoryview(b"<html>" + bytes(range(250)) * 4)))


@pytest.mark.parametrize("records", [b"\0" * 20, b"0 path=a\n", b"9 no", b"-3 path=a\n"])
def test_a_spoilt_extended_header_is_named(records):
    header = bytearray(tar.header("pax", len(records)))
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(BadShard, match=r"a\.tar: byte 512 is no extended header; the file is damaged"):
        list(tar.members(memoryview(bytes(header) + records + tar.padding(len(records))), "a.tar"))


def test_tars_are_written_as_tarfile_reads_them():
    files = {"1.jpg": b"", "2/\u00fc.txt": b"x" * 513, "n" * 150 + ".jpg": b"y" * 512, "\u00e9" * 80: b"z"}
    data = tar_bytes(files.items())
    assert len(data) % tarfile.RECORDSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {member.name: archive.extractfile(member).read() for member in archive} == files
    assert [member.name for member in tar.members(memoryview(data))] == list(files)
