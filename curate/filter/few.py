"""Conditions on a column of few values: DuckDB is asked once about each value, not about each row.

A condition reads one row and says the same of the same value (predicate.py sees to it), so what it says of every small
whole number, or of every word of a dictionary, is a table to look rows up in; it holds for all shards of a process.
"""

import functools

import numpy as np
import pyarrow as pa

from curate.errors import CurateError
from curate.filter import arrays, predicate
from curate.filter.predicate import Expression

Verdict = tuple[np.ndarray, np.ndarray]  # bool [rows] where a condition holds, bool [rows] where it is null
ROWS = 4096  # with fewer, DuckDB is as fast
SMALL = 1 << 14  # whole numbers from 0 to below this
WORDS = 256


def conditions(table: pa.Table, expressions: list[Expression]) -> list[Verdict]:
    """What predicate.conditions says of each expression, in order. Raises CurateError."""
    found = [_looked_up(table, expression) for expression in expressions]
    asked = [expression for expression, known in zip(expressions, found, strict=True) if known is None]
    if not asked:
        return [known for known in found if known is not None]
    used = {name for expression in asked for name in expression.used(table.column_names)} or set(table.column_names)
    rest = predicate.conditions(table.select([name for name in table.column_names if name in used]), asked)
    return [next(rest) if known is None else known for known in found]


def _looked_up(table: pa.Table, expression: Expression) -> Verdict | None:
    used = expression.used(table.column_names)
    if len(used) != 1 or len(table) < ROWS:
        return None
    column = table[used[0]].combine_chunks()
    if column.null_count:
        return None
    if pa.types.is_integer(column.type) and column.type.bit_width > 8:
        at = arrays.numbers(column)
        if at.min() < 0 or at.max() >= SMALL:
            return None
        verdict = _of_numbers(expression.sql, expression.where, used[0], column.type)
    elif isinstance(column, pa.DictionaryArray) and pa.types.is_string(column.type.value_type):
        words = column.dictionary
        if len(words) > WORDS or words.null_count:
            return None
        at = arrays.numbers(column.indices)
        verdict = _of_words(expression.sql, expression.where, used[0], tuple(words.to_pylist()))
    else:
        return None
    if verdict is None:
        return None
    true, null = verdict
    return true[at], null[at] if null.any() else np.zeros(len(at), bool)


@functools.lru_cache(maxsize=64)
def _of_numbers(sql: str, where: str, name: str, kind: pa.DataType) -> Verdict | None:
    return _asked(sql, where, pa.table({name: arrays.column(np.arange(SMALL, dtype=kind.to_pandas_dtype()))}))


@functools.lru_cache(maxsize=1024)
def _of_words(sql: str, where: str, name: str, words: tuple[str, ...]) -> Verdict | None:
    return _asked(sql, where, pa.table({name: arrays.texts(list(words))}))


def _asked(sql: str, where: str, values: pa.Table) -> Verdict | None:
    """None where a value that may not be among the rows has no answer: then the rows themselves are asked."""
    try:
        return next(iter(predicate.conditions(values, [Expression(sql, where)])))
    except CurateError:
        return None
