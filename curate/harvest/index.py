"""The index of a query list: built once for a list and a way to match, then kept for the next dataset."""

import hashlib
import json
import unicodedata
from typing import NamedTuple

import numpy as np

from curate.errors import CurateError
from curate.files import Folder
from curate.harvest.queries import Queries
from curate.match.matcher import FORMAT, Matcher
from curate.storage import cache

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
    kept = cache.folder() if len(listed.texts) >= WORTH else None
    name = f"index-{matching.made_by(listed)}"
    if kept and (matcher := _taken(kept, name, path)):
        return np.array(matcher.never_matching, np.int64)
    matcher = Matcher(listed.texts, matching.mode, matching.casefold)
    matcher.save(path)
    if kept:
        cache.keep(kept, name, path, KEPT)
    return np.array(matcher.never_matching, np.int64)


def _taken(kept: Folder, name: str, path: str) -> Matcher | None:
    """Copy an index out of the cache; None where it is not there, or cannot be used."""
    try:
        cache.take(kept, name, path)
        return Matcher.load(path)
    except (OSError, CurateError):
        return None
