"""How each measured column is spread over the rows that are kept and dropped, and where a rule cuts it."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset

BINS = 48
VALUES = 8  # of a column of words; the others are counted together
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
COMPARISON = re.compile(r"\b([A-Za-z_]\w*)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w.])")


def cuts(dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    """column -> where the newest filter step cut it: plain comparisons with a number, and thresholds of a top share."""
    step = next((step for step in reversed(dataset.history) if step["stage"] == "filter"), None)
    found: dict[str, list[dict[str, Any]]] = {}
    for rule in (step or {"counts": {}})["counts"].get("funnel", []):
        for column, sign, number in COMPARISON.findall(rule["rule"]):
            found.setdefault(column, []).append({"sign": sign, "value": float(number), "step": rule["step"]})
        top = re.match(r"top \S+ by (\w+) of", rule["rule"])
        if top and "threshold" in rule:
            found.setdefault(top[1], []).append({"sign": ">=", "value": rule["threshold"], "step": rule["step"]})
    return found


def describe(rows: pa.Table, dataset: Dataset, cut: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One entry for each measured column: a histogram of numbers, or counts of words and yes/no."""
    found = []
    for name in sorted(rows.column_names):  # a manifest just read has its signals in another order
        if name in ("uid", "caption", "shard", "considered", "kept"):
            continue
        column, kept = rows[name].combine_chunks(), rows["kept"].to_numpy(zero_copy_only=False)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            entry = _histogram(column, kept)
        elif pa.types.is_string(column.type) or pa.types.is_boolean(column.type):
            entry = _words(column, kept)
        else:
            continue  # hashes, lists
        if entry:
            found.append({"column": name, "signal": _signal(name, dataset), "cuts": cut.get(name, []), **entry})
    return found


def _histogram(column: pa.Array, kept: np.ndarray) -> dict[str, Any] | None:
    values = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    there = np.isfinite(values)
    values, kept, missing = values[there], kept[there], int((~there).sum())
    if len(values) == 0:
        return None
    logarithmic = bool(values.min() > 0 and values.max() > 50 * max(np.median(values), 1e-12))
    edges = _edges(values, logarithmic, pa.types.is_integer(column.type))
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


def _edges(values: np.ndarray, logarithmic: bool, whole: bool) -> np.ndarray:
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
    words = pc.fill_null(column.cast(pa.string()), "(none)")
    counts = sorted(((row["values"], row["counts"]) for row in pc.value_counts(words).to_pylist()),
                    key=lambda item: (-item[1], item[0]))  # fmt: skip
    if not counts or len(counts) > max(200, len(words) // 4):
        return None  # names and texts, not categories
    keeps = {row["values"]: row["counts"] for row in pc.value_counts(words.filter(pa.array(kept))).to_pylist()}
    shown = [{"value": value, "count": count, "kept": keeps.get(value, 0)} for value, count in counts[:VALUES]]
    rest = counts[VALUES:]
    if rest:
        other = {"value": f"{len(rest)} others", "count": sum(count for _, count in rest)}
        shown.append({**other, "kept": sum(keeps.get(value, 0) for value, _ in rest)})
    return {"kind": "words", "values": shown}


def _signal(column: str, dataset: Dataset) -> str:
    """The spec of the signal that made a column: the longest name that begins it."""
    names = [name for name in dataset.signals if column.startswith(name)]
    return dataset.signals[max(names, key=len)] if names else ""
