"""Pairs as numbers: the place of each in the random order of cap.py, and the queries that stand in it."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.files import Folder
from curate.harvest.choose import cap as caps
from curate.harvest.choose.select import QUERIES


class Limits(NamedTuple):
    """The last (rank, low) that counts for each query, uint64 [queries] both."""

    rank: np.ndarray
    low: np.ndarray


class Entries(NamedTuple):
    """Pair i has the queries ids[offsets[i]:offsets[i + 1]]; `rank` and `low` are uint64 [pairs]."""

    rank: np.ndarray
    low: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray

    def within(self, limits: Limits) -> "Entries":
        """The same pairs, each with those of its queries within whose limit it lies."""
        inside = caps.drawn(*self, *limits)
        return self._replace(offsets=np.concatenate(([0], np.cumsum(inside)))[self.offsets], ids=self.ids[inside])

    @property
    def wanted(self) -> np.ndarray:
        """bool [pairs]: the pairs that have a query left."""
        return np.diff(self.offsets) > 0

    def named(self, names: pa.Array) -> pa.Array:
        """The queries of each pair as a list of strings."""
        return pa.ListArray.from_arrays(pa.array(self.offsets.astype(np.int32)), names.take(pa.array(self.ids)))


def entries_of(table: pa.Table, names: pa.Array, seed: int) -> Entries:
    """The entries of a table with the columns uid (32 hex digits) and queries (lists of strings)."""
    halves = np.frombuffer(bytes.fromhex("".join(table["uid"].to_pylist())), ">u8").astype(np.uint64).reshape(-1, 2)
    high, low = halves[:, 0].copy(), halves[:, 1].copy()
    offsets = np.zeros(len(table) + 1, np.int64)
    np.cumsum(pc.list_value_length(table["queries"]).to_numpy(), out=offsets[1:])
    ids = pc.index_in(pc.list_flatten(table["queries"]), value_set=names).to_numpy()
    return Entries(caps.ranks(high, low, seed), low, offsets, ids)


@lru_cache(maxsize=2)
def query_names(folder: Folder, state: str) -> pa.Array:
    """The query list, in the order of the ids; `state` says of which harvest."""
    return folder.read_table(QUERIES)["query"].combine_chunks()


@lru_cache(maxsize=4)
def read_limits(folder: Folder, name: str, state: str) -> Limits:
    """The limits in a file; `state` changes with its content."""
    table = folder.read_table(name, ["rank", "low"])
    return Limits(table["rank"].to_numpy(), table["low"].to_numpy())
