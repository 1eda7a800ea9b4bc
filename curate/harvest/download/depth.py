"""How far down its pairs each query is offered for download, and by how much it goes deeper where links are dead."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from curate.files import Folder
from curate.harvest.choose.entries import Limits

ENOUGH = 20  # pairs after which a query's own share of images is trusted more than that of all
MOST = 10  # pairs drawn for each image that is missing, at most: dead links alone never empty a pool in one round


@dataclass(frozen=True)
class Depth:
    """Each query offers the first `draws` (int64 [queries]) of its pairs in the random order; `limits` are the last."""

    draws: np.ndarray
    limits: Limits

    @property
    def digest(self) -> str:
        """Changes with what is offered."""
        return xxhash.xxh3_64_hexdigest(self.limits.rank.tobytes() + self.limits.low.tobytes())

    def table(self) -> pa.Table:
        return pa.table({"draws": self.draws, "rank": self.limits.rank, "low": self.limits.low})


def read(folder: Folder, name: str, draws: int) -> Depth:
    """The depth in a file; `draws` of every query where it does not say how many."""
    table = folder.read_table(name)
    limits = Limits(table["rank"].to_numpy(), table["low"].to_numpy())
    if "draws" in table.column_names:
        return Depth(table["draws"].to_numpy(), limits)
    return Depth(np.full(len(table), draws, np.int64), limits)


def deeper(pairs: np.ndarray, draws: np.ndarray, images: np.ndarray, cap: int) -> np.ndarray:
    """The next `draws`: a query that lacks images goes on by as many pairs as bring them at the share seen so far.

    All int64 [queries]: `pairs` that a query has, `images` that came of its first `draws`. Exact in whole numbers.
    """
    offered = np.minimum(pairs, draws)
    missing = np.maximum(np.minimum(pairs, cap) - images, 0)
    own = (offered >= ENOUGH) & (images > 0)
    tries, came = np.where(own, offered, offered.sum()), np.where(own, images, images.sum())
    more = -(-missing * tries // np.maximum(came, 1))
    more = np.where(came > 0, np.minimum(more, MOST * missing), MOST * missing)
    return np.minimum(draws + more, np.maximum(draws, pairs))
