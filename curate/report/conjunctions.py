"""Steps such as "words > 2 and characters > 5" taken apart, so that each comparison can be tried on its own."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COMPARISON = re.compile(r"\s*\(?\s*([A-Za-z_]\w*)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*\)?\s*")
LAST = 63  # the bit of pairs that another selection drops, which stays where it is


def split(base: pa.Table, steps: list[dict[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The rows and the steps with every step that joins comparisons by AND replaced by one step for each comparison.

    A step stays whole where its parts do not give exactly the verdicts that it gave.
    """
    old = base["failed"].to_numpy()
    told: list[dict[str, Any]] = []
    new = old & np.uint64(1 << LAST)
    for index, step in enumerate(steps):
        whole = (old >> np.uint64(index) & np.uint64(1)).astype(bool)
        parts = _parts(base, step, whole)
        for part, failed in parts or [(step, whole)]:
            if len(told) == LAST:
                return base, steps
            new = new | failed.astype(np.uint64) << np.uint64(len(told))
            told.append(part)
    place = base.column_names.index("failed")
    return base.set_column(place, "failed", pa.array(new)), told


def _parts(base: pa.Table, step: dict[str, Any], whole: np.ndarray) -> list[tuple[dict[str, Any], np.ndarray]]:
    """(step, bool [rows] failed) of each comparison; nothing where the step is no such conjunction."""
    words = re.split(r"\s+and\s+", step["rule"], flags=re.IGNORECASE)
    found = [COMPARISON.fullmatch(part) for part in words]
    if len(words) < 2 or not all(match and match[1] in base.column_names for match in found):
        return []
    parts = []
    for part, match in zip(words, found, strict=True):
        assert match
        column = base[match[1]]
        if not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
            return []
        values = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()
        failed = ~_holds(values, match[2], limit(match[3], column.type))
        failed[np.isnan(values)] = step.get("on_null") != "keep"
        name = f"{step['step']}: {part.strip()}" if step["step"] != step["rule"] else part.strip()
        parts.append(({**step, "step": name, "rule": part.strip()}, failed))
    joined = np.logical_or.reduce([failed for _, failed in parts])
    return parts if np.array_equal(joined, whole) else []


def limit(number: str, kind: pa.DataType) -> float:
    """A number as SQL compares it with a column: in the column's own precision."""
    return float(np.float32(number)) if pa.types.is_float32(kind) else float(number)


def _holds(values: np.ndarray, sign: str, number: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        compare = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}[sign]
        return compare(values, number)
