"""Where the members of a tar lie, found by walking its headers, so that samples are read and copied without tarfile.

Format: POSIX.1-2001 (pax) and GNU ustar, the two that img2dataset, webdataset and GNU tar write.
"""

import contextlib
import io
import mmap
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from curate.errors import BadShard

BLOCK = 512
SIZE = struct.Struct("124x11s")  # of a header: eleven octal digits
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tiff", "tif", "avif")


class Member(NamedTuple):
    """One regular file: its bytes are [data, data + size), its blocks with every header before it [start, end)."""

    name: str
    start: int
    data: int
    size: int
    end: int


@dataclass(frozen=True)
class Sample:
    """The members that share a key (the path up to the first dot of the file name), as webdataset groups them."""

    key: str
    members: dict[str, Member]  # extension, lower case, without the dot

    @property
    def start(self) -> int:
        return min(member.start for member in self.members.values())

    @property
    def end(self) -> int:
        return max(member.end for member in self.members.values())


@contextlib.contextmanager
def opened(path: str) -> Iterator[memoryview]:
    """The bytes of a local tar, memory-mapped."""
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                yield view
            finally:
                view.release()


class Stream:
    """The bytes of a tar in any file, read front to back.

    What lies between is passed over by seeking, or, where the file cannot seek (it is compressed), by reading.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._size = file.seek(0, io.SEEK_END) if file.seekable() else None
        self._at = self._first = 0  # of the file, and of the bytes held
        self._held = bytearray()  # only where the file cannot seek: from the last `read` on

    def read(self, at: int, size: int) -> bytes:
        """Up to `size` bytes from `at`, which must not lie before the last `read`."""
        if self._size is None:
            self._forward(at + size)
            del self._held[: at - self._first]
            self._first = at
            return bytes(self._held[:size])
        self._file.seek(at)
        return self._file.read(size)

    def reach(self, end: int) -> int:
        """Where the tar ends, if that is before `end`, else `end`."""
        if self._size is None:
            self._forward(end)
            return min(end, self._first + len(self._held))
        return min(end, self._size)

    def _forward(self, end: int) -> None:
        while (missing := end - self._first - len(self._held)) > 0 and (block := self._file.read(missing)):
            self._held += block


class _View:
    """A tar in memory, with the face of Stream."""

    def __init__(self, view: memoryview):
        self._view = view

    def read(self, at: int, size: int) -> bytes:
        return bytes(self._view[at : at + size])

    def reach(self, end: int) -> int:
        return min(end, len(self._view))


def members(tar: memoryview | Stream, name: str = "tar") -> Iterator[Member]:
    """Every regular file in order; of a Stream its bytes can be read until the next is asked for.

    Raises BadShard, naming `name` and the byte, where the tar is cut short.
    """
    source = _View(tar) if isinstance(tar, memoryview) else tar
    at, start, long_name, long_size = 0, 0, None, None
    while header := source.read(at, BLOCK):
        if len(header) < BLOCK:
            raise BadShard(f"{name}: truncated at byte {at}, inside a header")
        if not header.strip(b"\0"):
            return
        size, kind, data = _size(header, at, name), header[156:157], at + BLOCK
        if long_size is not None and kind not in b"xgLK":
            size = long_size
        end = data + (size + BLOCK - 1) // BLOCK * BLOCK
        total = source.reach(data + size)
        if data + size > total:
            raise BadShard(f"{name}: truncated at byte {total}, {data + size - total} bytes before the end of a member")
        if kind == b"x":
            long_name, long_size = _pax(source.read(data, size), long_name, f"{name}: byte {data}")
        elif kind == b"L":
            long_name = source.read(data, size).rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind not in b"gK":
            if kind in b"0\0" and kind:
                yield Member(long_name or _name(header), start, data, size, source.reach(end))
            start, long_name, long_size = end, None, None
        at = end
    if at:
        raise BadShard(f"{name}: truncated at byte {source.reach(at)}, the end-of-archive blocks are missing")


def samples(tar: memoryview | Stream, name: str = "tar", keys: Collection[str] | None = None) -> list[Sample]:
    """The samples in the order of their first member; with `keys` only those."""
    groups: dict[str, dict[str, Member]] = {}
    wanted = None if keys is None else set(keys)
    found = _plain(tar, wanted) if isinstance(tar, memoryview) else None
    for member in members(tar, name) if found is None else found:
        key, extension = split(member.name)
        if wanted is None or key in wanted:
            groups.setdefault(key, {})[extension] = member
    return [Sample(key, found) for key, found in groups.items()]


def _plain(tar: memoryview, keys: set[str] | None) -> list[Member] | None:
    """The members of a tar that `headers` can read, those of `keys` at least; None for any other."""
    if (found := headers(tar)) is None:
        return None
    known = None if keys is None else {key.encode("utf-8", "surrogateescape") for key in keys}
    every = zip(found.name.tolist(), found.at.tolist(), found.size.tolist(), strict=True)
    return [Member(name.decode("utf-8", "surrogateescape"), at, at + BLOCK, size, at + BLOCK * blocks_of(size))
            for name, at, size in every
            if known is None or b"/" in name or name.partition(b".")[0] in known]  # fmt: skip


def blocks_of(size: Any) -> Any:
    """How many blocks a member of so many bytes takes, with its header; also of many sizes at once."""
    return 1 + (size + BLOCK - 1) // BLOCK


class Headers(NamedTuple):
    """The members of a tar of nothing but plain files with short names: first byte of the header, bytes, name."""

    at: np.ndarray  # int64
    size: np.ndarray  # int64
    name: np.ndarray  # S100


def headers(tar: memoryview) -> Headers | None:
    """The members of a plain tar, ten times as fast as `members`; None where it holds anything but files with short
    names or is damaged, which `members` knows to read or to name."""
    found, at, last, unpack, block = [], 0, len(tar) - BLOCK, SIZE.unpack_from, BLOCK
    with contextlib.suppress(ValueError):  # at the empty block in the end, if all is well
        while at <= last:
            length = int(unpack(tar, at)[0], 8)
            found.append(at)
            at += 2 * block + (length - 1 & -block)  # the header, and the content in whole blocks
    if at > last or bytes(tar[at : at + BLOCK]).strip(b"\0"):
        return None
    every, sizes, names = np.array(found, np.int64), [np.zeros(0, np.int64)], [np.zeros(0, "S100")]
    for start in range(0, len(found), 4096):
        blocks = np.frombuffer(tar, np.uint8)[every[start : start + 4096, None] + np.arange(BLOCK)]
        size = _sizes(blocks)
        if size is None:
            return None
        sizes.append(size)
        names.append(np.ascontiguousarray(blocks[:, :100]).view("S100").ravel())
    return Headers(every, np.concatenate(sizes), np.concatenate(names))


def _sizes(blocks: np.ndarray) -> np.ndarray | None:
    """int64 [headers]: the sizes that uint8 [headers, 512] state; None where one is not plain or not sound."""
    sums, stated = _octal(blocks[:, 148:154]), _octal(blocks[:, 124:135])
    name, kind = blocks[:, :100] != 0, blocks[:, 156]
    plain = ((kind == ord("0")) | (kind == 0)) & (blocks[:, 345] == 0) & name[:, 0]
    plain &= ~(name[:, 1:] & ~name[:, :-1]).any(axis=1) & (blocks[:, 154] % 32 == 0) & (blocks[:, 155] % 32 == 0)
    counted = blocks.sum(axis=1, dtype=np.int64) - blocks[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * 32
    return stated if (plain & (stated >= 0) & (sums == counted)).all() else None


def _octal(digits: np.ndarray) -> np.ndarray:
    """int64: the numbers that uint8 [numbers, digits] say; -1 where one is no digit from 0 to 7."""
    values = digits.astype(np.int64) - ord("0")
    said = values @ (8 ** np.arange(values.shape[1] - 1, -1, -1, dtype=np.int64))
    return np.where(((values >= 0) & (values < 8)).all(axis=1), said, -1)


def split(name: str) -> tuple[str, str]:
    """The key of a member and its extension, in small letters without the dot: "a/1", "seg.png" of ./a/1.seg.PNG."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension.lower()


