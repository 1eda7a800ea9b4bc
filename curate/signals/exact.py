"""Equal files (SHA-256 of the bytes) and equal pictures (xxh3-128 of the shape and the RGB pixels)."""

import hashlib

import numpy as np
import pyarrow as pa
import xxhash

from curate import images


class Signal:
    """exact_bytes: binary(32). exact_pixels: binary(16), null where the image cannot be decoded.
    exact_flat: near-blank or tiny, so that equality says nothing about where the picture comes from."""

    reads = ("image", "pixels", "flat")
    distance = "equal"
    made_by = images.DECODER

    def measure(self, rows) -> dict[str, pa.Array]:
        pixels = [None if p is None else _digest(p) for p in rows["pixels"]]
        return {
            "exact_bytes": pa.array([hashlib.sha256(file).digest() for file in rows["image"]], pa.binary(32)),
            "exact_pixels": pa.array(pixels, pa.binary(16)),
            "exact_flat": pa.array(rows["flat"], pa.bool_()),
        }


def _digest(pixels: np.ndarray) -> bytes:
    state = xxhash.xxh3_128(np.array(pixels.shape, "<i8").tobytes())
    state.update(np.ascontiguousarray(pixels).data)
    return state.digest()
