"""What the cap keeps of what came: each query counts its first images in the random order, as many as the cap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset, fingerprint
from curate.files import Folder
from curate.harvest.choose.entries import Limits, entries_of, query_names, read_limits
from curate.harvest.choose.limits import Search
from curate.harvest.choose.matches import WORK
from curate.harvest.download.depth import Depth
from curate.harvest.download.downloads import Downloads
from curate.harvest.download.groups import Images, groups
from curate.harvest.download.topup import tally
from curate.shard import Shard
from curate.work import Engine, Report, run_all

PLACE = f"{WORK}/counted"
LIMITS = f"{PLACE}/limits.parquet"


class Filled(NamedTuple):
    """How many queries have all the images that the cap lets them have, how many have fewer though all their pairs were
    offered, and how many have fewer and pairs left."""

    full: int
    exhausted: int
    short: int


@dataclass(frozen=True)
class Choose:
    """Write selections/<name>/<shard>.parquet: uid, weight, reason ("cap" for what no query counts), counted_by."""

    name: str
    seed: int
    state: str  # changes with the limits

    def __call__(self, shard: Shard) -> Report:
        folder, target = shard.folder, f"selections/{self.name}/{shard.name}.parquet"
        before = folder.made_by(target) or {}
        if before.get("fingerprint") == self.state:
            return Report(str(shard), before["of"], {"kept": before["kept"]}, skipped=True)
        rows, names = shard.rows().select(["uid", "queries"]), query_names(folder, self.state)
        counted = entries_of(rows, names, self.seed).within(read_limits(folder, LIMITS, self.state))
        kept = int(counted.wanted.sum())
        table = pa.table(
            {
                "uid": rows["uid"],
                "weight": pa.array(counted.wanted.astype(np.int32)),
                "reason": pc.if_else(counted.wanted, pa.scalar(None, pa.string()), "cap"),
                "counted_by": counted.named(names),
            }
        )
        folder.write_table(target, table, {"fingerprint": self.state, "of": len(rows), "kept": kept})
        return Report(str(shard), len(rows), {"kept": kept})


def count(folder: Folder, shards: Sequence[str], record: str, depth: Depth, pairs: np.ndarray, cap: int, seed: int,
          state: str, engine: str | Engine) -> Filled:  # fmt: skip
    """Write the last pair that each query counts: its cap-th image among the pairs within its depth.

    `record` is the file with the depth, `pairs` int64 [queries] are those of each query. An image that came along for
    another query and lies deeper is not counted: what counts is a random sample of what is alive.
    """
    read = Images(folder, record, seed, fingerprint([state, "images"]))
    images = tally(read, PLACE, shards, len(pairs), engine)
    rank, low = depth.limits.rank.copy(), depth.limits.low.copy()
    over = np.flatnonzero(images > cap)
    # images lie as close as those of a whole pool would in which this share of the order holds so many
    spread = images / ((depth.limits.rank.astype(np.float64) + 1) / 2.0**64)
    search = Search(folder, f"{PLACE}/windows", read, groups(shards), fingerprint([state, "windows"]), engine)
    rank[over], low[over] = search.kth(spread, over, np.full(len(over), cap))
    folder.write_table(LIMITS, Depth(np.minimum(images, cap), Limits(rank, low)).table(), {"state": state})
    full = images >= np.minimum(pairs, cap)
    exhausted = ~full & (depth.draws >= pairs)
    matched = pairs > 0
    return Filled(*(int((matched & some).sum()) for some in (full, exhausted, ~full & ~exhausted)))


def selection(dataset: Dataset, found: Downloads) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Write the selection of what the queries count: the manifest's changes, counts for the history, failures."""
    record, depth = found.depth
    cap, seed, pairs = found.plan["cap"], found.seed, found.pairs
    state = fingerprint([found.harvest, depth.digest, cap, dataset.shards_fingerprint()])
    name = f"harvest-{state}"
    filled = count(dataset.folder, found.shards, record, depth, pairs, cap, seed, state, found.engine)
    shards = [Shard(dataset.folder, shard) for shard in found.shards]
    outcome = run_all(Choose(name, seed, state), shards, found.engine, "count under the cap")
    kept = int(outcome.total("kept"))
    counts = {"selection": name, "kept": kept, **{f"queries_{key}": value for key, value in filled._asdict().items()}}
    if name in dataset.manifest["selections"]:
        return {}, counts, outcome.failures  # what dedup or filter made of it since stays the current one
    return dataset.with_selection(name, "harvest", None, kept=kept, of=outcome.rows), counts, outcome.failures
