"""What a list is made of: queries by source and by length, overlap, what was dropped, which can never match."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from curate.queries.collect import Found
from curate.queries.recipe import Ingredient
from curate.queries.text import flaw

EXAMPLES = 20


def table_of(made: list[Ingredient], found: list[Found], chosen: list[list[str]]) -> pa.Table:
    """Columns query, origin (taken from), count (there), origins (every source that has it), in list order."""
    rows = [(key, number) for number, keys in enumerate(chosen) for key in keys]
    return pa.table({
        "query": pa.array([found[number].spellings[key] for key, number in rows], pa.string()),
        "origin": pa.array([made[number].label for _, number in rows], pa.string()),
        "count": pa.array([found[number].counts[key] for key, number in rows], pa.int64()),
        "origins": pa.array(
            [[i.label for i, source in zip(made, found) if key in source.counts] for key, _ in rows],
            pa.list_(pa.string()),
        ),
    })  # fmt: skip


def dropped(made: list[Ingredient], found: list[Found]) -> Iterator[tuple[str, str, str]]:
    """(query, source, reason) of everything left out."""
    for ingredient, source in zip(made, found):
        for query, reason in sorted(source.dropped.items()):
            yield query, ingredient.label, reason


def describe(made: list[Ingredient], limits: list[int], found: list[Found], chosen: list[list[str]],
             stops: dict[str, float]) -> dict[str, Any]:  # fmt: skip
    """Everything in the statistics file but what made the list."""
    queries = [source.spellings[key] for source, keys in zip(found, chosen) for key in keys]
    dead = [query for query in queries if flaw(query, metaclip=True)]
    return {
        "queries": len(queries),
        "sha256": hashlib.sha256("\n".join(queries).encode()).hexdigest(),
        "sources": [_source(*each) for each in zip(made, limits, found, chosen)],
        "words_per_query": {str(n): count for n, count in sorted(Counter(len(q.split(" ")) for q in queries).items())},
        "overlap": {
            i.label: {j.label: len(one.counts.keys() & other.counts.keys()) for j, other in zip(made, found)}
            for i, one in zip(made, found)
        },
        "stop_words": {word: round(share, 5) for word, share in stops.items()},
        "never_matching_in_metaclip_mode": {"queries": len(dead), "examples": dead[:EXAMPLES]},
    }


def _source(ingredient: Ingredient, limit: int, found: Found, chosen: list[str]) -> dict[str, Any]:
    return {
        "label": ingredient.label,
        "origin": ingredient.source.origin,
        "licence": ingredient.source.licence,
        "versions": ingredient.source.made_by,
        "read": found.read,
        "dropped": dict(sorted(Counter(found.dropped.values()).items())),
        "distinct": len(found.counts),
        "share": limit,
        "chosen": len(chosen),
        "least_count": min((found.counts[key] for key in chosen), default=None),
    }
