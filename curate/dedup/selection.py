"""The selection that a decision makes: the driver says what is dropped of each shard, a task a shard writes it.

The same task copies the captions of the groups, so that the driver reads no others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dataset import Dataset
from curate.dedup.decide import Decision, Uids
from curate.dedup.pool import Pool
from curate.errors import BadShard
from curate.shard import Shard
from curate.work import Engine, Report, run_all

SHARDS = 200  # whose dropped rows the driver holds as tables at a time


@dataclass(frozen=True)
class Decided:
    """What was decided of a shard, by rows of the pool, counted from the shard's first. dropped: row, reason, keeper
    (its uid), signal, distance. members: those in groups, int64, ascending."""

    shard: Shard
    dropped: pa.Table
    members: np.ndarray

    def __str__(self) -> str:
        return str(self.shard)


@dataclass(frozen=True)
class WriteSelection:
    """Write what a shard keeps, its rows as `source` holds them: uid, weight (0 = dropped), reason, keeper, signal,
    distance; and the captions of its groups."""

    dataset: Dataset
    source: str
    name: str
    made_by: dict[str, Any]

    def __call__(self, decided: Decided) -> Report:
        folder, file = self.dataset.folder, f"{decided.shard.name}.parquet"
        rows = folder.read_table(f"{self.source}/{file}", ["uid", "weight", "place"])
        if len(decided.members):
            folder.write_table(f"{self.source}/captions/{file}", self._captions(decided, rows))
        places = decided.dropped["row"].to_numpy()
        weight = rows["weight"].to_numpy().copy()
        weight[places] = 0
        at = np.full(len(rows), -1, np.int64)
        at[places] = np.arange(len(places))
        why = decided.dropped.drop_columns(["row"]).take(pa.array(at, mask=at < 0))
        columns = {"uid": rows["uid"], "weight": pa.array(weight)} | {name: why[name] for name in why.column_names}
        folder.write_table(f"selections/{self.name}/{file}", pa.table(columns).combine_chunks(), self.made_by)
        return Report(str(decided), len(rows))

    def _captions(self, decided: Decided, rows: pa.Table) -> pa.Table:
        wanted, held = rows.take(pa.array(decided.members)), decided.shard.rows(["caption"])
        place = wanted["place"].to_numpy()
        found = held.take(pa.array(place[place < len(held)]))
        if not found["uid"].equals(wanted["uid"]):
            raise BadShard(f"{decided.shard}: its rows changed while dedup ran")
        return found.select(["caption"])


def write(dataset: Dataset, name: str, pool: Pool, decision: Decision, uids: Uids, made_by: dict[str, Any],
          engine: str | Engine) -> None:  # fmt: skip
    """Write the selection `name` that a decision by shard makes, and what `captions` reads. Raises CurateError."""
    task, members = WriteSelection(dataset, pool.source, name, made_by), decision.members()
    for start in range(0, len(pool.shards), SHARDS):
        shards = range(start, min(start + SHARDS, len(pool.shards)))
        decided = [_decided(pool, decision, uids, members, at) for at in shards]
        run_all(task, decided, engine, "write selection").whole("run it again")


def captions(pool: Pool, at: int) -> pa.StringArray:
    """The captions of those rows of a shard that are in groups. Raises BadShard."""
    name = f"{pool.source}/captions/{pool.shards[at].name}.parquet"
    return pool.dataset.folder.read_table(name)["caption"].combine_chunks()


def _decided(pool: Pool, decision: Decision, uids: Uids, members: np.ndarray, at: int) -> Decided:
    start, stop = pool.bounds[at : at + 2].tolist()
    own = decision.between(start, stop)
    keeper, distance = decision.keeper[own], decision.distance[own]
    columns = {
        "row": pa.array(decision.rows[own] - start),
        "reason": pa.array(decision.reason[own], pa.string()),
        "keeper": uids.of(keeper, keeper < 0),
        "signal": pa.array(decision.signal[own], pa.string()),
        "distance": pa.array(distance, pa.float64(), mask=np.isnan(distance)),
    }
    inside = slice(*np.searchsorted(members, [start, stop]).tolist())
    return Decided(pool.shards[at], pa.table(columns), members[inside] - start)
