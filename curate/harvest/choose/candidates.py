"""From pools to candidates: match, join, count, find each query's limit, select; no step holds more than a bucket."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from curate import ranges
from curate.dataset import fingerprint
from curate.errors import CurateError
from curate.files import Folder
from curate.harvest import index as indexes
from curate.harvest.choose import cap as caps
from curate.harvest.choose import limits, select
from curate.harvest.choose.matches import INDEX, RUNS, WORK, Match, Part, grouped, run_of, sorted_by_uid
from curate.harvest.choose.select import Bucket
from curate.harvest.index import EVERY, Matching
from curate.harvest.queries import Queries
from curate.shuffle import Gather, Piece, Ranged, pieces_for, shuffled
from curate.work import Engine, Outcome, run_all

PLAN = f"{WORK}/plan.json"
JOINED = f"{WORK}/joined.json"  # the pairs are joined; the runs they came from are gone
BALANCES = ("cap", "metaclip")
LARGEST = 20  # queries that the plan names


class Drawing(NamedTuple):
    """How many of its pairs each query draws: `cap` of them, or each with probability cap / count (metaclip)."""

    balance: str
    cap: int | None
    tail_share: float | None  # in place of the cap: the queries within it hold this share of all matches
    seed: int
    oversample: float = 1.0  # draws so many times the cap, since not every link is alive

    def cap_for(self, counts: np.ndarray) -> int:
        """The cap, where the queries match this many pairs."""
        if self.cap is not None:
            return self.cap
        assert self.tail_share is not None
        return caps.cap_of_tail(counts, self.tail_share)

    def draws_for(self, cap: int) -> int:
        """How many pairs a query draws at first."""
        return math.ceil(round(cap * self.oversample, 6))  # 10 x 1.1 is 11, not 12


def choose(folder: Folder, parts: list[Part], listed: Queries, match: Matching, drawing: Drawing,
           engine: str | Engine) -> dict[str, Any]:  # fmt: skip
    """Write candidates/ and return the numbers of the plan; at once where that was done before.

    Raises CurateError where the pools hold no row, or none that a query stands in.
    """
    decides = {"queries": listed.sha256, "match": match.mode, "casefold": match.casefold, **drawing._asdict()}
    made_by = fingerprint([decides, [[part.path, part.size] for part in parts]])
    if folder.exists(PLAN) and folder.read_json(PLAN)["made_by"] == made_by:
        return folder.read_json(PLAN)
    runs, totals = _match(folder, parts, listed, match, engine)
    state = fingerprint([made_by, totals, runs])
    if folder.exists(JOINED) and folder.read_json(JOINED)["state"] != state:
        folder.remove(f"{WORK}/matched")  # a damaged file was mended meanwhile, and the runs of the others are gone
        runs, totals = _match(folder, parts, listed, match, engine)
    of = pieces_for(totals["matched"], totals["bytes"])
    buckets = [Bucket(number, of) for number in range(of)]
    _join(folder, buckets, runs, totals, state, engine)
    counts, pairs, digest = _counted(folder, buckets, len(listed.texts))
    cap = drawing.cap_for(counts)
    if drawing.balance == "metaclip":
        limits.toss(folder, listed.texts, counts, drawing.draws_for(cap), state)
    else:
        limits.find(folder, buckets, counts, drawing.draws_for(cap), drawing.seed, state, engine)
    said = tuple({**decides, "cap": cap, "pairs": digest}.items())
    selected = _whole(run_all(select.Select(folder, state, drawing.seed, said), buckets, engine, "select"))
    draws = _draws(folder, buckets, len(listed.texts))
    wanted = np.minimum(counts, drawing.draws_for(cap))
    if drawing.balance == "cap" and not np.array_equal(draws, wanted):
        raise RuntimeError(f"{draws.sum()} draws, expected {wanted.sum()}")
    never = folder.read_table(select.QUERIES)["never_matches"].to_numpy()
    if match.mode != EVERY:
        _report_queries(folder, listed, counts, draws, never, dict(said))
    plan = {
        **totals,
        **_told(listed, counts, draws, cap),
        "never_matching": int(never.sum()),
        "made_by": made_by,
        "cap": cap,
        "depth": drawing.draws_for(cap),
        "buckets": len(buckets),
        "pairs": pairs,
        "selected": int(selected.total("selected")),
        "kept": _kept(folder, buckets, int(selected.total("selected")), totals, state, engine).files,
    }
    folder.write_json(PLAN, plan)
    for done in ("matched", "pairs", "counts", "draws", "windows"):
        folder.remove(f"{WORK}/{done}")
    return plan


def buckets_of(plan: dict[str, Any]) -> list[Bucket]:
    return [Bucket(number, plan["buckets"]) for number in range(plan["buckets"])]


def kept_of(plan: dict[str, Any]) -> Ranged:
    """The files with the pairs to download, by place."""
    return Ranged(tuple(tuple(files) for files in plan["kept"]))


def _match(folder: Folder, parts: list[Part], listed: Queries, match: Matching, engine: str | Engine):
    """The names of the runs, and the totals of the parts."""
    made_by = match.made_by(listed)
    if (folder.made_by(select.QUERIES) or {}).get("index") != made_by:
        never = np.zeros(len(listed.texts), bool)
        if match.mode != EVERY:
            with folder.writing(INDEX) as temporary:
                never[indexes.write(temporary, listed, match)] = True
        table = pa.table({"query": pa.array(listed.texts), "never_matches": pa.array(never)})
        folder.write_table(select.QUERIES, table, {"index": made_by})
    groups = grouped(parts)
    _whole(run_all(Match(folder, made_by, match.mode == EVERY), groups, engine, "match"))
    done = [folder.read_json(group.marker) for group in groups]
    rows = [rows for found in done for rows in found["read"]]
    folder.write_json(select.PARTS, {"pools": [p.pool for p in parts], "paths": [p.path for p in parts], "rows": rows})
    totals: dict[str, Any] = {name: sum(found[name] for found in done) for name in ("unusable", "matched", "bytes")}
    totals["read"] = sum(rows)
    totals["damaged"] = {path: reason for found in done for path, reason in found["damaged"].items()}
    _check(totals, parts, listed)
    return [run_of(group, run) for group, found in zip(groups, done) for run in range(found["runs"])], totals


def _join(folder: Folder, buckets: list[Bucket], runs: list[str], totals: dict[str, Any], state: str,
          engine: str | Engine) -> None:  # fmt: skip
    """Write the pairs of each bucket, then let go of the runs."""
    if not folder.exists(JOINED) or folder.read_json(JOINED)["state"] != state:
        gather = Gather(folder, state, "high", sorted_by_uid)
        held, outcome = shuffled(gather, runs, totals["matched"], totals["bytes"], f"{WORK}/shuffle", engine)
        _whole(outcome)
        pieces = [Piece(b.number, b.of, held.over(*ranges.bounds(b.number, b.of)), select.pairs_of(b)) for b in buckets]
        _whole(run_all(select.Merge(folder, state), pieces, engine, "join"))
        folder.write_json(JOINED, {"state": state})
    for done in (RUNS, f"{WORK}/shuffle"):
        folder.remove(done)


def _kept(folder: Folder, buckets: list[Bucket], selected: int, totals: dict[str, Any], state: str,
          engine: str | Engine) -> Ranged:  # fmt: skip
    """The kept pairs in the order of their places, in few files for each shard."""
    size = totals["bytes"] * selected // totals["matched"]
    files = [select.kept_of(bucket) for bucket in buckets]
    gather = Gather(folder, state, "place", select.placed)
    held, outcome = shuffled(gather, files, selected, size, f"{WORK}/placed", engine)
    _whole(outcome)
    return held


def _check(totals: dict[str, Any], parts: list[Part], listed: Queries) -> None:
    if not totals["read"]:
        if totals["damaged"]:
            raise CurateError(next(iter(totals["damaged"].values())))
        names = ", ".join(part.path for part in parts[:3])
        raise CurateError(f"the pool is empty: no row in {names}{' ...' if len(parts) > 3 else ''}")
    if totals["unusable"] == totals["read"]:
        raise CurateError(
            f"none of the {totals['read']:,} rows of the pool has an image or an http(s) url; name its column: "
            "parquet(path=..., url=COLUMN)"
        )
    if not totals["matched"]:
        raise CurateError(
            f"none of {totals['read']:,} texts holds any of {len(listed.texts):,} queries; "
            "name the text's column (parquet(path=..., caption=COLUMN)) or check the query list's language and case"
        )


def _counted(folder: Folder, buckets: Iterable[Bucket], queries: int) -> tuple[np.ndarray, int, int]:
    """Distinct pairs of each query int64 [queries], of all, and the digest of their uids."""
    counts, pairs, digest = np.zeros(queries, np.int64), 0, 0
    for bucket in buckets:
        table = folder.read_table(select.counts_of(bucket))
        counts[table["query"].to_numpy()] += table["count"].to_numpy()
        made_by = folder.made_by(select.counts_of(bucket)) or {}
        pairs, digest = pairs + made_by["pairs"], (digest + made_by["digest"]) % 2**64
    return counts, pairs, digest


def _draws(folder: Folder, buckets: Iterable[Bucket], queries: int) -> np.ndarray:
    """How many pairs each query drew, int64 [queries]."""
    draws = np.zeros(queries, np.int64)
    for bucket in buckets:
        table = folder.read_table(select.draws_of(bucket))
        draws[table["query"].to_numpy()] += table["count"].to_numpy()
    return draws


def _told(listed: Queries, counts: np.ndarray, draws: np.ndarray, cap: int) -> dict[str, Any]:
    """What the history says of the queries; the head are those over the cap, the tail the others."""
    largest = np.lexsort((np.arange(len(counts)), -counts))[:LARGEST]
    over = counts > cap
    matches = int(counts.sum())
    return {
        "matches": matches,
        "draws": int(draws.sum()),
        "queries_matched": int((counts > 0).sum()),
        "queries_unmatched": int((counts == 0).sum()),
        "queries_capped": int(over.sum()),
        "head_share": round(int(counts[over].sum()) / matches, 6),
        "tail_share": round(int(counts[~over].sum()) / matches, 6),
        "largest": [
            {"query": listed.texts[i], "pairs": int(counts[i]), "draws": int(draws[i])} for i in largest if counts[i]
        ],
    }


def _report_queries(folder: Folder, listed: Queries, counts: np.ndarray, draws: np.ndarray, never: np.ndarray,
                    decides: dict) -> None:  # fmt: skip
    table = pa.table({"query": pa.array(listed.texts), "pairs": counts, "draws": draws, "never_matches": never})
    folder.write_table("reports/queries.parquet", table, decides)


def _whole(outcome: Outcome) -> Outcome:
    return outcome.whole(f"delete {WORK} of the dataset and run again")
