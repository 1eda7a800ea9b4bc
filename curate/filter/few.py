"""Conditions on a column of few values: DuckDB is asked once about each value, not about each row.

A condition reads one row and says the same of the same value (predicate.py sees to it), so what it says of every small
whole number, or of every word of a dictionary, is a table to look rows up in; it holds for all shards of a process.
"""

import functools

import numpy as np
import pyarrow as pa

from curate.errors import CurateError
from curate.filter import arrays, predicate
from curate.filter.predicate import Expression, Verdict

SMALL = 1 << 14  # whole numbers from 0 to below this
WORDS = 256


def looked_up(table: pa.Table, name: str, sql: str, where: str) -> Verdict | None:
    """What DuckDB says of a condition that reads only the column `name`; None where that has nulls or many values."""
    column = table[name].combine_chunks()
    if column.null_count:
        return None
    if pa.types.is_integer(column.type) and column.type.bit_width > 8:
        at = arrays.numbers(column)
        if len(at) and (at.min() < 0 or at.max() >= SMALL):
            return None
        verdict = _of_numbers(sql, where, name, column.type)
    elif isinstance(column, pa.DictionaryArray) and pa.types.is_string(column.type.value_type):
        words = column.dictionary
        if len(words) > WORDS or words.null_count:
            return None
        at = arrays.numbers(column.indices)
        verdict = _of_words(sql, where, name, tuple(words.to_pylist()))
    else:
        return None
    if verdict is None:
        return None
    true, null = verdict
    return arrays.looked_up(true, at), arrays.looked_up(null, at) if null.any() else np.zeros(len(at), bool)


@functools.lru_cache(maxsize=64)
def _of_numbers(sql: str, where: str, name: str, kind: pa.DataType) -> Verdict | None:
    return _asked(sql, where, pa.table({name: arrays.of(np.arange(SMALL, dtype=kind.to_pandas_dtype()))}))


@functools.lru_cache(maxsize=1024)
def _of_words(sql: str, where: str, name: str, words: tuple[str, ...]) -> Verdict | None:
    return _asked(sql, where, pa.table({name: pa.array(words, pa.string())}))


def _asked(sql: str, where: str, values: pa.Table) -> Verdict | None:
    """None where a value that may not be among the rows has no answer: then the rows themselves are asked."""
    try:
        return next(iter(predicate.conditions(values, [Expression(sql, where)])))
    except CurateError:
        return None
