"""The rows of a pool in the order in which they are taken as keepers, sorted in memory that a bucket bounds."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dedup.spill import Spill, blocks

BUCKET, MOST = 1_000_000, 256  # rows that are sorted at once, about, in 150 MB; in so many files, then more in each
DRAWN = 64  # rows for each bucket that tell where it ends
KEYS: list[tuple[str, Any]] = [("pixels", "descending"), ("original", "descending"), ("clip", "descending"),
                               ("uid", "ascending"), ("row", "ascending")]  # fmt: skip


def ranked(rows: pa.Table) -> np.ndarray:
    """int64, mapped: the rows, best keeper first: most pixels, most pixels before resizing, best CLIP score (rounded),
    then uid, then shard."""
    order = Spill()
    for bucket in _buckets(rows, min(MOST, -(-len(rows) // BUCKET))):
        order.append(_sorted(rows, bucket))
    return order.mapped()


def places(rows: np.ndarray, of: int) -> np.ndarray:
    """int64 [of], mapped: where each of `of` rows stands in an array of rows, -1 where it does not."""
    found = Spill()
    for part in blocks(of):
        found.append(np.full(part.stop - part.start, -1, np.int64))
    held = found.mapped()
    for part in blocks(len(rows)):
        held[rows[part]] = np.arange(part.start, part.stop)
    return held


def _buckets(rows: pa.Table, count: int) -> list[np.ndarray]:
    """All rows in `count` buckets, the best in the first; each ascending, mapped."""
    if count < 2:
        return [np.arange(len(rows))]
    drawn = _sorted(rows, np.unique(np.linspace(0, len(rows) - 1, DRAWN * count).astype(np.int64)))
    ends = drawn[np.linspace(0, len(drawn) - 1, count + 1).astype(np.int64)[1:-1]]
    buckets = [Spill() for _ in range(count)]
    for part in blocks(len(rows)):
        both = np.concatenate([np.arange(part.start, part.stop), ends])
        at = _order(rows, both)
        bounds = np.flatnonzero(at >= part.stop - part.start)
        for spill, own in zip(buckets, np.split(at, bounds), strict=True):
            spill.append(np.sort(both[own[own < part.stop - part.start]]))
    return [spill.mapped() for spill in buckets]


def _sorted(rows: pa.Table, wanted: np.ndarray) -> np.ndarray:
    return wanted[_order(rows, wanted)]


def _order(rows: pa.Table, wanted: np.ndarray) -> np.ndarray:
    """int64: the places in `wanted` of the best row, the next one ..."""
    columns = {name: rows[name].chunk(0).take(pa.array(wanted)) for name, _ in KEYS if name != "row"}
    return pc.sort_indices(pa.table(columns | {"row": wanted}), sort_keys=KEYS).to_numpy().view(np.int64)
