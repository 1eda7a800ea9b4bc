"""The index of a query list: built once for a list and a way to match, then kept for the next dataset.

Kept in CURATE_CACHE, or curate/ in XDG_CACHE_HOME or ~/.cache; an empty CURATE_CACHE keeps nothing. A cache that cannot
be read or written costs the second that building takes, no more.
"""

import contextlib
import hashlib
import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from curate.errors import CurateError
from curate.files import Folder
from curate.harvest.match.matcher import FORMAT, Matcher
from curate.harvest.queries import Queries

WORTH = 20_000  # queries; a shorter list is built as quickly as it is found
KEPT = 10  # indexes in the cache, the ones used last; one of 500,000 queries takes 20 MB


EVERY = "every"  # the mode in which the one query of the list stands in every text


class Matching(NamedTuple):
    """How queries are looked for in texts: "default", "metaclip", or EVERY, which looks for nothing."""

    mode: str = "default"
    casefold: bool = False

    def made_by(self, listed: Queries) -> str:
        """SHA-256 of all that decides what is found: the same one, the same index."""
        decides = [FORMAT, unicodedata.unidata_version, listed.sha256, *self]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    def loses_capitals(self, listed: Queries) -> bool:
        """Whether texts in capitals are missed only because each query came in one spelling, mostly small letters."""
        small = sum(text == text.lower() != text.upper() for text in listed.texts)
        if self.mode == EVERY:
            return False
        return not self.casefold and 2 * small > len(listed.texts) == len({text.casefold() for text in listed.texts})


def write(path: str, listed: Queries, matching: Matching) -> np.ndarray:
    """Write the index to a local file; the numbers of the queries that can never match, int64."""
    kept = _cache() if len(listed.texts) >= WORTH else None
    name = f"index-{matching.made_by(listed)}"
    if kept and (matcher := _taken(kept, name, path)):
        return np.array(matcher.never_matching, np.int64)
    matcher = Matcher(listed.texts, matching.mode, matching.casefold)
    matcher.save(path)
    if kept:
        _keep(kept, name, path)
    return np.array(matcher.never_matching, np.int64)


def _cache() -> Folder | None:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = os.environ.get("CURATE_CACHE", f"{home}/curate")
    return Folder(os.path.abspath(os.path.expanduser(place))) if place else None


def _taken(kept: Folder, name: str, path: str) -> Matcher | None:
    """Copy an index out of the cache; None where it is not there, or cannot be used."""
    try:
        shutil.copyfile(kept.path(name), path)
        with contextlib.suppress(OSError):  # a cache that others fill
            os.utime(kept.path(name))
        return Matcher.load(path)
    except (OSError, CurateError):
        return None


def _keep(kept: Folder, name: str, path: str) -> None:
    """Put an index into the cache, whole, and let the oldest go."""
    try:
        with kept.writing(name) as temporary:
            shutil.copyfile(path, temporary)
        found = sorted(Path(kept.root).glob("index-*"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in found[KEPT:]:
            old.unlink()
    except (OSError, CurateError):  # full, read-only, or another process was quicker
        return
