"""Numbers compared with a constant: DuckDB is asked where the comparison begins to hold, NumPy compares the rows.

`clip >= 0.3` holds from some value of the column on. Which one depends on what DuckDB makes of 0.3 beside a float or a
large integer, so none of that is repeated here: it is asked about up to 65,536 values of the column's type in order,
then about those between the two where its answer turns, until one is left.
"""

import functools

import numpy as np
import pyarrow as pa

from curate.errors import CurateError
from curate.filter import arrays, predicate
from curate.filter.predicate import Expression, Verdict

AT_ONCE = 1 << 16  # values in one question


def compared(column: pa.Array, operator: str, number: str) -> Verdict | None:
    """What DuckDB says of `column operator number`, the number as SQL writes it, where NaN is no value; None where it
    must be asked itself: the column holds no numbers, or it cannot compare them all with this one."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        return None
    values, there = arrays.numbers(column), arrays.valid(column)
    holds = _holds(values, kind, operator, number)
    if holds is None:
        return None
    null = np.zeros(len(values), bool) if there is None else ~there
    if pa.types.is_floating(kind):
        null |= np.isnan(values)
    return holds & ~null if null.any() else holds, null


def _holds(values: np.ndarray, kind: pa.DataType, operator: str, number: str) -> np.ndarray | None:
    if operator in ("=", "<>"):
        least, most = _holds(values, kind, ">=", number), _holds(values, kind, "<=", number)
        if least is None or most is None:
            return None
        return least & most if operator == "=" else ~(least & most)
    edge = _edge(kind, operator, number)
    if edge is None:
        return None
    if edge == _values(kind):
        behind = np.zeros(len(values), bool)
    else:
        behind = values >= _ordered(kind, np.array([edge], np.uint64))[0]
    return behind if operator.startswith(">") else ~behind


@functools.lru_cache(maxsize=1024)
def _edge(kind: pa.DataType, operator: str, number: str) -> int | None:
    """The place, among all values of a type in order, of the first that is `> number`, or is not `< number`; one behind
    the last where none is. None where DuckDB does not say."""
    expression = Expression(f"x {operator} {number}", "a comparison")
    first, last = 0, _values(kind)  # the edge lies between the two or is one of them
    while first < last:
        step = -(-(last - first) // AT_ONCE)
        places = np.uint64(first) + np.arange(-(-(last - first) // step), dtype=np.uint64) * np.uint64(step)
        try:
            rows = pa.table({"x": arrays.of(_ordered(kind, places))})
            holds, null = next(predicate.conditions(rows, [expression]))
        except CurateError:
            return None
        behind = holds if operator.startswith(">") else ~holds
        before = int(np.count_nonzero(~behind))
        if null.any() or behind[:before].any():
            return None
        last = int(places[before]) if before < len(places) else last
        first = int(places[before - 1]) + 1 if before else first
    return first


def _values(kind: pa.DataType) -> int:
    """How many values a type has, NaN aside; -0 and 0 are two."""
    if pa.types.is_integer(kind):
        return 1 << kind.bit_width
    return 2 * int(_bits(np.array([np.inf], kind.to_pandas_dtype()))[0]) + 2


def _ordered(kind: pa.DataType, places: np.ndarray) -> np.ndarray:
    """The values at uint64 places among all those of a type, smallest first."""
    sign = 1 << (kind.bit_width - 1)
    if pa.types.is_unsigned_integer(kind):
        return places.astype(kind.to_pandas_dtype())
    if pa.types.is_integer(kind):
        return (places ^ np.uint64(sign)).astype(f"u{kind.bit_width // 8}").view(kind.to_pandas_dtype())
    half = np.uint64(_values(kind) // 2)  # so many are negative, -0 the last of them
    bits = np.where(places < half, np.uint64(sign) + (half - np.uint64(1) - places), places - half)
    return bits.astype(f"u{kind.bit_width // 8}").view(kind.to_pandas_dtype())


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.dtype.itemsize}")
