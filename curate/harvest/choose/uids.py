"""The uids of whole columns of pairs: 128-bit xxh3 of url, NUL, text, as two uint64 or as 32 hex digits."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)  # two digits for each byte


def halves(urls: pa.ChunkedArray, texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of each pair's uid, uint64."""
    wide = (column.cast(pa.large_string()) for column in (urls, texts))
    digests = _digests(pc.binary_join_element_wise(*wide, pa.scalar("\0", pa.large_string())), xxhash.xxh3_128_digest)
    both = np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)
    return both[:, 0].copy(), both[:, 1].copy()


def hashes(texts: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The 64-bit xxh3 of each text, uint64."""
    return np.frombuffer(_digests(texts.cast(pa.large_string()), xxhash.xxh3_64_digest), ">u8").astype(np.uint64)


def hex_digits(high: np.ndarray, low: np.ndarray) -> pa.Array:
    """The uids as `curate.shard.uid_of` writes them."""
    digits = HEX[np.column_stack((high, low)).astype(">u8").view(np.uint8)]
    offsets = np.arange(0, 32 * len(high) + 1, 32, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(high), [None, pa.py_buffer(offsets), pa.py_buffer(digits)])


def _digests(texts: pa.ChunkedArray | pa.Array, digest: Callable[[memoryview], bytes]) -> bytes:
    """One digest after the other; slices of Arrow's own bytes, since a Python string for each would cost as much."""
    found = []
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        _, offsets, data = chunk.buffers()
        at = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist() if offsets else []
        view = memoryview(data or b"")
        found += [digest(view[start:stop]) for start, stop in pairwise(at)]
    return b"".join(found)
