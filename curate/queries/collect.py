"""Read a source into queries in one spelling each, and keep account of what is left out and why."""

from collections.abc import Callable
from dataclasses import dataclass, field

from curate.queries.blocklist import Blocklist
from curate.queries.recipe import Source
from curate.queries.text import flaw, normalise


@dataclass
class Found:
    """What a source has: `counts` and `spellings` by key (the query, its case folded where case does not count)."""

    read: int = 0
    words: int = 0  # counted words of running text; 0 where the source counts something else
    counts: dict[str, int] = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)  # query: reason


def collect(source: Source, blocklist: Blocklist, casefold: bool, metaclip: bool) -> Found:
    """All queries of a source that some text can match and the blocklist allows.

    Spellings of one query are added up; the most frequent one stays (of equals the first in code point order).
    """
    found = Found()
    key_of: Callable[[str], str] = str.casefold if casefold else str
    best: dict[str, int] = {}
    for text, count in source.read():
        found.read += 1
        found.words += count if source.running_text else 0
        query = normalise(text)
        reason = flaw(query, metaclip) or ("blocked" if blocklist.blocks(query) else None)
        if reason:
            found.dropped[query] = reason
            continue
        key = key_of(query)
        found.counts[key] = found.counts.get(key, 0) + count
        if key not in best or (-count, query) < (-best[key], found.spellings[key]):
            best[key], found.spellings[key] = count, query
    return found


def stop_words(sources: list[Found], share: float) -> dict[str, float]:
    """{key: share of running text} of the one-word queries that make up at least `share` of it, in some source."""
    shares: dict[str, float] = {}
    for found in sources:
        for key, count in found.counts.items():
            if share and found.words and count >= share * found.words:
                shares[key] = max(shares.get(key, 0), count / found.words)
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def drop(found: Found, keys: dict[str, float]) -> None:
    """Take stop words out of a source, and remember them."""
    for key in keys:
        if found.counts.pop(key, None) is not None:
            found.dropped[found.spellings[key]] = "stop word"
