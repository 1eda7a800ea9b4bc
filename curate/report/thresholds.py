"""What a threshold does: for every column of numbers, how many pairs lie in each bin and fail which other steps.

The page holds these counts, not the rows: a slider that moves over the bins recounts what would be kept, given the
verdicts of the other steps as they were made (a share such as "top 30%" is not ranked anew). Counts are exact, since
the edges of the bins are the thresholds that the slider offers, and each cut of the recipe is one of them.
"""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.report.conjunctions import COMPARISON, split
from curate.report.rows import ELSEWHERE, Rows

BINS = 100  # thresholds of a slider, about
MASKS = 48  # combinations of failed steps that are told apart; rarer ones count as failing every step
TOP = re.compile(r"top \S+ by (\w+) of (?:pool|survivors)(?:, at least \S+)?")


def explorer(rows: Rows, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """`rules` (name, rule, on_null), `masks` (the steps that fail together), and for each column its thresholds and
    counts [mask][bin], the last bin holding the pairs without a value. None where nothing can be cut."""
    base, steps = split(rows.table.filter(rows.table["considered"]), steps)
    masks, place = _masks(base["failed"].to_numpy(), len(steps))
    columns = [column for name in rows.columns if (column := _column(name, base, steps, place, len(masks)))]
    if not columns or not len(base):
        return None
    rules = [{"name": step["step"], "rule": step["rule"]} for step in steps]
    if any(len(steps) in mask for mask in masks):
        rules.append({"name": "another selection", "rule": "dropped by a selection made since"})
    return {"rows": len(base), "rules": rules, "masks": masks, "complete": rows.complete, "columns": columns}


def own_cut(rule: str) -> tuple[str, str, float | None] | None:
    """(column, sign, value) of a step that is one comparison with a number, or the top share of a column (no value: its
    threshold is counted); None for every other step."""
    if found := COMPARISON.fullmatch(rule):
        return found[1], found[2], float(found[3])
    found = TOP.fullmatch(rule)
    return (found[1], ">=", None) if found else None


def _masks(failed: np.ndarray, steps: int) -> tuple[list[list[int]], np.ndarray]:
    """The combinations of failed steps, the most frequent first, and which of them each row has."""
    values, place, counts = np.unique(failed, return_inverse=True, return_counts=True)
    order = np.lexsort((values, -counts))
    told = order[: MASKS - 1] if len(order) > MASKS else order
    new = np.full(len(values), len(told))
    new[told] = np.arange(len(told))
    masks = [_bits(int(values[at]), steps) for at in told]
    if len(told) < len(values):
        masks.append(list(range(steps)))
    return masks, new[place]


def _bits(mask: int, steps: int) -> list[int]:
    found = [bit for bit in range(steps) if mask >> bit & 1]
    return [*found, steps] if mask >> ELSEWHERE & 1 else found


def _column(name: str, base: pa.Table, steps: list[dict[str, Any]], place: np.ndarray, masks: int
            ) -> dict[str, Any] | None:  # fmt: skip
    kind = base[name].type
    whole, single = pa.types.is_integer(kind), pa.types.is_float32(kind)
    if not whole and not pa.types.is_floating(kind):
        return None
    values = pc.fill_null(base[name].cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    there = values[np.isfinite(values)]
    if not len(there) or there.min() == there.max():
        return None
    cut = _cut(name, steps)
    edges = nice_edges(there, whole)
    at = None
    if cut is not None:
        at = int(np.argmin(np.abs(np.array(edges) - cut["value"])))
        edges = sorted({*(edge for edge in edges if edge != edges[at]), cut["value"]})
        at = edges.index(cut["value"])
    over = cut is not None and cut["sign"] in (">", "<=")
    exact = np.array(edges, np.float32).astype(float) if single else np.array(edges, float)
    if over and at is not None:
        exact[at] = np.nextafter(np.float32(exact[at]) if single else exact[at], np.inf)
    bins = np.searchsorted(exact, values, side="right")
    bins[~np.isfinite(values)] = len(edges) + 1
    width = len(edges) + 2
    counts = np.bincount(place * width + bins, minlength=masks * width).reshape(masks, width)
    return {
        "column": name,
        "edges": [float(edge) for edge in edges],
        "above": cut is None or cut["sign"] in (">", ">="),
        "over": bool(over),  # the threshold of the recipe itself keeps only what lies over it, or drops only that
        "cut": at,
        "step": cut["index"] if cut else None,
        "keeps_missing": bool(cut and cut["on_null"] == "keep"),
        "low": float(there.min()),
        "high": float(there.max()),
        "counts": counts.tolist(),
    }


def _cut(name: str, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first step that cuts this column and nothing else."""
    for index, step in enumerate(steps):
        found = own_cut(step["rule"])
        value = found and (step.get("threshold") if found[2] is None else found[2])
        if found and found[0] == name and value is not None:
            return {"index": index, "sign": found[1], "value": float(value), "on_null": step.get("on_null")}
    return None


def nice_edges(values: np.ndarray, whole: bool, bins: int = BINS) -> list[float]:
    """About `bins` round thresholds between the smallest and the largest value, few where almost no value lies; their
    steps are equal, or grow where the values reach over several powers of ten."""
    low, high = np.quantile(values, [0.001, 0.999])
    if low == high:
        low, high = values.min(), values.max()
    if values.min() > 0 and high > 50 * max(float(np.median(values)), 1e-12):
        points = np.geomspace(low, high, bins)
        edges = {float(f"{point:.2g}") for point in points}
    else:
        rough = (high - low) / bins
        unit = 10.0 ** np.floor(np.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
        step = max(1.0, round(step)) if whole else step
        first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
        edges = {float(f"{at * step:.10g}") for at in range(first, last + 1)}
    if whole:
        edges = {float(np.ceil(edge)) for edge in edges}
    return sorted(edges) or [float(np.median(values))]
