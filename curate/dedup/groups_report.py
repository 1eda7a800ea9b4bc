"""What is reported of the groups: for each keeper all texts of its group, and what was dropped for it.

A task for each range of keepers' uids puts its groups together; the driver strings them in one file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import ranges
from curate.dedup.decided import Decided, drawn_of
from curate.dedup.selection import told_of
from curate.work import Engine, Report, run_all

MEMBERS = 65_536  # rows in groups that a task puts together, about: 0.3 KB each, several times
STRETCH = 16_384  # groups in a part of the file
GROUPS = pa.schema(
    [("keeper", pa.string()), ("shard", pa.string()), ("size", pa.int32()), ("texts", pa.list_(pa.string())),
     ("uids", pa.list_(pa.string())), ("shards", pa.list_(pa.string())), ("signals", pa.list_(pa.string())),
     ("distances", pa.list_(pa.float64()))]
)  # fmt: skip


@dataclass(frozen=True)
class Keepers:
    """Those whose uids start with eight bytes from `start` up to `stop`, as numbers."""

    number: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.number:05d}"


@dataclass(frozen=True)
class PutTogether:
    """Write the groups of some keepers: GROUPS."""

    decided: Decided
    files: int

    def __call__(self, keepers: Keepers) -> Report:
        names = [told_of(number) for number in range(self.files)]
        told = ranges.between(self.decided.folder, names, "first", keepers.start, keepers.stop)
        groups = groups_of(told.combine_chunks())
        self.decided.folder.write_table(groups_name(keepers.number), groups, dictionary=False)
        return Report(str(keepers), len(groups))


def groups_tables(decided: Decided, files: int, of: int, members: int, engine: str | Engine) -> Iterator[pa.Table]:
    """One row for each keeper that others were dropped for, sorted by keeper: its uid and shard, all distinct texts of
    the group (its own first), and the uid, shard, signal and distance of each dropped row, by uid. files: of TOLD; of:
    ranges of ranks; members: rows in groups. Raises CurateError."""
    if not members:
        return
    drawn = np.sort(np.concatenate([decided.folder.read_rows(drawn_of(number)) for number in range(of)]))
    inner = drawn[np.linspace(0, len(drawn), -(-members // MEMBERS) + 1).astype(np.int64)[1:-1]]
    ends = [0, *np.unique(inner[inner > 0]).tolist(), ranges.END]
    spans = [Keepers(number, start, stop) for number, (start, stop) in enumerate(pairwise(ends))]
    run_all(PutTogether(decided, files), spans, engine, "groups").whole("run it again")
    rest = GROUPS.empty_table()
    for span in spans:
        rest = pa.concat_tables([rest, decided.folder.read_table(groups_name(span.number)).replace_schema_metadata()])
        while len(rest) >= STRETCH:
            yield rest.slice(0, STRETCH).combine_chunks()
            rest = rest.slice(STRETCH)
    if len(rest):
        yield rest.combine_chunks()


def groups_of(told: pa.Table) -> pa.Table:
    """GROUPS of whole groups, in any order."""
    told = told.sort_by([(name, "ascending") for name in ("keeper", "keeper_place", "uid", "shard", "place")])
    place, keeper = told["place"].to_numpy().astype(np.int64), told["keeper_place"].to_numpy()
    new = np.ones(len(told), bool)
    new[1:] = keeper[1:] != keeper[:-1]
    group, itself = np.cumsum(new) - 1, place == keeper
    own, others, group = told.filter(pa.array(itself)), told.filter(pa.array(~itself)), group[~itself]
    sizes = np.bincount(group, minlength=len(own))
    bounds = pa.array(np.concatenate(([0], np.cumsum(sizes))), pa.int32())
    return pa.table([
        own["uid"], own["shard"], pa.array(sizes + 1, pa.int32()), _distinct(group, others["text"], own["text"]),
        *(pa.ListArray.from_arrays(bounds, others[name].combine_chunks())
          for name in ("uid", "shard", "signal", "distance")),
    ], schema=GROUPS)  # fmt: skip


def _distinct(group: np.ndarray, texts: pa.ChunkedArray, own: pa.ChunkedArray) -> pa.ListArray:
    """Of each group its own text, then the others, sorted, each once. group: of each text, ascending."""
    found = pa.table({"group": group, "text": texts})
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
    values = pa.concat_arrays([*own.chunks, *found["text"].chunks]).take(pa.array(place))
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values)


def groups_name(number: int) -> str:
    return f"groups/{number:05d}.parquet"
