"""What is dropped of a pool, in a file for each range of ranks, and what the rows of groups are called.

A row's number is its rank. Tasks for ranges of ranks look up its uid and its place among the rows of all shards, first
those of dropped rows, then those of the keepers that they hang on.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import ranges
from curate.dedup.ascending import find
from curate.dedup.by_number import ByNumber, by_number
from curate.dedup.ranking import Ranking, uids_of
from curate.files import Folder
from curate.work import Engine, Outcome, Report, run_all

DROPPED = np.dtype([("row", np.int64), ("keeper", np.int64), ("reason", np.int16), ("signal", np.int16),
                    ("distance", np.float64)])  # fmt: skip
NAMED = pa.schema(
    [("at", pa.uint64()), ("inside", pa.bool_()), ("uid", pa.string()), ("place", pa.uint64()),
     ("reason", pa.int16()), ("signal", pa.int16()), ("distance", pa.float64())]
)  # fmt: skip
# keeper: its uid; first: the first eight bytes of that, as a number; keeper_place: null, 0 and -1 where a benchmark
# holds the row. A keeper hangs on itself, for the reason and by the signal -1.
HANGING = pa.schema(
    [("place", pa.uint64()), ("uid", pa.string()), ("keeper", pa.string()), ("first", pa.uint64()),
     ("keeper_place", pa.int64()), ("reason", pa.int16()), ("signal", pa.int16()), ("distance", pa.float64())]
)  # fmt: skip
DRAWN = 1_024  # of so many rows in groups one tells where ranges of keepers end


@dataclass(frozen=True)
class Decided:
    """said: what the numbers of reasons and signals stand for."""

    folder: Folder
    said: tuple[str, ...]

    def file(self, number: int) -> np.ndarray:
        """DROPPED: what is dropped of a range of ranks, ascending. keeper: its row, -1 where a benchmark holds it;
        distance: NaN where only a chain connects them."""
        return self.folder.read_rows(dropped_of(number))

    def write(self, number: int, dropped: np.ndarray) -> None:
        self.folder.write_array(dropped_of(number), dropped)

    def rows(self, of: int) -> np.ndarray:
        """int64, ascending: all that is dropped. of: ranges of ranks."""
        return np.concatenate([np.zeros(0, np.int64), *(self.file(number)["row"] for number in range(of))])

    def drop(self, ranking: Ranking, more: np.ndarray) -> None:
        """more: DROPPED, ascending, rows that were none before. What hung on one of them hangs on its keeper."""
        for number in ranking.ranges:
            held = self.file(number).copy()
            at, lost = find(more["row"], held["keeper"])
            held["keeper"][lost] = more["keeper"][at[lost]]
            own = slice(*np.searchsorted(more["row"], ranking.starts[number : number + 2]).tolist())
            held = np.concatenate([held, more[own]])
            self.write(number, held[np.argsort(held["row"])])


@dataclass(frozen=True)
class NameRows:
    """Write what is dropped of a range of ranks by its keepers' rows (its own where a benchmark holds it), with uids
    and places: NAMED."""

    decided: Decided
    ranking: Ranking

    def __call__(self, number: int) -> Report:
        dropped = self.decided.file(number)
        keys = self.ranking.records(number)["keys"][dropped["row"] - self.ranking.starts[number]]
        inside = dropped["keeper"] >= 0
        at = np.where(inside, dropped["keeper"], dropped["row"]).astype(np.uint64)
        why = [dropped[name] for name in ("reason", "signal", "distance")]
        table = pa.table([at, inside, uids_of(keys), keys[:, -1], *why], schema=NAMED)
        ranges.write(self.decided.folder, rows_of(number), table.sort_by("at"), "at")
        return Report(rows_of(number), len(dropped))


@dataclass(frozen=True)
class NameKeepers:
    """Write what hangs on the rows of a range of ranks, and these keepers themselves, by place: HANGING. The report
    counts "groups", the rows "in groups", and "signal N" of those that hang on another."""

    decided: Decided
    ranking: Ranking
    named: ByNumber

    def __call__(self, number: int) -> Report:
        folder, (start, stop) = self.decided.folder, self.ranking.starts[number : number + 2].tolist()
        held = self.named.between(start, stop)
        at, inside = held["at"].to_numpy(), held["inside"].to_numpy()
        records = self.ranking.records(number)["keys"]
        own = records[np.unique(at[inside]).astype(np.int64) - start]
        keys = np.concatenate([records[at.astype(np.int64) - start], own])  # of the keeper of each
        inside = np.append(inside, np.ones(len(own), bool))
        nothing = np.full(len(own), -1, np.int16)
        itself = {"place": own[:, -1], "uid": uids_of(own), "reason": nothing, "signal": nothing,
                  "distance": np.full(len(own), np.nan)}  # fmt: skip
        rows = pa.concat_tables([held.select(list(itself)), pa.table(itself)])
        keeper = {
            "keeper": pc.if_else(pa.array(inside), uids_of(keys), pa.scalar(None, pa.string())),
            "first": np.where(inside, keys[:, 3], np.uint64(0)),
            "keeper_place": np.where(inside, keys[:, -1].astype(np.int64), -1),
        }
        hanging = pa.table({name: rows[name] for name in rows.column_names} | keeper).select(HANGING.names)
        ranges.write(folder, hanging_of(number), hanging.sort_by("place"), "place")
        firsts = keys[inside, 3]
        folder.write_array(drawn_of(number), firsts[::DRAWN])
        signals = np.bincount(held["signal"].to_numpy()[inside[: len(held)]], minlength=len(self.decided.said))
        counts = {f"signal {at}": count for at, count in enumerate(signals.tolist())}
        return Report(hanging_of(number), len(held), {"groups": len(own), "in groups": len(firsts), **counts})


def name_rows(decided: Decided, ranking: Ranking, engine: str | Engine) -> tuple[ByNumber, Outcome]:
    """HANGING, by place, and what NameKeepers reports. Raises CurateError."""

    def joined(done: Outcome, schema: pa.Schema, held: int) -> ByNumber:
        return by_number(decided.folder, [report.item for report in done.reports], schema, held, len(ranking), engine)

    done = run_all(NameRows(decided, ranking), ranking.ranges, engine, "name dropped rows").whole("run it again")
    task = NameKeepers(decided, ranking, joined(done, NAMED, done.rows))
    done = run_all(task, ranking.ranges, engine, "name keepers").whole("run it again")
    return joined(done, HANGING, done.rows + int(done.total("groups"))), done


def dropped_of(number: int) -> str:
    return f"dropped/{number:05d}.npy"


def rows_of(number: int) -> str:
    return f"rows/{number:05d}.arrow"


def hanging_of(number: int) -> str:
    return f"hanging/{number:05d}.arrow"


def drawn_of(number: int) -> str:
    return f"drawn/{number:05d}.npy"
