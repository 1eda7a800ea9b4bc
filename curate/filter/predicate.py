"""SQL conditions on single rows, in a DuckDB that can reach no file, no network and no setting.

An expression passes three gates before it meets a row: it must parse as one expression (no second statement, no
subquery, no window), it may use only columns of the dataset and functions that give the same answer every day, and
DuckDB must accept it as a condition on one row (no aggregate). The database itself is locked besides.
"""

import contextlib
import difflib
import functools
import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate import named
from curate.arrow import compute
from curate.errors import CurateError
from curate.filter import arrays

LOCKED = {  # in this order: without external access the place for temporary files cannot be taken away
    "threads": "1",  # the engine runs many; and rows keep their order
    "memory_limit": "'2GB'",
    "max_execution_time": "60000",  # milliseconds for a query over one shard
    "error_on_division_by_zero": "false",  # it has no value then, and on_null says what becomes of the row
    "ieee_floating_point_ops": "false",  # ... of floats too
    "allow_persistent_secrets": "false",
    "allow_unsigned_extensions": "false",
    "temp_directory": "''",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}
FORBIDDEN = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a column number",
    "DEFAULT": "DEFAULT",
}

# they make of a few bytes as many as they are asked for, in vectors that DuckDB's limits of memory and time do not see
GROWING = frozenset({"range", "generate_series", "repeat", "lpad", "rpad", "list_resize", "array_resize", "format",
                     "printf", "bar", "bitstring", "space"})  # fmt: skip
NOTHING: Mapping[str, str] = MappingProxyType({})
Verdict = tuple[np.ndarray, np.ndarray]  # bool [rows] where a condition holds, bool [rows] where it is null


class Expression:
    """One SQL expression that passed the gates that need no table: its text, where it came from, its column names and
    DuckDB's syntax tree of it."""

    def __init__(self, sql: str, where: str):
        self.sql, self.where = sql, where
        self.columns, self.tree = _checked(sql, where)

    def bind(self, table: pa.Table, dataset: str, needs: Mapping[str, str] = NOTHING) -> str:
        """Its DuckDB type on `table`. Raises CurateError, naming the nearest column where one is unknown, or the
        command that measures it; `needs` says how, by signal."""
        known = {name.lower() for name in table.column_names}
        for path in self.columns:
            if not {part.lower() for part in path[:2]} & known:
                raise CurateError(f"{self.where}: {unknown_column(path[-1], table.column_names, dataset, needs)}")
        with database(table.slice(0, 0)) as connection:
            _run(connection, f"SELECT 1 FROM rows WHERE (\n{self.sql}\n) IS NOT NULL", self.where)
            return str(_run(connection, f"DESCRIBE SELECT (\n{self.sql}\n) AS value FROM rows", self.where)[0][1])

    def used(self, names: list[str]) -> list[str]:
        """Those of the columns `names` that it reads."""
        parts = {part.lower() for path in self.columns for part in path}
        return [name for name in names if name.lower() in parts]


def conditions(table: pa.Table, expressions: list[Expression]) -> Iterator[Verdict]:
    """For each expression, in order: bool [rows] where it holds, bool [rows] where it is null."""
    with database(table) as connection:
        values = _columns(connection, expressions, len(table))
    yield from map(arrays.holds, values)


def numbers(table: pa.Table, expression: Expression) -> np.ndarray:
    """float64 [rows], NaN where it is null."""
    if alone := _column_alone(table, expression):
        values = table[alone].combine_chunks()
        found, there = arrays.numbers(values).astype(np.float64), arrays.valid(values)
        return found if there is None else np.where(there, found, np.nan)
    with database(table) as connection:
        values = _column(connection, f"(\n{expression.sql}\n)::DOUBLE", expression, len(table))
    return values.to_numpy(zero_copy_only=False)


def _column_alone(table: pa.Table, expression: Expression) -> str | None:
    """The column of numbers that an expression is, where it is nothing more."""
    sql = expression.sql.strip().lower()
    found = [name for name in table.column_names if name.lower() == sql]
    if len(found) != 1 or len(expression.columns) != 1:
        return None
    kind = table.schema.field(found[0]).type
    return found[0] if pa.types.is_integer(kind) or pa.types.is_floating(kind) else None


