"""Arrays that lie in files of the machine's temporary space, mapped into memory: the driver holds none of them.

The files have no names: they go with the process, however it ends.
"""

import errno
import os
import tempfile

import numpy as np

from curate.errors import CurateError


def mapped(rows: int, like: type[np.generic]) -> np.ndarray:
    """So many zeros, to be written to. Raises CurateError where the temporary space is full."""
    size = rows * np.dtype(like).itemsize
    if not size:
        return np.zeros(0, like)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as what is mapped from it
    try:
        os.posix_fallocate(file.fileno(), 0, size)  # a hole could find no room when it is written to, and kill us
    except OSError as error:
        raise _full(error) from error
    return np.memmap(file, like, "r+", shape=(rows,)).view(np.ndarray)


def _full(error: OSError) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    place = tempfile.gettempdir()
    return CurateError(f"cannot write {place}: {error.strerror}; set TMPDIR to a larger place")
