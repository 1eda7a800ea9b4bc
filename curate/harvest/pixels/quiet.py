"""Libraries in C write their warnings about an image to the process's standard error: not while this is entered."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2
_lock = threading.Lock()
_entered: list[int] = []  # the real standard error, once for each thread that is inside


@contextmanager
def quiet() -> Iterator[None]:
    """Whatever any thread writes to file descriptor 2 is lost meanwhile; threads may overlap."""
    with _lock:
        if _entered:
            _entered.append(_entered[0])
        else:
            _entered.append(os.dup(STDERR))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, STDERR)
            os.close(nowhere)
    try:
        yield
    finally:
        with _lock:
            real = _entered.pop()
            if not _entered:
                os.dup2(real, STDERR)
                os.close(real)
