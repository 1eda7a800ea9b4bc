"""The long tail of queries: how many pairs each one matched, how many were drawn for it, and what the filter left."""

from typing import Any

import numpy as np
import pyarrow.compute as pc

from curate.files import Folder
from curate.report.tallies import Tally

QUERIES = "reports/queries.parquet"  # harvest writes it: query, pairs, draws, one row for each query of the list
POINTS = 160  # of the curve; ranks evenly spaced in their logarithm
SHOWN = 20


def long_tail(folder: Folder, cap: int | None) -> dict[str, Any] | None:
    """Points of the rank curve and the largest queries, or None where no query has a pair.

    `over_cap` queries are the head, which holds the share `head_share` of all matches; the others are the tail.
    """
    if not folder.exists(QUERIES):
        return None
    table = folder.read_table(QUERIES, ["query", "pairs", "draws"])
    ranked = table.take(pc.sort_indices(table, [("pairs", "descending"), ("query", "ascending")]))
    pairs, draws = ranked["pairs"].to_numpy(), ranked["draws"].to_numpy()
    matched = int(np.count_nonzero(pairs))
    if not matched:
        return None
    over = int(np.count_nonzero(pairs > cap)) if cap else 0
    named = zip(ranked["query"].slice(0, min(SHOWN, matched)).to_pylist(), pairs.tolist(), draws.tolist(), strict=False)
    return {
        "queries": matched,
        "unmatched": len(pairs) - matched,
        "over_cap": over,
        "head_share": float(pairs[:over].sum() / pairs.sum()),
        "matches": int(pairs.sum()),
        "drawn": int(draws.sum()),
        "points": [[rank, int(pairs[rank - 1]), int(draws[rank - 1])] for rank in _ranks(matched)],
        "largest": [{"query": query, "matched": count, "drawn": drawn} for query, count, drawn in named],
    }


def survival(tally: Tally) -> dict[str, Any] | None:
    """What the filter leaves of each query: images it considered (before) and kept (after); None without queries.

    `points`: [rank, before, after], `erased`: the queries that lose every pair, the largest first, `thinned`: those
    that lose the largest share, of those that keep some.
    """
    before = sorted(tally.considered.items(), key=lambda item: (-item[1], str(item[0])))
    if not before:
        return None
    after = tally.kept
    erased = [(query, count) for query, count in before if not after[query]]
    thinned = sorted(((query, count) for query, count in before if after[query]),
                     key=lambda item: (after[item[0]] / item[1], -item[1], str(item[0])))  # fmt: skip
    counts = [count for _, count in before]
    return {
        "queries": len(before),
        "erased": len(erased),
        "points": [[rank, counts[rank - 1], after[before[rank - 1][0]]] for rank in _ranks(len(before))],
        "lost": [{"query": query, "before": count} for query, count in erased[:SHOWN]],
        "thinned": [_change(query, count, after[query]) for query, count in thinned[:SHOWN] if after[query] < count],
        "largest": [_change(query, count, after[query]) for query, count in before[:SHOWN]],
    }


def _change(query: str, before: int, after: int) -> dict[str, Any]:
    return {"query": query, "before": before, "after": after}


def _ranks(count: int) -> list[int]:
    return [int(rank) for rank in np.unique(np.geomspace(1, count, POINTS).round().astype(int))]
