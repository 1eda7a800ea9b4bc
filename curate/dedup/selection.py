"""The selection that a decision makes: a task for neighbouring shards writes what each of them keeps.

The same task reads the captions of the rows in groups, and hands these on by their keepers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curate import ranges
from curate.dataset import Dataset
from curate.dedup.by_number import ByNumber
from curate.dedup.decided import Decided
from curate.dedup.pool import Pool
from curate.dedup.ranking import Group, Part, neighbours
from curate.errors import BadShard
from curate.work import Engine, Report, run_all

ROWS = 500_000  # of the shards that a task writes
WHY = ("reason", "keeper", "signal", "distance")


@dataclass(frozen=True)
class WriteSelection:
    """Write what a group of shards keeps, its rows as `source` holds them: uid, weight (0 = dropped), reason, keeper,
    signal, distance; and, by the keeper's uid, the rows of its groups with their captions: TOLD."""

    dataset: Dataset
    source: str
    name: str
    made_by: dict[str, Any]
    decided: Decided
    hanging: ByNumber

    def __call__(self, group: Group) -> Report:
        rows = {part: self._rows(part, ["uid", "weight", "place"]) for part in group.parts}
        last = group.parts[-1]
        held = self.hanging.between(group.parts[0].first, last.first + len(rows[last]))
        held = held.sort_by("place").combine_chunks()
        said = pa.array([*self.decided.said, None], pa.string())  # -1 is the last
        for name in ("reason", "signal"):
            at = held[name].to_numpy().astype(np.int64)
            held = held.set_column(held.schema.get_field_index(name), name, said.take(pa.array(at % len(said))))
        told = []
        for part, own in rows.items():
            bounds = np.searchsorted(held["place"].to_numpy(), [part.first, part.first + len(own)])
            found = held.slice(bounds[0], bounds[1] - bounds[0])
            self._write(part, own, found)
            told.append(self._told(part, own, found))
        by_keeper = pa.concat_tables(told).sort_by("first")
        ranges.write(self.decided.folder, told_of(group.number), by_keeper, "first")
        return Report(str(group), sum(map(len, rows.values())))

    def _rows(self, part: Part, columns: list[str]) -> pa.Table:
        return self.dataset.folder.read_table(f"{self.source}/{part.shard.name}.parquet", columns)

    def _write(self, part: Part, rows: pa.Table, found: pa.Table) -> None:
        dropped = found.filter(found["reason"].is_valid())
        places = dropped["place"].to_numpy().astype(np.int64) - part.first
        weight = rows["weight"].to_numpy().copy()
        weight[places] = 0
        at = np.full(len(rows), -1, np.int64)
        at[places] = np.arange(len(places))
        gaps = dropped["distance"].to_numpy()
        why = {name: dropped[name] for name in WHY} | {"distance": pa.array(gaps, mask=np.isnan(gaps))}
        why = pa.table(why).take(pa.array(at, mask=at < 0))
        columns = {"uid": rows["uid"], "weight": pa.array(weight)} | {name: why[name] for name in why.column_names}
        name = f"selections/{self.name}/{part.shard.name}.parquet"
        self.dataset.folder.write_table(name, pa.table(columns).combine_chunks(), self.made_by)

    def _told(self, part: Part, rows: pa.Table, found: pa.Table) -> pa.Table:
        members = found.filter(found["keeper"].is_valid()).drop_columns(["reason"])
        wanted = rows.take(pa.array(members["place"].to_numpy().astype(np.int64) - part.first))
        shard = pa.array([part.shard.name] * len(members), pa.string())
        return members.append_column("shard", shard).append_column("text", _captions(part, wanted))


def _captions(part: Part, wanted: pa.Table) -> pa.ChunkedArray:
    if not len(wanted):
        return pa.chunked_array([], pa.string())
    held, place = part.shard.rows(["caption"]), wanted["place"].to_numpy()
    found = held.take(pa.array(place[place < len(held)]))
    if not found["uid"].equals(wanted["uid"]):
        raise BadShard(f"{part.shard}: its rows changed while dedup ran")
    return found["caption"].cast(pa.string())


def write(pool: Pool, name: str, decided: Decided, hanging: ByNumber, made_by: dict[str, Any],
          engine: str | Engine) -> int:  # fmt: skip
    """Write the selection `name` that a decision makes; how many files with TOLD there are. Raises CurateError."""
    rows = np.maximum(np.diff(pool.bounds), 1).tolist()  # a shard without rows has a file, too
    groups = neighbours(pool.parts(), rows, ROWS)
    task = WriteSelection(pool.dataset, pool.source, name, made_by, decided, hanging)
    run_all(task, groups, engine, "write selection").whole("run it again")
    return len(groups)


def told_of(number: int) -> str:
    return f"told/{number:05d}.arrow"
