"""What the compiled loops of the joins and numpy's agree on; numba is not needed to know it."""

import numpy as np

from curate.compiled.loops import Loops

PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads chosen bits over a key
COARSE = 10  # bits of the bucket's number that codes are parted by first: a part fits the core's own cache
FLUSHED = 1 << 14  # pairs of a bucket that are told by some bits, before the codes themselves are looked at
LOOPS = Loops(
    "curate.dedup.buckets_kernel",
    "near",
    {"words": "uint64", "mask": "uint64", "packed": "uint64", "part": "uint64", "starts": "int64", "fine": "int64",
     "bounds": "int32", "left": "int32", "right": "int32", "large": "int32", "progress": "int64"},
    ("rows", "width", "bits", "row_bits", "threshold", "largest", "room"),
    ("curate.dedup.buckets_layout",),
)  # fmt: skip
