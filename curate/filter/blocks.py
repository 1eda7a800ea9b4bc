"""Samples copied from a tar into another under new keys, thousands at once: a tar is an array of 512-byte blocks.

Which block of the source stands where is one array of numbers, and the headers are written all together; so no member
costs any Python. Only for tars of plain files with short names whose samples lie together, which is what img2dataset
and webdataset write; export.py copies others one by one, to the same bytes.
"""

from typing import BinaryIO

import numpy as np

from curate import tar
from curate.errors import BadShard

AT_ONCE = 16_384  # blocks: 8 MB, which stay in the cache of a core


class Blocks:
    """A tar of plain files as blocks, and where the members of each key lie."""

    def __init__(self, view: memoryview, headers: tar.Headers, keys: np.ndarray, first: np.ndarray,
                 extensions: np.ndarray):  # fmt: skip
        self.view, self.headers, self.extensions = view, headers, extensions
        self.keys, self.first = keys, first  # S, sorted; int64: the first member of each and, as many behind, the last
        self.blocks = tar.blocks_of(headers.size)

    @classmethod
    def of(cls, view: memoryview) -> "Blocks | None":
        """None for a tar that must be copied member by member."""
        headers = tar.headers(view)
        if headers is None or not len(headers.at) or np.strings.find(headers.name, b"/").max() >= 0:
            return None
        key, _, extension = np.strings.partition(headers.name, b".")
        extension = np.strings.lower(extension)
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
        last = np.append(first[1:], len(key))
        order = np.argsort(key[first], kind="stable")
        keys = key[first][order]
        if (keys[1:] == keys[:-1]).any() or _repeats(first, last, extension):
            return None
        return cls(view, headers, keys, np.stack([first[order], last[order]]), extension)

    def find(self, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """int64 [keys]: the first member of each, and the one behind its last; equal where there is no such key."""
        wanted = np.array([key.encode("utf-8", "surrogateescape") for key in keys], "S")
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        there = self.keys[at] == wanted
        return self.first[0, at], np.where(there, self.first[1, at], self.first[0, at])

    def copy(self, first: np.ndarray, last: np.ndarray, keys: list[str], file: BinaryIO) -> None:
        """Append samples, each the members from `first` to `last`, under new keys, all of the same length."""
        counts = last - first
        member = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        key = np.repeat(np.array(keys, "S"), counts)
        blocks = np.cumsum(self.blocks[member])
        start = 0
        while start < len(member):
            room = AT_ONCE + (blocks[start - 1] if start else 0)
            stop = max(start + 1, int(np.searchsorted(blocks, room, "right")))
            self._some(member[start:stop], key[start:stop], file)
            start = stop

    def _some(self, member: np.ndarray, key: np.ndarray, file: BinaryIO) -> None:
        counts, size = self.blocks[member], self.headers.size[member]
        heads = np.cumsum(counts) - counts
        place = np.repeat(self.headers.at[member] // tar.BLOCK - heads, counts) + np.arange(counts.sum())
        whole = len(self.view) // tar.BLOCK * tar.BLOCK
        # no array of the mapped file may outlive this line, or it could not be closed
        found = np.frombuffer(self.view, np.uint8, whole).reshape(-1, tar.BLOCK).take(place, axis=0, mode="clip")
        tails = (heads + counts - 1)[size % tar.BLOCK > 0]
        inside = (size % tar.BLOCK)[size % tar.BLOCK > 0]
        found[tails] *= np.arange(tar.BLOCK) < inside[:, None]  # whatever the source is padded with
        found[heads] = _header_blocks(key, self.extensions[member], size)
        file.write(found.data)


def _header_blocks(keys: np.ndarray, extensions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """uint8 [members, 512]: the headers that `tar.header` gives for "key.extension"; S keys of one length."""
    width, longest = keys.dtype.itemsize, extensions.dtype.itemsize
    if width + 1 + longest > 100 and (width + 1 + np.strings.str_len(extensions)).max() > 100:
        raise BadShard(f"{keys[0].decode()}: its extension is too long for a tar header")
    blocks = np.tile(np.frombuffer(tar.BLANK, np.uint8), (len(keys), 1))
    blocks[:, :width] = keys.view(np.uint8).reshape(-1, width)
    blocks[:, width] = ord(".")
    room = min(longest, 99 - width)
    blocks[:, width + 1 : width + 1 + room] = extensions.view(np.uint8).reshape(-1, longest)[:, :room]
    blocks[:, 124:135] = (sizes[:, None] >> 3 * np.arange(10, -1, -1) & 7) + ord("0")
    sums = blocks.sum(axis=1, dtype=np.int64)  # the checksum counts itself as spaces
    blocks[:, 148:154] = (sums[:, None] >> 3 * np.arange(5, -1, -1) & 7) + ord("0")
    blocks[:, 154] = 0
    return blocks


def _repeats(first: np.ndarray, last: np.ndarray, extension: np.ndarray) -> bool:
    """Whether a sample has two members of one extension: the last counts, as in a dictionary."""
    for number in range(1, int((last - first).max())):
        for other in range(number):
            both = first + number < last
            if (extension[first[both] + number] == extension[first[both] + other]).any():
                return True
    return False
