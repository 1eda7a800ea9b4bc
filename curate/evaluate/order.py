"""An order of keys that only they and a seed decide: what is drawn does not depend on how files are sorted."""

from collections.abc import Sequence

import numpy as np
import xxhash


def by_hash(keys: Sequence[str], seed: int) -> np.ndarray:
    """int64 [n]: the places of the keys in the order of their seeded hashes."""
    hashes = [xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"), seed) for key in keys]
    return np.argsort(np.array(hashes, np.uint64), kind="stable")
