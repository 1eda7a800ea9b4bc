"""What is reported of the groups: for each keeper all texts of its group, and what was dropped for it."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dedup.decide import Decision, Uids
from curate.dedup.pool import Pool
from curate.dedup.selection import captions
from curate.dedup.spill import Texts

STRETCH = 16_384  # groups that are put together at a time
GROUPS = pa.schema(
    [("keeper", pa.string()), ("shard", pa.string()), ("size", pa.int32()), ("texts", pa.list_(pa.string())),
     ("uids", pa.list_(pa.string())), ("shards", pa.list_(pa.string())), ("signals", pa.list_(pa.string())),
     ("distances", pa.list_(pa.float64()))]
)  # fmt: skip


def groups_tables(pool: Pool, decision: Decision, uids: Uids) -> Iterator[pa.Table]:
    """One row for each keeper that others were dropped for, sorted by keeper: its uid and shard, all distinct texts of
    the group (its own first), and the uid, shard, signal and distance of each dropped row, by uid. Raises BadShard."""
    members, texts = decision.members(), Texts()
    for at in np.unique(pool.shard_of(members)).tolist():
        texts.append(captions(pool, at))
    said = texts.mapped()
    hanging = np.flatnonzero(decision.keeper >= 0)
    keeper = decision.keeper[hanging]
    by_keeper = np.argsort(keeper, kind="stable")
    keeper, hanging = keeper[by_keeper], hanging[by_keeper]
    keepers = np.unique(keeper)
    keepers = keepers[pc.sort_indices(uids.of(keepers)).to_numpy()]  # stable: equal uids by row, so by shard
    names = pa.array([shard.name for shard in pool.shards], pa.string())
    for start in range(0, len(keepers), STRETCH):
        own = keepers[start : start + STRETCH]
        firsts, lasts = np.searchsorted(keeper, own), np.searchsorted(keeper, own, "right")
        group = np.repeat(np.arange(len(own)), lasts - firsts)
        at = hanging[np.arange(len(group)) + np.repeat(lasts - np.cumsum(lasts - firsts), lasts - firsts)]
        rows = decision.rows[at]
        columns = {"group": group, "uid": uids.of(rows), "shard": names.take(pa.array(pool.shard_of(rows))), "at": at}
        order = pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in columns])
        at, texts_at = at[order.to_numpy()], np.searchsorted(members, rows)
        bounds = pa.array(np.concatenate(([0], np.cumsum(lasts - firsts))), pa.int32())
        yield pa.table([
            uids.of(own), names.take(pa.array(pool.shard_of(own))), pa.array(lasts - firsts + 1, pa.int32()),
            _distinct(group, said.take(pa.array(texts_at)), said.take(pa.array(np.searchsorted(members, own)))),
            *(pa.ListArray.from_arrays(bounds, column) for column in (
                columns["uid"].take(order), columns["shard"].take(order),
                pa.array(decision.signal[at], pa.string()), pa.array(decision.distance[at]))),
        ], schema=GROUPS)  # fmt: skip


def _distinct(group: np.ndarray, texts: pa.Array, own: pa.Array) -> pa.ListArray:
    """Of each group its own text, then the others, sorted, each once. group: of each text, ascending."""
    found = pa.table({"group": group, "text": texts.cast(pa.string())})
    own = own.cast(pa.string())
    found = found.filter(pc.not_equal(found["text"], own.take(pa.array(group))))
    found = found.group_by(["group", "text"]).aggregate([]).sort_by([("group", "ascending"), ("text", "ascending")])
    groups = found["group"].to_numpy()
    more = np.bincount(groups, minlength=len(own))
    bounds = np.concatenate(([0], np.cumsum(more + 1)))
    place = np.zeros(bounds[-1], np.int64)  # in own, then found
    place[bounds[:-1]] = np.arange(len(own))
    rest = np.ones(len(place), bool)
    rest[bounds[:-1]] = False
    place[rest] = np.arange(len(groups)) + len(own)
    values = pa.concat_arrays([own, found["text"].combine_chunks()]).take(pa.array(place))
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values)
