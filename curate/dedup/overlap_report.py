"""What is written about a benchmark: the matches, the images left out, those it holds twice, and the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dedup import significance
from curate.dedup.measured import UNREADABLE, Measured, twins
from curate.dedup.overlap import Overlap
from curate.dedup.pool import Pool
from curate.dedup.predictions import Predictions
from curate.files import Folder
from curate.words import counted

NAMED = 3  # unreadable images in the summary; all are in reports/excluded-<benchmark>.parquet


def write(folder: Folder, pool: Pool, measured: Measured, found: Overlap, made_by: dict[str, Any]) -> dict[str, Any]:
    """Write reports/overlap-, excluded- and inside-<benchmark>.parquet; the numbers for the history come back."""
    rows = pool.find(found.matches["shard"], found.matches["uid"])
    matches = found.matches.filter(pa.array(rows >= 0))
    inside, excluded = twins(measured), measured.excluded()
    made_by = {**made_by, "benchmark": measured.digest}
    for kind, table in (("overlap", matches), ("excluded", excluded), ("inside", inside)):
        folder.write_table(f"reports/{kind}-{measured.name}.parquet", table, made_by)
    overlapping = len(matches["benchmark_key"].unique())
    return {
        "images": len(measured),
        "compared": found.compared,
        **measured.counts(),
        "overlapping": overlapping,
        "share": round(100 * overlapping / max(len(measured), 1), 3),  # per cent
        "pool_rows": len(np.unique(rows[rows >= 0])),
        "twins": len(inside),
        **found.numbers,
    }


def summary(measured: Measured, numbers: dict[str, Any]) -> str:
    """One sentence."""
    told = (
        f"benchmark {measured.name}: {numbers['overlapping']:,} of {counted(numbers['images'], 'image')} "
        f"({numbers['share']:.1f} %) found in the pool, {counted(numbers['pool_rows'], 'pair')} dropped"
    )
    if numbers["confirmed"]:
        told += f", {counted(numbers['confirmed'], 'match')} by local features alone"
    unchecked = numbers["candidates"] - numbers["checked"]
    if numbers["checked"] and unchecked:
        told += f", {unchecked:,} of {numbers['candidates']:,} candidates not looked at (--candidates)"
    left_out = [
        f"{numbers[reason]:,} {reason.replace('_', ' ')}" for reason in ("blank", "low_quality") if numbers[reason]
    ]
    if left_out:
        told += f", left out: {' and '.join(left_out)}"
    if numbers[UNREADABLE]:
        excluded = measured.excluded()
        keys = excluded.filter(pa.compute.equal(excluded["reason"], UNREADABLE))["benchmark_key"].to_pylist()
        more = ", ..." if len(keys) > NAMED else ""
        told += f", {numbers[UNREADABLE]:,} unreadable: {', '.join(keys[:NAMED])}{more}"
    return told


def check_predictions(told: Mapping[str, Predictions], measured: Sequence[Measured]) -> None:
    """Raises CurateError, before the pool is searched, for predictions that know no image of their benchmark."""
    for each in measured:
        if each.name in told:
            told[each.name].of(each.keys.to_pylist(), each.name)


def contamination(folder: Folder, told: Mapping[str, Predictions], measured: Sequence[Measured],
                  found: Mapping[str, Overlap]) -> dict[str, Any]:  # fmt: skip
    """Write reports/contamination.json: what overlap does to the accuracy on each benchmark that has predictions."""
    numbers = {}
    for each in measured:
        if each.name in told:
            keys = each.keys.to_pylist()
            known, correct = told[each.name].of(keys, each.name)
            held = set(found[each.name].matches["benchmark_key"].to_pylist())
            overlapping = np.array([key in held for key in keys], bool)
            numbers[each.name] = {
                "predictions": told[each.name].path,
                "without_prediction": int((~known).sum()),
                **significance.contamination(correct[known], overlapping[known]),
            }
    numbers = significance.corrected(numbers)
    folder.write_json("reports/contamination.json", numbers)
    return numbers


def table(numbers: Mapping[str, Any]) -> str:
    """What `contamination` found, one line for each benchmark."""
    head = [
        "benchmark",
        "images",
        "overlap",
        "all",
        "clean",
        "overlap",
        "all-clean",
        "99.5 % interval",
        "p",
        "corrected",
    ]
    rows = [head]
    for name, found in numbers.items():
        shares = [_percent(found[part]["accuracy"]) for part in ("all", "clean", "overlap")]
        interval = f"{found['interval'][0]:.1%} to {found['interval'][1]:.1%}" if found["interval"] else "-"
        chances = ["-" if p is None else f"{p:.2g}" for p in (found["p"], found["p_corrected"])]
        mark = " *" if found["significant"] else ""
        rows.append([name, f"{found['all']['images']:,}", f"{found['overlap']['images']:,}", *shares,
                     _percent(found["difference"], "+"), interval, chances[0], chances[1] + mark])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _percent(share: float | None, sign: str = "") -> str:
    return "-" if share is None else f"{100 * share:{sign}.2f} %"
