"""Columns that lie in files of the machine's temporary space, mapped into memory: the driver holds no texts.

The files have no names: they go with the process, however it ends.
"""

import errno
import tempfile
from typing import IO

import numpy as np
import pyarrow as pa

from curate.errors import CurateError

BLOCK = 1 << 18  # rows read or written at a time


class Spill:
    """A column that grows part by part, each a numpy array of one dtype and one shape behind the first axis."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as what is mapped from it
        self.rows, self.like = 0, np.zeros(0)

    def append(self, part: np.ndarray) -> None:
        """Raises CurateError where the temporary space is full."""
        self.like = part[:0]
        self.rows += len(part)
        try:
            self.file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise _full(error) from error

    def mapped(self) -> np.ndarray:
        """What was appended, read from the file as it is used; may be written to."""
        if not self.rows or 0 in self.like.shape[1:]:
            return np.zeros((self.rows, *self.like.shape[1:]), self.like.dtype)
        try:
            self.file.flush()
        except OSError as error:
            raise _full(error) from error
        shape = (self.rows, *self.like.shape[1:])
        return np.memmap(self.file, self.like.dtype, "r+", shape=shape).view(np.ndarray)


class Texts:
    """A column of text that grows part by part."""

    def __init__(self) -> None:
        self.offsets, self.characters = Spill(), Spill()
        self.offsets.append(np.zeros(1, np.int64))
        self.bytes = 0

    def append(self, part: pa.StringArray) -> None:
        """part: without nulls."""
        if not len(part):
            return
        _, offsets, characters = part.buffers()
        at = np.frombuffer(offsets, np.int32)[part.offset : part.offset + len(part) + 1].astype(np.int64)
        self.offsets.append(at[1:] - at[0] + self.bytes)
        self.characters.append(np.frombuffer(characters or b"", np.uint8)[at[0] : at[-1]])
        self.bytes += int(at[-1] - at[0])

    def mapped(self) -> pa.Array:
        """large_string, in one piece."""
        buffers = [pa.py_buffer(spill.mapped()) for spill in (self.offsets, self.characters)]
        return pa.LargeStringArray.from_buffers(self.offsets.rows - 1, *buffers)


def blocks(rows: int) -> list[slice]:
    """Stretches that cover so many rows."""
    return [slice(at, min(at + BLOCK, rows)) for at in range(0, rows, BLOCK)]


def _full(error: OSError) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    place = tempfile.gettempdir()
    return CurateError(f"cannot write {place}: {error.strerror}; set TMPDIR to a larger place")
