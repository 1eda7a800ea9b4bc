"""What a process leaves half-written where it is killed, and the room that it has for itself until then."""

import contextlib
import errno
import functools
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from curate.errors import CurateError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A folder of this machine's temporary space that goes when the block ends; where that space is full, CurateError.

    What a killed process left there goes with the next use.
    """
    place = tempfile.gettempdir()
    _sweep_scratch(place)
    with (
        blamed(place, FULL, "; set TMPDIR to a larger place"),
        tempfile.TemporaryDirectory(prefix=f"curate-{socket.gethostname()}-{os.getpid()}-") as folder,
    ):
        yield folder


@functools.cache
def _sweep_scratch(place: str) -> None:
    for path in Path(place).glob(f"curate-{socket.gethostname()}-*-*"):
        pid = path.name.split("-")[-2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def half_written(path: Path) -> Path:
    """Where this process writes a file before it has its name."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def sweep(root: str) -> None:
    """Remove what processes of this machine that no longer live left half-written under a folder."""
    ours = re.compile(rf"\..*\.{re.escape(socket.gethostname())}-(\d+)\.tmp")
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            match = ours.fullmatch(name) if name.startswith(".") else None
            if match and not _alive(int(match[1])):
                path = Path(folder, name)
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def blamed(place: str, reasons: set[int], way_out: str = "; choose another place") -> Iterator[None]:
    """An OSError for one of these reasons becomes a CurateError that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        out = "; make room, then run again" if error.errno in FULL and "TMPDIR" not in way_out else way_out
        raise CurateError(f"cannot write {place}: {os.strerror(error.errno)}{out}") from error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        about = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return about.rsplit(")", 1)[1].split()[0] != "Z"  # killed, but its parent has not looked yet
