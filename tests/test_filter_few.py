"""What is asked once of each value, or of where a comparison turns, is what is asked of each row."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate.errors import CurateError
from curate.filter import answers, edges, predicate
from curate.filter.predicate import Expression

ROWS = 5000
FLOATS = {"single": (np.float32, pa.float32()), "double": (np.float64, pa.float64())}
INTEGERS = {"tiny": pa.int8(), "small": pa.int16(), "whole": pa.int32(), "large": pa.int64(), "byte": pa.uint8(),
            "counter": pa.uint32(), "huge": pa.uint64()}  # fmt: skip
CONSTANTS = ["0", "-0.0", "1", "0.28", "0.3", "-0.5", "28e-2", "0.1e0", "16777217", "16777217.0", "9007199254740993",
             "9007199254740993.5", "2147483648", "127.5", "255", "-129", "9223372036854775807", "9223372036854775808",
             "-9223372036854775808", "18446744073709551615", "18446744073709551616", "1e39", "-1e300", "5e-324",
             "0.30000000000000004", "0.299999999999999988897769753748", "100000000000000000000000000000000000000",
             "12345678901234567890123456789012345678901234567890"]  # fmt: skip


def table(**columns) -> pa.Table:
    rng = np.random.default_rng(0)
    words = pa.array(rng.choice(["en", "de", "", "日本"], ROWS)).dictionary_encode()
    small = pa.array(rng.integers(0, 300, ROWS), pa.int32())
    return pa.table({"language": words, "words": small, "score": rng.random(ROWS).astype(np.float32), **columns})


def numbers() -> pa.Table:
    """A column of every type of number, with and without holes: ends, neighbours of constants, random values."""
    rng, columns = np.random.default_rng(2), {}
    near = np.array([float(text) for text in CONSTANTS])
    for name, (kind, of) in FLOATS.items():
        with np.errstate(over="ignore"):
            values = [np.nextafter(near.astype(kind), kind(way)) for way in (-np.inf, np.inf)]
            values = np.concatenate([near.astype(kind), *values, [np.nan, np.inf, -np.inf, 0.0, -0.0]]).astype(kind)
        columns[name] = pa.array(rng.choice(values, ROWS), of)
    for name, of in INTEGERS.items():
        ends = np.iinfo(of.to_pandas_dtype())
        close = {int(float(text)) + step for text in CONSTANTS for step in (-1, 0, 1)} | {ends.min, ends.max}
        within = np.array([value for value in close if ends.min <= value <= ends.max], ends.dtype)
        columns[name] = pa.array(rng.choice(within, ROWS), of)
    holes = {f"{name}_holes": pa.array(column.to_pylist(), column.type, mask=rng.random(ROWS) < 0.1)
             for name, column in columns.items()}  # fmt: skip
    flag = pa.array(rng.random(ROWS) < 0.5, pa.bool_(), mask=rng.random(ROWS) < 0.3)
    return table(**columns, **holes, flag=flag)


NUMBERS = numbers()
NAMED = [name for name in NUMBERS.column_names if name not in ("language", "flag")]
COMPARISONS = st.builds(
    "{} {} {}".format, st.sampled_from(NAMED), st.sampled_from(["<", "<=", ">", ">=", "=", "<>"]),
    st.sampled_from(CONSTANTS) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.integers(-(2**65), 2**65).map(str) | st.decimals(-1, 1, places=4, allow_nan=False).map(str),
)  # fmt: skip
LEAVES = st.one_of(
    COMPARISONS,
    st.builds("{} {} {}".format, st.sampled_from(CONSTANTS), st.sampled_from(["<", ">=", "="]), st.sampled_from(NAMED)),
    st.builds("{} BETWEEN {} AND {}".format, st.sampled_from(NAMED), st.sampled_from(CONSTANTS),
              st.sampled_from(CONSTANTS)),
    st.builds("{} IS {}NULL".format, st.sampled_from([*NAMED, "language", "flag"]), st.sampled_from(["", "NOT "])),
    st.sampled_from(["flag", "language = 'en'", "language <> 'de'", "language IN ('de', 'it''s')", "words IN (1, 7)",
                     "language LIKE '%e%'", "words % 7 = 0", "NULL", "true", "'en' < language"]),
)  # fmt: skip
CONDITIONS = st.recursive(
    LEAVES,
    lambda part: st.one_of(st.builds("({} AND {})".format, part, part), st.builds("({} OR {})".format, part, part),
                           part.map("(NOT {})".format)),
    max_leaves=5,
)  # fmt: skip


def said(conditions, sql: str) -> list[list[bool]] | str:
    try:
        (verdict,) = conditions(NUMBERS, [Expression(sql, "step 's'")])
    except CurateError as error:
        return str(error)
    return [part.tolist() for part in verdict]


@pytest.mark.slow
@settings(max_examples=60)
@given(CONDITIONS)
@example("single > 0.28")
@example("single >= 16777217")
@example("single BETWEEN 16777217 AND 1e39")
@example("NOT (flag AND single_holes > 0.28 OR large = 9007199254740993)")
def test_every_condition_on_numbers_says_what_duckdb_says_of_each_row(sql):
    assert said(answers.conditions, sql) == said(predicate.conditions, sql)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("operator", ["<", "<=", ">", ">=", "=", "<>"])
def test_no_row_is_asked_what_a_number_is_beside_a_constant(name, operator):
    holds, null = edges.compared(NUMBERS[name].combine_chunks(), operator, "0.25")
    (wanted,) = predicate.conditions(NUMBERS, [Expression(f"{name} {operator} 0.25", "step 's'")])
    assert np.array_equal(holds, wanted[0])
    assert np.array_equal(null, wanted[1])


@pytest.mark.parametrize(
    "sql",
    ["language = 'en'", "language IS NULL", "length(language) > 1", "language IN ('de', 'en')", "words > 2",
     "words % 7 = 0", "nullif(words, 3) > 2", "words / 0 > 1", "typeof(words) = 'INTEGER'", "words > score * 100",
     "words::TINYINT >= 0 OR true", "score > 0.3", "true"],
)  # fmt: skip
def test_every_condition_says_the_same_of_values_and_of_rows(sql):
    rows, expressions = table(), [Expression(sql, "step 's'"), Expression("score < 0.5", "step 't'")]
    said = answers.conditions(rows, expressions[:1]), answers.conditions(rows, expressions)
    wanted = list(predicate.conditions(rows, expressions))
    for found, of in zip(said, (wanted[:1], wanted), strict=True):
        for (true, null), (really, nothing) in zip(found, of, strict=True):
            assert np.array_equal(true, really)
            assert np.array_equal(null, nothing)


def test_nulls_large_and_negative_numbers_are_asked_row_by_number():
    rng = np.random.default_rng(1)
    odd = {"holes": pa.array(np.arange(ROWS), pa.int32(), mask=rng.random(ROWS) < 0.1),
           "large": pa.array(rng.integers(-5, 2**40, ROWS))}  # fmt: skip
    for sql in ("holes > 7", "holes IS NULL", "large > 100"):
        expression = Expression(sql, "step 's'")
        (found,), (wanted,) = (
            answers.conditions(table(**odd), [expression]),
            predicate.conditions(table(**odd), [expression]),
        )
        assert np.array_equal(found[0], wanted[0])
        assert np.array_equal(found[1], wanted[1])


def test_a_value_that_no_row_has_cannot_fail_a_step():
    rows = pa.table({"words": pa.array(np.arange(ROWS) % 100, pa.int16())})
    (found,) = answers.conditions(rows, [Expression("words::TINYINT * 1 > 50", "step 's'")])
    assert found[0].sum() == ROWS // 100 * 49
    with pytest.raises(CurateError, match="step 's'"):
        answers.conditions(rows.append_column("x", rows["words"]), [Expression("(words * 1000) % 7 > 0", "step 's'")])