def groups(table: pa.Table, expression: Expression) -> tuple[np.ndarray, pa.Array]:
    """(int64 rows, their groups as text): a value is one group, a list as many as it holds, null and [] none."""
    with database(table) as connection:
        values = _column(connection, f"(\n{expression.sql}\n)", expression, len(table))
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        rows, values = compute().list_parent_indices(values).to_numpy(), compute().list_flatten(values)
    else:
        rows = np.arange(len(values))
    there = compute().is_valid(values).to_numpy(zero_copy_only=False)
    return rows[there].astype(np.int64), values.filter(pa.array(there)).cast(pa.string())


@contextlib.contextmanager
def database(table: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    """The locked database with one table, `rows`: the Arrow table given."""
    with locked().cursor() as connection:
        connection.register("rows", plain(table))
        yield connection


def plain(table: pa.Table) -> pa.Table:
    """The table in types that DuckDB compares as one expects: NaN is null, half floats are floats, untyped is text."""
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_float16(field.type):
            column = column.cast(pa.float32())
        elif pa.types.is_null(field.type):
            column = column.cast(pa.string())
        if len(table) and pa.types.is_floating(
            column.type
        ):  # DuckDB orders NaN above every number: NaN > 0.3 would hold
            column = _without_nan(column.combine_chunks())
        table = table.set_column(index, field.name, column)
    return table


def _without_nan(column: pa.Array) -> pa.Array:
    values = arrays.numbers(column)
    nan, valid = np.isnan(values), arrays.valid(column)
    if not nan.any():
        return column
    return pa.array(values, mask=nan if valid is None else nan | ~valid)


def unknown_column(name: str, known: list[str], dataset: str, needs: Mapping[str, str] = NOTHING) -> str:
    """One line that says what to do about a column that is not there."""
    needed = [signal for signal in needs if name == signal or name.startswith(f"{signal}_")]
    if needed:
        text = named.called(str(named.parse(needs[needed[0]])), needed[0])
        return f"no column '{name}' yet; run: curate measure {dataset} \"{text}\""
    signals = [signal for signal in named.available("signals") if name == signal or name.startswith(f"{signal}_")]
    if signals:
        meant = [f"did you mean '{column}'? or " for column in difflib.get_close_matches(name, known, 1, 0.8)]
        return (
            f"no column '{name}' yet; {''.join(meant)}run: curate measure {dataset} {signals[-1]}{_lacks(signals[-1])}"
        )
    near = difflib.get_close_matches(name, [*known, *named.available("signals")], 1, 0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"no column '{name}'; {hint}the columns are: {', '.join(known)}"


def _lacks(signal: str) -> str:
    """What stands in the way of measuring a signal by its bare name: an option that it needs, a package."""
    try:
        named.load("signals", signal)
    except CurateError as error:
        return f" ({error})"
    return ""


@functools.lru_cache(maxsize=256)
def _checked(sql: str, where: str) -> tuple[tuple[tuple[str, ...], ...], dict[str, Any]]:
    """The column references of an expression, as dotted paths, and its syntax tree. Raises CurateError for what a step
    must not do."""
    tree = _parsed(sql, where)
    columns, bound = [], set()
    for node in _nodes(tree):
        kind, label = node.get("class"), node.get("type")
        if what := FORBIDDEN.get(str(kind)) or FORBIDDEN.get(str(label)):
            raise CurateError(f"{where}: {what} is not allowed in '{_short(sql)}'; a step is a condition on one row")
        if kind == "FUNCTION" and str(node["function_name"]).lower() in _changing_functions():
            raise CurateError(f"{where}: {node['function_name']}() changes from run to run or reaches beyond the row; "
                              f"a selection must not depend on it")  # fmt: skip
        if kind == "FUNCTION" and str(node["function_name"]).lower() in GROWING:
            raise CurateError(f"{where}: {node['function_name']}() can take any amount of memory and time; "
                              f"a recipe must do without it")  # fmt: skip
        if kind == "LAMBDA":
            bound |= {name for part in _nodes(node["lhs"]) for name in part.get("column_names", ())}
        if kind == "COLUMN_REF":
            columns.append(tuple(node["column_names"]))
    return tuple(path for path in columns if path[0] not in bound), tree


def _parsed(sql: str, where: str) -> dict[str, Any]:
    """DuckDB's own syntax tree of one expression."""
    if not sql.strip():
        raise CurateError(f"{where}: it is empty; write a condition such as clip > 0.28")
    try:
        # the parentheses stand on lines of their own, so that a comment at the end cannot swallow them
        with locked().cursor() as connection:
            found = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT (\n{sql}\n)"]).fetchall()
        tree = json.loads(found[0][0])
    except (duckdb.Error, RecursionError) as error:
        raise CurateError(f"{where}: cannot read '{_short(sql)}': {_short(str(error))}") from error
    if tree.get("error"):
        raise CurateError(f"{where}: cannot read '{_short(sql)}': {_short(tree['error_message'])}")
    node = tree["statements"][0]["node"] if len(tree["statements"]) == 1 else {}
    clauses = ("where_clause", "having", "qualify", "sample")
    bare = (node.get("type") == "SELECT_NODE" and node["from_table"]["type"] == "EMPTY" and not node["modifiers"]
            and not node["cte_map"]["map"] and not node["group_expressions"]
            and not any(node.get(clause) for clause in clauses))  # fmt: skip
    if not bare or len(node["select_list"]) != 1:
        raise CurateError(f"{where}: '{_short(sql)}' is not one condition")
    return node["select_list"][0]


@functools.lru_cache(maxsize=1)  # opening one takes longer than a query over a shard
def locked() -> duckdb.DuckDBPyConnection:
    """An empty database in memory that reaches nothing outside itself and whose settings are final."""
    connection = duckdb.connect(":memory:")
    for setting, value in LOCKED.items():
        connection.execute(f"SET GLOBAL {setting} = {value}")  # for every cursor
    return connection


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


@functools.lru_cache(maxsize=1)
def _changing_functions() -> frozenset[str]:
    """Those that DuckDB does not call consistent, and its macros that are made of them, of growing ones or of a query:
    pg_sleep() is a macro, and macros have no stability of their own."""
    query = "SELECT lower(function_name), stability, lower(macro_definition), function_type FROM duckdb_functions()"
    with locked().cursor() as connection:
        found = connection.execute(query).fetchall()
    changing = {name for name, stability, _, _ in found if stability not in (None, "CONSISTENT")}
    macros = [(name, set(re.findall(r"\w+", made))) for name, _, made, kind in found if kind == "macro"]
    while more := {name for name, words in macros if words & {*changing, *GROWING, "select"}} - changing:
        changing |= more
    return frozenset(changing)


def _columns(connection: duckdb.DuckDBPyConnection, expressions: list[Expression], rows: int) -> list[pa.Array]:
    """All conditions in one scan; where that fails, one by one, so that the error names its step."""
    casts = [f"(\n{expression.sql}\n)::BOOLEAN" for expression in expressions]
    if len(casts) > 1:
        with contextlib.suppress(duckdb.Error):
            query = ", ".join(f"{cast} AS value{number}" for number, cast in enumerate(casts))
            table = connection.sql(f"SELECT {query} FROM rows").to_arrow_table()
            if len(table) == rows:
                return [column.combine_chunks() for column in table.columns]
    return [_column(connection, cast, each, rows) for cast, each in zip(casts, expressions, strict=True)]


def _column(connection: duckdb.DuckDBPyConnection, sql: str, expression: Expression, rows: int) -> pa.Array:
    try:
        table = connection.sql(f"SELECT {sql} AS value FROM rows").to_arrow_table()
    except duckdb.Error as error:
        raise CurateError(f"{expression.where}: {_short(str(error))}") from error
    if len(table) != rows:
        raise CurateError(f"{expression.where}: '{_short(expression.sql)}' does not give one value for each row")
    return table["value"].combine_chunks()


def _run(connection: duckdb.DuckDBPyConnection, sql: str, where: str) -> list[Any]:
    try:
        return connection.execute(sql).fetchall()
    except duckdb.Error as error:
        raise CurateError(f"{where}: {_short(str(error))}") from error


def _short(text: str) -> str:
    line = " ".join(text.split("\n\n")[0].split())
    return line if len(line) <= 160 else f"{line[:157]}..."
