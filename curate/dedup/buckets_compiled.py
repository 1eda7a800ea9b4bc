"""The near pairs of buckets.py by compiled loops: the same buckets and near pairs, in about half the time."""

import numpy as np

from curate.compiled.machine import load
from curate.dedup.buckets_layout import COARSE, LOOPS

ROOM = 1 << 20  # pairs that are found before they are taken


def near_pairs(words: np.ndarray, mask: np.ndarray, threshold: int, bits: int,
               largest: int) -> tuple[tuple[np.ndarray, np.ndarray], list[np.ndarray]]:  # fmt: skip
    """See buckets.near_pairs; bits: of a bucket's number. Rows are int32."""
    rows, width = words.shape
    sizes = {"packed": rows, "part": rows, "starts": (1 << min(bits, COARSE)) + 1,
             "fine": (1 << max(0, bits - COARSE)) + 1, "bounds": (1 << bits) + 1, "left": ROOM + largest,
             "right": ROOM + largest, "large": 2 * (rows // largest + 1)}  # fmt: skip
    arrays = {name: np.empty(size, LOOPS.arrays[name]) for name, size in sizes.items()}
    arrays |= {"words": np.ascontiguousarray(words), "mask": np.ascontiguousarray(mask),
               "progress": np.array([-1, 0, 0, 0], np.int64)}  # fmt: skip
    row_bits, progress = rows.bit_length(), arrays["progress"]
    loops, addresses = load(LOOPS), LOOPS.addresses(arrays)
    pairs = []
    while progress[0] < 1 << bits:
        loops(*addresses, rows, width, bits, row_bits, threshold, largest, ROOM + largest)
        pairs.append([arrays[side][: progress[2]].copy() for side in ("left", "right")])
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    of_row = np.uint64((1 << row_bits) - 1)
    crowds = arrays["large"][: 2 * progress[3]].reshape(-1, 2).tolist()
    return (left, right), [arrays["packed"][at : at + size] & of_row for at, size in crowds]
