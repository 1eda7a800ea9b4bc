"""The long tail of queries: how many pairs each one matched, and how many were drawn for it."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from curate.files import Folder

POINTS = 160  # of the curve; ranks evenly spaced in their logarithm
SHOWN = 20


def long_tail(folder: Folder, cap: int | None) -> dict[str, Any] | None:
    """Points of the rank curve and the largest queries, or None where there are no candidates."""
    matched: Counter[str] = Counter()
    drawn: Counter[str] = Counter()
    for name in folder.names("candidates/*.parquet"):
        table = folder.read_table(name, ["queries", "selected_by"])
        for column, counts in (("queries", matched), ("selected_by", drawn)):
            for row in pc.value_counts(pc.list_flatten(table[column])).to_pylist():
                counts[row["values"]] += row["counts"]
    if not matched:
        return None
    ranked = sorted(matched.items(), key=lambda item: (-item[1], item[0]))
    ranks = np.unique(np.geomspace(1, len(ranked), POINTS).round().astype(int))
    return {
        "queries": len(ranked),
        "over_cap": sum(count > cap for _, count in ranked) if cap else 0,
        "matches": sum(matched.values()),
        "drawn": sum(drawn.values()),
        "points": [[int(rank), ranked[rank - 1][1], drawn[ranked[rank - 1][0]]] for rank in ranks],
        "largest": [{"query": query, "matched": count, "drawn": drawn[query]} for query, count in ranked[:SHOWN]],
    }
