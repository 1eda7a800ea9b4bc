"""What is asked once of each value is what is asked of each row."""

import numpy as np
import pyarrow as pa
import pytest

from curate.errors import CurateError
from curate.filter import few, predicate
from curate.filter.predicate import Expression

ROWS = 5000


def table(**columns) -> pa.Table:
    rng = np.random.default_rng(0)
    words = pa.array(rng.choice(["en", "de", "", "日本"], ROWS)).dictionary_encode()
    small = pa.array(rng.integers(0, 300, ROWS), pa.int32())
    return pa.table({"language": words, "words": small, "score": rng.random(ROWS).astype(np.float32), **columns})


@pytest.mark.parametrize(
    "sql",
    ["language = 'en'", "language IS NULL", "length(language) > 1", "language IN ('de', 'en')", "words > 2",
     "words % 7 = 0", "nullif(words, 3) > 2", "words / 0 > 1", "typeof(words) = 'INTEGER'", "words > score * 100",
     "words::TINYINT >= 0 OR true", "score > 0.3", "true"],
)  # fmt: skip
def test_every_condition_says_the_same_of_values_and_of_rows(sql):
    rows, expressions = table(), [Expression(sql, "step 's'"), Expression("score < 0.5", "step 't'")]
    said = few.conditions(rows, expressions[:1]), few.conditions(rows, expressions)
    wanted = list(predicate.conditions(rows, expressions))
    for found, of in zip(said, (wanted[:1], wanted), strict=True):
        for (true, null), (really, nothing) in zip(found, of, strict=True):
            assert np.array_equal(true, really)
            assert np.array_equal(null, nothing)


def test_nulls_large_and_negative_numbers_are_asked_row_by_row():
    rng = np.random.default_rng(1)
    odd = {"holes": pa.array(np.arange(ROWS), pa.int32(), mask=rng.random(ROWS) < 0.1),
           "large": pa.array(rng.integers(-5, 2**40, ROWS))}  # fmt: skip
    for sql in ("holes > 7", "holes IS NULL", "large > 100"):
        expression = Expression(sql, "step 's'")
        (found,), (wanted,) = (
            few.conditions(table(**odd), [expression]),
            predicate.conditions(table(**odd), [expression]),
        )
        assert np.array_equal(found[0], wanted[0])
        assert np.array_equal(found[1], wanted[1])


def test_a_value_that_no_row_has_cannot_fail_a_step():
    rows = pa.table({"words": pa.array(np.arange(ROWS) % 100, pa.int16())})
    (found,) = few.conditions(rows, [Expression("words::TINYINT * 1 > 50", "step 's'")])
    assert found[0].sum() == ROWS // 100 * 49
    with pytest.raises(CurateError, match="step 's'"):
        few.conditions(rows.append_column("x", rows["words"]), [Expression("(words * 1000) % 7 > 0", "step 's'")])
