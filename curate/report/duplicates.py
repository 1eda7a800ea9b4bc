"""Groups of duplicates, counted in images: a keeper and what was dropped for it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BENCHMARK = "benchmark"  # begins the reason of images that a benchmark holds; they are no group of the pool


def inside(duplicates: pa.Table) -> pa.Table:
    """The rows that were dropped for a keeper of the pool."""
    if not len(duplicates):
        return duplicates
    reason = pc.fill_null(duplicates["reason"].cast(pa.string()), "")
    return duplicates.filter(pc.invert(pc.starts_with(reason, BENCHMARK)))


def sizes(duplicates: pa.Table) -> dict[str, Any] | None:
    """How many groups hold how many images; None where nothing was dropped as a duplicate.

    `sizes`: [from, to, groups, images], in steps that double; `signals`: what matched, over the dropped images.
    """
    found = inside(duplicates)
    if not len(found):
        return None
    images = pc.value_counts(found["keeper"]).field("counts").to_numpy() + 1
    most, bands, start = int(images.max()), [], 2
    while start <= most:
        end = start if start < 4 else 2 * start - 1
        here = images[(images >= start) & (images <= end)]
        bands.append([start, end, len(here), int(here.sum())])
        start = end + 1
    signals = pc.value_counts(found["signal"].cast(pa.string())).to_pylist() if "signal" in found.column_names else []
    return {
        "groups": len(images),
        "images": int(images.sum()),
        "largest": most,
        "median": float(np.median(images)),
        "sizes": bands,
        "signals": {row["values"]: row["counts"] for row in sorted(signals, key=_most_first)},
    }


def _most_first(row: dict[str, Any]) -> tuple[int, str]:
    return -row["counts"], str(row["values"])
