"""The long tail of queries: how many pairs each one matched, and how many were drawn for it."""

from typing import Any

import numpy as np
import pyarrow.compute as pc

from curate.files import Folder

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
    ranks = np.unique(np.geomspace(1, matched, POINTS).round().astype(int))
    named = zip(ranked["query"].slice(0, min(SHOWN, matched)).to_pylist(), pairs.tolist(), draws.tolist(), strict=False)
    return {
        "queries": matched,
        "unmatched": len(pairs) - matched,
        "over_cap": over,
        "head_share": float(pairs[:over].sum() / pairs.sum()),
        "matches": int(pairs.sum()),
        "drawn": int(draws.sum()),
        "points": [[int(rank), int(pairs[rank - 1]), int(draws[rank - 1])] for rank in ranks],
        "largest": [{"query": query, "matched": count, "drawn": drawn} for query, count, drawn in named],
    }
