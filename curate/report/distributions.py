"""How each measured column is spread over the rows that are kept and dropped, and where a rule cuts it."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.report.rows import Rows

BINS = 48
VALUES = 8  # of a column of words; the others are counted together
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
COMPARISON = re.compile(r"\b([A-Za-z_]\w*)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.])")


def cuts(steps: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """column -> where the steps of a filter cut it: plain comparisons with a number, and thresholds of a top share."""
    found: dict[str, list[dict[str, Any]]] = {}
    for rule in steps:
        for column, sign, number in COMPARISON.findall(rule["rule"]):
            found.setdefault(column, []).append({"sign": sign, "value": float(number), "step": rule["step"]})
        top = re.match(r"top \S+ by (\w+) of", rule["rule"])
        if top and "threshold" in rule:
            found.setdefault(top[1], []).append({"sign": ">=", "value": rule["threshold"], "step": rule["step"]})
    return found


def describe(rows: Rows, cut: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One entry for each column: a histogram of numbers, or counts of words and yes/no; the measured ones first."""
    found = []
    kept = rows.table["kept"].to_numpy(zero_copy_only=False)
    for name in sorted(rows.columns, key=lambda name: (name not in rows.owners, name)):
        column = rows.table[name].combine_chunks()
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            entry = _histogram(column, kept)
        else:
            entry = _words(column, kept)
        if entry:
            found.append({"column": name, "signal": rows.owners.get(name, ""), "cuts": cut.get(name, []), **entry})
    return found


def _histogram(column: pa.Array, kept: np.ndarray) -> dict[str, Any] | None:
    values = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    there = np.isfinite(values)
    values, kept, missing = values[there], kept[there], int((~there).sum())
    if len(values) == 0:
        return None
    logarithmic = is_logarithmic(values)
    edges = edges_of(values, logarithmic, pa.types.is_integer(column.type))
    return {
        "kind": "numbers",
        "logarithmic": logarithmic,
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "kept": np.histogram(values[kept], edges)[0].tolist(),
        "dropped": np.histogram(values[~kept], edges)[0].tolist(),
        "missing": missing,
        "mean": float(values.mean()),
        "quantiles": {str(share): float(np.quantile(values, share)) for share in QUANTILES},
        "least": float(values.min()),
        "most": float(values.max()),
    }


def finite(column: pa.ChunkedArray) -> np.ndarray:
    """float64: the values of a column of numbers that are there and finite."""
    values = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()
    return values[np.isfinite(values)]


def is_logarithmic(values: np.ndarray) -> bool:
    """Whether values reach so far above their middle that a plain axis would hide it."""
    return bool(values.min() > 0 and values.max() > 50 * max(np.median(values), 1e-12))


def edges_of(values: np.ndarray, logarithmic: bool, whole: bool) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    if logarithmic:
        edges = np.geomspace(low, high, BINS + 1)
    elif whole:
        width = max(1, int(np.ceil((high - low + 1) / BINS)))
        edges = np.arange(low, high + width + 1, width) - 0.5
    else:
        edges = np.linspace(low, high, BINS + 1)
    if not whole or logarithmic:
        edges[0], edges[-1] = low, high  # rounding must not leave out the ends
    return edges


def _words(column: pa.Array, kept: np.ndarray) -> dict[str, Any] | None:
    every, keeps = (counts_of(rows) for rows in (column, column.filter(pa.array(kept))))
    counts = sorted(every.items(), key=lambda item: (-item[1], item[0]))
    if not counts or len(counts) > max(200, len(column) // 4):
        return None  # names and texts, not categories
    shown = [{"value": value, "count": count, "kept": keeps.get(value, 0)} for value, count in counts[:VALUES]]
    rest = counts[VALUES:]
    if rest:
        other = {"value": f"{len(rest)} others", "count": sum(count for _, count in rest)}
        shown.append({**other, "kept": sum(keeps.get(value, 0) for value, _ in rest)})
    return {"kind": "words", "values": shown}


def counts_of(column: pa.Array) -> dict[str, int]:
    """How often each value stands; yes and no for truths, "(none)" for nulls."""
    found = {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}
    names = {None: "(none)", True: "yes", False: "no"} if pa.types.is_boolean(column.type) else {None: "(none)"}
    return {names.get(value, value): count for value, count in found.items()}
