"""A batch of rows as signals see it: each image decoded once for all signals of a pass, and only if one asks."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from curate import images

# what is derived from the image, once for all signals of a pass
DECODED = frozenset({"pixels", "grey", "small", "flat"})
FROM_IMAGE = DECODED | {"image"}


class Rows:
    """A batch of rows of a shard as signals see it: any sidecar column as Arrow data, "image" as encoded bytes, and,
    derived when first asked for and None where the image cannot be decoded, "pixels" (RGB uint8 [height, width, 3]),
    "grey" (uint8 [height, width], Pillow's convert("L")), "small" (uint8 [32, 32], Pillow's Lanczos reduction of it)
    and "flat" (whether the picture is near-blank or tiny). What a signal puts into `shard` is there in the next batch.
    """

    def __init__(self, table: pa.Table, encoded: list[bytes] | None = None, shard: dict[Any, Any] | None = None,
                 embeddings: dict[str, np.ndarray] | None = None):  # fmt: skip
        self.table, self._encoded, self.shard = table, encoded, {} if shard is None else shard
        self._embeddings = embeddings or {}
        self._decoding: list[Future[np.ndarray | None]] | None = None

    @classmethod
    def of(cls, pictures: Sequence[np.ndarray]) -> "Rows":
        """Rows of nothing but pictures that are decoded already, RGB uint8 [height, width, 3] each."""
        rows = cls(pa.table({"uid": [str(number) for number in range(len(pictures))]}))
        rows.pixels = list(pictures)
        return rows

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, name: str) -> Any:
        if name in DECODED:
            return getattr(self, name)
        if name == "image":
            return self.encoded
        return self.table[name].combine_chunks()

    @property
    def encoded(self) -> list[bytes]:
        if self._encoded is None:
            raise RuntimeError("a signal that uses images must say so: reads = ('image',) or ('pixels',)")
        return self._encoded

    def embedding(self, signal: str) -> np.ndarray:
        """float16 [rows, dimensions] that another signal stored. Who asks for it says so: `of`, the other's name."""
        if signal not in self._embeddings:
            raise RuntimeError(f"a signal that reads the embeddings of '{signal}' must say so: of = '{signal}'")
        return self._embeddings[signal]

    @cached_property
    def pixels(self) -> list[np.ndarray | None]:
        if self._decoding is not None:
            return [image.result() for image in self._decoding]
        return [_pixels(encoded) for encoded in self.encoded]

    def decode_in(self, pool: Executor) -> "Rows":
        """Begin to decode the images in threads, before anyone asks for them."""
        self._decoding = [pool.submit(_pixels, encoded) for encoded in self.encoded]
        return self

    @cached_property
    def grey(self) -> list[np.ndarray | None]:
        return [None if pixels is None else images.grey(pixels) for pixels in self.pixels]

    @cached_property
    def small(self) -> list[np.ndarray | None]:
        return [None if grey is None else images.lanczos(grey, images.SMALL, images.SMALL) for grey in self.grey]

    @cached_property
    def flat(self) -> list[bool | None]:
        pairs = zip(self.grey, self.small, strict=True)
        return [None if grey is None or small is None else images.is_flat(grey, small) for grey, small in pairs]


def _pixels(encoded: bytes) -> np.ndarray | None:
    try:
        return images.decode(encoded)
    except images.UndecodableImage:
        return None
