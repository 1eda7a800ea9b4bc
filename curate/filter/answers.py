"""What conditions say of the rows of a table, found in the cheapest way that says the same as DuckDB.

A condition made of comparisons with constants (edges.py), conditions on columns of few values (few.py), IS NULL, AND,
OR and NOT is put together from what its parts say; any other is asked of DuckDB (predicate.py), row by row.
"""

import re
from typing import Any

import numpy as np
import pyarrow as pa

from curate.filter import arrays, edges, few, predicate
from curate.filter.predicate import Expression, Verdict

ROWS = 4096  # with fewer, DuckDB is as fast
COMPARISONS = {"COMPARE_GREATERTHAN": ">", "COMPARE_GREATERTHANOREQUALTO": ">=", "COMPARE_LESSTHAN": "<",
               "COMPARE_LESSTHANOREQUALTO": "<=", "COMPARE_EQUAL": "=", "COMPARE_NOTEQUAL": "<>"}  # fmt: skip
FLIPPED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "=": "=", "<>": "<>"}
NUMBERS = ("INTEGER", "NUMERIC")
# bounds of one kind and of few digits are compared in the same type whether they stand in one BETWEEN or in two halves
BOUND = re.compile(r"-?\d{1,9}(\.\d{1,9})?")


def conditions(table: pa.Table, expressions: list[Expression]) -> list[Verdict]:
    """What predicate.conditions says of each expression, in order. Raises CurateError."""
    found = [_known(table, expression) if len(table) >= ROWS else None for expression in expressions]
    asked = [expression for expression, known in zip(expressions, found, strict=True) if known is None]
    if not asked:
        return [known for known in found if known is not None]
    used = {name for expression in asked for name in expression.used(table.column_names)} or set(table.column_names)
    rest = predicate.conditions(table.select([name for name in table.column_names if name in used]), asked)
    return [next(rest) if known is None else known for known in found]


def _known(table: pa.Table, expression: Expression) -> Verdict | None:
    found = _joined(table, expression.tree, expression.where)
    if found is not None:
        return found
    used = expression.used(table.column_names)
    return few.looked_up(table, used[0], expression.sql, expression.where) if len(used) == 1 else None


def _joined(table: pa.Table, node: dict[str, Any], where: str) -> Verdict | None:
    """What a part of a condition says; None where any part of that must be asked row by row."""
    kind = node["type"]
    if kind in ("CONJUNCTION_AND", "CONJUNCTION_OR", "OPERATOR_NOT"):
        parts = [found for child in node["children"] if (found := _joined(table, child, where)) is not None]
        if len(parts) < len(node["children"]):
            return None
        return _not(parts[0]) if kind == "OPERATOR_NOT" else _all(parts) if kind == "CONJUNCTION_AND" else _any(parts)
    if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
        null = _null(table, node["children"][0])
        return None if null is None else (null if kind == "OPERATOR_IS_NULL" else ~null, np.zeros(len(table), bool))
    if kind == "COLUMN_REF":
        name = _name(table, node)
        column = None if name is None else table[name].combine_chunks()
        return arrays.holds(column) if column is not None and pa.types.is_boolean(column.type) else None
    if kind == "COMPARE_BETWEEN":
        return _between(table, node, where)
    if kind == "COMPARE_IN":
        name, words = _name(table, node["children"][0]), [_constant(child) for child in node["children"][1:]]
        if name is None or None in words:
            return None
        return few.looked_up(table, name, f"{_quoted(name)} IN ({', '.join(map(str, words))})", where)
    return _compared(table, node, where) if kind in COMPARISONS else None


def _compared(table: pa.Table, node: dict[str, Any], where: str) -> Verdict | None:
    operator, left, right = COMPARISONS[node["type"]], node["left"], node["right"]
    if right["type"] == "COLUMN_REF":
        operator, left, right = FLIPPED[operator], right, left
    name, constant = _name(table, left), _constant(right)
    if name is None or constant is None:
        return None
    if right["literal"]["kind"] in NUMBERS:
        found = edges.compared(table[name].combine_chunks(), operator, constant)
        if found is not None:
            return found
    return few.looked_up(table, name, f"{_quoted(name)} {operator} {constant}", where)


def _between(table: pa.Table, node: dict[str, Any], where: str) -> Verdict | None:
    name, bounds = _name(table, node["input"]), [_constant(node["lower"]), _constant(node["upper"])]
    kinds = {node[side].get("literal", {}).get("kind") for side in ("lower", "upper")}
    if name is None or len(kinds) > 1 or not all(bound and BOUND.fullmatch(bound) for bound in bounds):
        return None
    column = table[name].combine_chunks()
    least, most = edges.compared(column, ">=", str(bounds[0])), edges.compared(column, "<=", str(bounds[1]))
    return None if least is None or most is None else _all([least, most])


def _name(table: pa.Table, node: dict[str, Any]) -> str | None:
    """The one column that a part is, and nothing more."""
    path = [str(part).lower() for part in node.get("column_names", ())]
    found = [name for name in table.column_names if [name.lower()] == path]
    return found[0] if len(found) == 1 else None


def _constant(node: dict[str, Any]) -> str | None:
    """A number or text as SQL writes it."""
    literal = node.get("literal", {})
    if literal.get("kind") in NUMBERS:
        return str(literal["text"])
    return "'" + str(literal["text"]).replace("'", "''") + "'" if literal.get("kind") == "STRING" else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _null(table: pa.Table, node: dict[str, Any]) -> np.ndarray | None:
    """bool [rows]: the column that a part is has no value, NaN being none."""
    name = _name(table, node)
    if name is None:
        return None
    column = table[name].combine_chunks()
    return column.is_null(nan_is_null=pa.types.is_floating(column.type)).to_numpy(zero_copy_only=False)


def _not(of: Verdict) -> Verdict:
    true, null = of
    return ~(true | null), null


def _all(parts: list[Verdict]) -> Verdict:
    """AND: null where a part is null and none is false."""
    true, possible = parts[0][0].copy(), parts[0][0] | parts[0][1]
    for holds, null in parts[1:]:
        true &= holds
        possible &= holds | null
    return true, possible & ~true


def _any(parts: list[Verdict]) -> Verdict:
    """OR: null where a part is null and none is true."""
    true, null = np.logical_or.reduce([holds for holds, _ in parts]), np.logical_or.reduce([null for _, null in parts])
    return true, null & ~true
