"""From pools to candidates: match, join, count, find each query's limit, select; no step holds more than a bucket."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dataset import fingerprint
from curate.errors import CurateError
from curate.files import Folder
from curate.harvest import cap as caps
from curate.harvest import select
from curate.harvest.match import Matcher
from curate.harvest.matches import INDEX, WORK, Match, Part
from curate.harvest.queries import Queries
from curate.harvest.select import Bucket
from curate.work import Engine, Outcome, run_all

PLAN = f"{WORK}/plan.json"
BUCKET_ROWS = 500_000  # matched rows in a bucket, about: 200 MB while it is sorted
SPREAD = 6.0  # standard deviations: the first windows miss about once in 1e9 queries


def choose(folder: Folder, parts: list[Part], listed: Queries, match: str, cap: int, seed: int,
           engine: str | Engine) -> dict[str, Any]:  # fmt: skip
    """Write candidates/ and return the numbers of the plan; at once where that was done before.

    Raises CurateError where the pools hold no row, or none that a query stands in.
    """
    decides = {"queries": listed.sha256, "match": match, "cap": cap, "seed": seed}
    made_by = fingerprint([decides, [[part.path, part.size] for part in parts]])
    if folder.exists(PLAN) and folder.read_json(PLAN)["made_by"] == made_by:
        return folder.read_json(PLAN)
    runs, totals = _match(folder, parts, listed, match, engine)
    state = fingerprint([made_by, totals, runs])
    folder.write_json(select.RUNS, {"runs": runs})
    buckets = _buckets(totals["matched"])
    _whole(run_all(select.Merge(folder, state), buckets, engine, "join"))
    counts, pairs, digest = _counted(folder, buckets, len(listed.texts))
    _limit(folder, buckets, counts, cap, seed, state, engine)
    said = tuple({**decides, "pairs": digest}.items())
    selected = _whole(run_all(select.Select(folder, state, seed, said), buckets, engine, "select"))
    draws = np.minimum(counts, cap)
    if selected.total("draws") != draws.sum():
        raise RuntimeError(f"{selected.total('draws')} draws, expected {draws.sum()}")
    _report_queries(folder, listed, counts, draws, decides)
    plan = {
        **totals,
        "made_by": made_by,
        "buckets": len(buckets),
        "pairs": pairs,
        "draws": int(draws.sum()),
        "selected": int(selected.total("selected")),
        "queries_matched": int((counts > 0).sum()),
        "queries_capped": int((counts > cap).sum()),
    }
    folder.write_json(PLAN, plan)
    for done in ("matches", "pairs", "counts", "windows"):
        folder.remove(f"{WORK}/{done}")
    return plan


def buckets_of(plan: dict[str, Any]) -> list[Bucket]:
    return [Bucket(number, plan["buckets"]) for number in range(plan["buckets"])]


def _match(folder: Folder, parts: list[Part], listed: Queries, match: str, engine: str | Engine):
    """The names of the runs, and the totals of the parts."""
    made_by = fingerprint([listed.sha256, match])
    if (folder.made_by(select.QUERIES) or {}).get("index") != made_by:
        with folder.writing(INDEX) as temporary:
            Matcher(listed.texts, match).save(temporary)
        folder.write_table(select.QUERIES, pa.table({"query": pa.array(listed.texts)}), {"index": made_by})
    outcome = run_all(Match(folder, made_by), parts, engine, "match")
    done = [folder.read_json(f"{part.prefix}.json") for part in parts]
    about = {"pools": [p.pool for p in parts], "paths": [p.path for p in parts], "rows": [d["read"] for d in done]}
    folder.write_json(select.PARTS, about)
    totals: dict[str, Any] = {name: sum(d[name] for d in done) for name in ("read", "unusable", "matched")}
    totals["damaged"] = outcome.failures
    _check(totals, parts, listed)
    runs = [f"{p.prefix}.{run:05d}.parquet" for p, d in zip(parts, done, strict=True) for run in range(d["runs"])]
    return runs, totals


def _check(totals: dict[str, Any], parts: list[Part], listed: Queries) -> None:
    if not totals["read"]:
        if totals["damaged"]:
            raise CurateError(next(iter(totals["damaged"].values())))
        names = ", ".join(part.path for part in parts[:3])
        raise CurateError(f"the pool is empty: {names}{' ...' if len(parts) > 3 else ''} hold no row")
    if totals["unusable"] == totals["read"]:
        raise CurateError(
            f"none of the {totals['read']:,} rows of the pool has an http(s) url; name its column: "
            "parquet(path=..., url=COLUMN)"
        )
    if not totals["matched"]:
        raise CurateError(
            f"none of {totals['read']:,} texts holds any of {len(listed.texts):,} queries; "
            "name the text's column (parquet(path=..., caption=COLUMN)) or check the query list's language and case"
        )


def _buckets(matched: int) -> list[Bucket]:
    of = max(1, -(-matched // BUCKET_ROWS))
    return [Bucket(number, of) for number in range(of)]


def _counted(folder: Folder, buckets: Iterable[Bucket], queries: int) -> tuple[np.ndarray, int, int]:
    """Distinct pairs of each query int64 [queries], of all, and the digest of their uids."""
    counts, pairs, digest = np.zeros(queries, np.int64), 0, 0
    for bucket in buckets:
        table = folder.read_table(select.counts_of(bucket))
        counts[table["query"].to_numpy()] += table["count"].to_numpy()
        made_by = folder.made_by(select.counts_of(bucket)) or {}
        pairs, digest = pairs + made_by["pairs"], (digest + made_by["digest"]) % 2**64
    return counts, pairs, digest


def _limit(folder: Folder, buckets: list[Bucket], counts: np.ndarray, cap: int, seed: int, state: str,
           engine: str | Engine) -> None:  # fmt: skip
    """Write the last (rank, low) that each query draws; a query whose window missed is looked for in a wider one."""
    rank, low = np.full(len(counts), caps.LAST), np.full(len(counts), caps.LAST)
    missing, number, spread = np.flatnonzero(counts > cap), 0, SPREAD
    while len(missing):
        seen = caps.window(counts, missing, cap, spread)
        folder.write_table(f"{WORK}/windows/{number}-slots.parquet", pa.table({"slot": seen.slots}))
        folder.write_table(select.window_of(number), pa.table({"first": seen.first, "last": seen.last}))
        _whole(run_all(select.Look(folder, state, seed, number), buckets, engine, "cap"))
        below, slot, *inside = _seen(folder, buckets, number, len(missing))
        found, ranks, lows = caps.cut(below, slot, inside[0], inside[1], cap)
        rank[missing[found]], low[missing[found]] = ranks[found], lows[found]
        missing, number, spread = missing[~found], number + 1, spread * 4
    folder.write_table(select.LIMITS, pa.table({"rank": rank, "low": low}), {"state": state})


def _seen(folder: Folder, buckets: list[Bucket], number: int, slots: int):
    """Everything the buckets saw in one pass: (below, slot, rank, low)."""
    below, inside = np.zeros(slots, np.int64), []
    for bucket in buckets:
        below_name, inside_name = select.seen_in(number, bucket)
        below += folder.read_table(below_name)["below"].to_numpy()
        inside.append(folder.read_table(inside_name))
    table = pa.concat_tables(inside)
    return below, *(table[name].to_numpy() for name in ("slot", "rank", "low"))


def _report_queries(folder: Folder, listed: Queries, counts: np.ndarray, draws: np.ndarray, decides: dict) -> None:
    table = pa.table({"query": pa.array(listed.texts), "pairs": counts, "draws": draws})
    folder.write_table("reports/queries.parquet", table, decides)


def _whole(outcome: Outcome) -> Outcome:
    """The outcome of a step that the next one needs whole."""
    if outcome.failures:
        raise CurateError(f"{next(iter(outcome.failures.values()))}; delete {WORK} of the dataset and run again")
    return outcome