def header(name: str, size: int) -> bytes:
    """The 512-byte ustar header of a read-only file without owner or time, so that equal files are equal bytes.

    Raises BadShard for a name of more than 100 bytes or a size of 8 GiB and more, which ustar cannot hold.
    """
    encoded = name.encode()
    if len(encoded) > 100 or size >= 8**11:
        raise BadShard(f"{name}, {size:,} bytes: too long for a tar header")
    length = b"%011o" % size
    total = BLANK_SUM + sum(encoded) + sum(length)
    parts = (encoded, b"\0" * (100 - len(encoded)), BLANK[100:124], length, BLANK[135:148], b"%06o\0 " % total)
    return b"".join((*parts, BLANK[156:]))


def fits(name: str, size: int) -> bool:
    """Whether `header` can say it."""
    return len(name.encode()) <= 100 and size < 8**11


def padding(size: int) -> bytes:
    """The zeros that fill a member's last block."""
    return b"\0" * (-size % BLOCK)


def _blank() -> bytes:
    block = bytearray(BLOCK)
    block[100:108] = b"0000444\0"  # mode
    block[108:116] = block[116:124] = b"0000000\0"  # user, group
    block[124:136] = block[136:148] = b"00000000000\0"  # size, time
    block[148:156] = b" " * 8  # the checksum counts itself as spaces
    block[156:157] = b"0"  # a regular file
    block[257:265] = b"ustar\x0000"
    block[329:337] = block[337:345] = b"0000000\0"  # device numbers
    return bytes(block)


BLANK = _blank()  # the header of an empty file without a name
BLANK_SUM = sum(BLANK) - sum(BLANK[124:135])


def _size(header: bytes, at: int, name: str) -> int:
    stored = sum(header) - sum(header[148:156]) + 8 * 32
    try:
        if int(header[148:156].strip(b" \0") or b"0", 8) != stored:
            raise ValueError
        field = header[124:136]
        if field[0] & 0x80:  # GNU base-256, for sizes of 8 GiB and more
            return int.from_bytes(field[1:], "big")
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise BadShard(f"{name}: no tar header at byte {at}; the file is damaged") from None


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _pax(records: bytes, name: str | None, where: str) -> tuple[str | None, int | None]:
    size = None
    try:
        while records:
            length = int(records.partition(b" ")[0])
            key, equals, value = records[:length].partition(b" ")[2].partition(b"=")
            if not equals:
                raise ValueError
            if key == b"path":
                name = value[:-1].decode("utf-8", "surrogateescape")
            elif key == b"size":
                size = int(value)
            records = records[length:]
    except ValueError:
        raise BadShard(f"{where} is no extended header; the file is damaged") from None
    return name, size
