"""What a process holds beside its data: no pandas, one heap for Arrow and all others, a little of what is free."""

import ctypes
import functools
import sys

import pyarrow as pa

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 32 << 20  # bytes; glibc takes no more. Larger blocks still go back at once
KEPT = 8 << 20  # bytes that stay when all behind them is free: with 32 MB no quicker, and 35 MB more after large images


@functools.cache
def keep_freed_memory() -> None:
    """For this whole process: what one image or batch of texts leaves is kept for the next, not given back.

    Without it every image costs its page faults anew, a third of the time at 1024 x 768. Arrow's buffers come from the
    same heap: its own pool holds 35 MB more while texts are matched, which then takes a tenth more CPU. Where the C
    library has no mallopt, only the second is done.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def give_back_freed_memory() -> None:
    """What this process has freed goes back to the system, from among what it still holds, too: a tenth of a second or
    less. Where the C library has no malloc_trim, only Arrow's part does."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


class _Hidden:
    """A finder that knows of no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def without_pandas() -> None:
    """Let pyarrow look for pandas now, where it finds none, and never again: 0.7 CPU seconds and 58 MB for a process.

    It would import pandas at the first array that it makes of anything. Whoever imports pandas later has it whole;
    `to_pandas` and `from_pandas` then look again. Only `pa.array(series)` takes a series for any sequence. Does nothing
    where pandas is imported already.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _Hidden)  # type: ignore[arg-type]
    try:
        pa.array([0], memory_pool=pa.system_memory_pool())  # its own one takes 4 MB to set up
    finally:
        sys.meta_path.remove(_Hidden)  # type: ignore[arg-type]
