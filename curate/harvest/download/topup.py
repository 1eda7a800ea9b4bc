"""Top-up: where links are dead, queries are drawn deeper until they have their images.

A query offers its first pairs in the random order of cap.py for download, as many as its depth says. Where fewer than
min(count, cap) of them gave an image it goes deeper, by as many pairs as bring the rest at the share of links that was
alive so far. No pair is offered twice: a round takes what lies within the new depth of any query and within the old
depth of none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate import ranges
from curate.files import Folder
from curate.harvest.choose import cap as caps
from curate.harvest.choose.entries import Entries, Limits, entries_of, query_names, read_limits
from curate.harvest.choose.limits import Search
from curate.harvest.choose.select import Bucket, by_place, starts
from curate.harvest.download.depth import Depth, deeper
from curate.harvest.download.groups import Group, Images, groups
from curate.work import Engine, Report, run_all

AGAIN = "repair it, or delete it and run again"


@dataclass(frozen=True)
class Candidates:
    """The pairs of a bucket of candidates."""

    folder: Folder
    seed: int
    state: str

    def __call__(self, bucket: Bucket) -> Entries:
        table = self.folder.read_table(f"{bucket}.parquet", ["uid", "queries"])
        return entries_of(table, query_names(self.folder, self.state), self.seed)


@dataclass(frozen=True)
class Tally:
    """Write how many images each query has in a group of shards."""

    images: Images
    place: str  # a folder of the dataset

    def __call__(self, group: Group) -> Report:
        folder, made_by = self.images.folder, {"state": self.images.state, "shards": list(group.names)}
        name = tally_of(self.place, group.name)
        if folder.made_by(name) == made_by:
            return Report(str(group), skipped=True)
        query, images = np.unique(self.images(group).ids, return_counts=True)
        folder.write_table(name, pa.table({"query": query.astype(np.int32), "images": images}), made_by)
        return Report(str(group), len(query))


@dataclass(frozen=True)
class Draw:
    """Write the candidates of a bucket within the new limits and not within the old ones, as shards read them.

    `selected_by` then names the queries that are deep enough for a pair now.
    """

    folder: Folder
    place: str
    before: str  # file with the limits of the round before
    now: str  # file with the limits of this round
    seed: int
    state: str  # changes with both

    def __call__(self, bucket: Bucket) -> Report:
        name = drawn_of(self.place, bucket)
        done = ranges.made_by(self.folder, name) or {}
        if done.get("state") == self.state:
            return Report(str(bucket), done["pairs"], skipped=True)
        table, names = self.folder.read_table(f"{bucket}.parquet"), query_names(self.folder, self.state)
        entries = entries_of(table, names, self.seed)
        drawn = entries.within(read_limits(self.folder, self.now, self.state))
        offered = entries.within(read_limits(self.folder, self.before, self.state)).wanted
        at = table.column_names.index("selected_by")
        table = table.set_column(at, "selected_by", drawn.named(names))
        new = by_place(table, starts(self.folder), np.flatnonzero(drawn.wanted & ~offered))
        ranges.write(self.folder, name, new, "place", {"state": self.state, "pairs": len(new)})
        return Report(str(bucket), len(new))


def tally_of(place: str, group: str) -> str:
    return f"{place}/images/{group}.parquet"


def drawn_of(place: str, bucket: Bucket) -> str:
    return f"{place}/kept/{bucket.name}.arrow"


def tally(images: Images, place: str, shards: Sequence[str], queries: int, engine: str | Engine) -> np.ndarray:
    """The images of each query in some shards, int64 [queries]."""
    found, todo = np.zeros(queries, np.int64), groups(shards)
    run_all(Tally(images, place), todo, engine, "count images").whole(AGAIN)
    for group in todo:
        table = images.folder.read_table(tally_of(place, group.name))
        found[table["query"].to_numpy()] += table["images"].to_numpy()
    return found


def deepen(search: Search, pairs: np.ndarray, depth: Depth, images: np.ndarray, cap: int) -> Depth | None:
    """The depth of the next round; None where nothing is missing or nothing is left. `search` is over candidates."""
    draws = deeper(pairs, depth.draws, images, cap)
    grown = np.flatnonzero(draws > depth.draws)
    if not len(grown):
        return None
    rank, low = depth.limits.rank.copy(), depth.limits.low.copy()
    rank[grown], low[grown] = caps.LAST, caps.LAST
    part = grown[draws[grown] < pairs[grown]]
    rank[part], low[part] = search.kth(pairs, part, draws[part])
    return Depth(draws, Limits(rank, low))
