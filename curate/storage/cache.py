"""What is made once for a machine and kept for the next command.

In CURATE_CACHE, or curate/ in XDG_CACHE_HOME or ~/.cache; an empty CURATE_CACHE keeps nothing. A cache that cannot be
read or written costs the seconds of making it again, no more.
"""

import contextlib
import os
import shutil
from pathlib import Path

from curate.errors import CurateError
from curate.files import Folder


def folder() -> Folder | None:
    """Where it is kept, if anywhere; need not be there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = os.environ.get("CURATE_CACHE", f"{home}/curate")
    return Folder(os.path.abspath(os.path.expanduser(place))) if place else None


def take(kept: Folder, name: str, path: str) -> None:
    """Copy a file out of the cache, which notes the use. Raises OSError where it is not there or not to be read."""
    shutil.copyfile(kept.path(name), path)
    with contextlib.suppress(OSError):  # a cache that others fill
        os.utime(kept.path(name))


def keep(kept: Folder, name: str, path: str, most: int) -> None:
    """Put a file into the cache, whole, and let go the oldest of more than `most` of its kind (KIND-hash)."""
    try:
        with kept.writing(name) as temporary:
            shutil.copyfile(path, temporary)
        kind = f"{name.partition('-')[0]}-*"
        found = sorted(Path(kept.root).glob(kind), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in found[most:]:
            old.unlink()
    except (OSError, CurateError):  # full, read-only, or another process was quicker
        return
