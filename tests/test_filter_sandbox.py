"""A recipe may come from a stranger: it cannot read, write, load or run anything, nor change from day to day."""

import duckdb
import pyarrow as pa
import pytest

from curate.errors import CurateError
from curate.filter.predicate import LOCKED, Expression, conditions, database, locked
from curate.filter.recipe import BUILT_IN, load
from curate.filter.rules import expression_of

TABLE = pa.table({"uid": ["a", "b"], "score": [0.1, 0.2], "caption": ["x", "y"], "queries": [["q"], []]})


def evaluate(sql: str) -> None:
    expression = Expression(sql, "step 's'")
    expression.bind(TABLE, "D")
    list(conditions(TABLE, [expression]))


def refused(sql: str) -> str:
    with pytest.raises(CurateError) as caught:
        evaluate(sql)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "1=1; DROP TABLE rows",
        "1=1) FROM rows; COPY rows TO '/tmp/stolen.csv' --",
        "true) FROM read_csv('/etc/passwd') --",
        "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
        "(SELECT count(*) FROM '/etc/passwd') > 0",
        "EXISTS (FROM read_text('/etc/passwd'))",
        "score IN (SELECT 1)",
        "score > (SELECT avg(score) FROM rows)",
        "read_text('/etc/passwd') = ''",
        "COPY rows TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/stolen.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET threads = 8",
        "true) , (false",
        "true /*",
        "avg(score) > 0.1",
        "count(*) > 1",
        "row_number() OVER () < 10",
        "columns(*) > 1",
        "#1 > 2",
        "$1 = 2",
        "pg_sleep(100) is null",
        "get_block_size('memory') > 0",
        "random() < 0.5",
        "now() > '2020-01-01'",
        "current_date > '2020-01-01'",
        "uuid() = ''",
        "getenv('HOME') = ''",
        "current_setting('temp_directory') = ''",
        "getvariable('x') = 1",
        "nextval('x') = 1",
        "sleep_ms(1000) = 1",
        "error('stop') = 1",
        "current_user = 'me'",
        "repeat(caption, 10000000000) = ''",
        "len(range(100000000000)) > 3",
        "(" * 2000 + "1" + ")" * 2000 + " = 1",
    ],
)
def test_whatever_reaches_beyond_the_row_is_refused(sql):
    assert refused(sql).startswith("step 's': ")


def test_a_lambda_and_a_comment_are_allowed():
    expression = Expression("len(list_filter(queries, lambda q: q = 'q')) > 0 -- those with q", "step 's'")
    assert expression.bind(TABLE, "D") == "BOOLEAN"
    (holds, null), = conditions(TABLE, [expression])  # fmt: skip
    assert (holds.tolist(), null.tolist()) == ([True, False], [False, False])


@pytest.mark.parametrize(
    "sql",
    [
        "len(list_transform(range(1000000000), lambda x: x::varchar)) > 3",
        "len(generate_series(1, 1000000000)) > 3",
        "len(repeat(caption, 1500000000)) > 3",
        "len(lpad(caption, 1500000000, 'x')) > 3",
        "len(list_resize(queries, 1000000000)) > 3",
        "len(format('{:1500000000}', 1)) > 3",
        "len(printf('%1500000000d', 1)) > 3",
    ],
)
def test_what_can_take_any_amount_of_memory_is_refused_before_it_runs(sql):
    assert "any amount of memory" in refused(sql)


@pytest.mark.slow
def test_a_condition_that_runs_on_is_stopped(monkeypatch):
    monkeypatch.setitem(LOCKED, "max_execution_time", "20")
    many = pa.table({"score": range(3_000_000)})
    locked.cache_clear()
    try:
        with pytest.raises(CurateError, match="execution time"):
            list(
                conditions(many, [Expression(" + ".join(f"sin(score + {i})" for i in range(40)) + " > 0", "step 's'")])
            )
    finally:
        locked.cache_clear()


def test_a_division_by_zero_has_no_value():
    table = pa.table({"x": [1.0, 0.0], "n": [1, 0]})
    for sql in ("1 / x > 0", "1 / n > 0", "5 % n >= 0", "5 // n > 0", "0 / x >= 0"):
        (_, null), = conditions(table, [Expression(sql, "step 's'")])  # fmt: skip
        assert null.tolist() == [False, True]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "COPY rows TO '{folder}/stolen.csv'",
        "ATTACH '{folder}/stolen.db'",
        "EXPORT DATABASE '{folder}/stolen'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM 'https://example.test/x.parquet'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET memory_limit = '100GB'",
        "PRAGMA threads = 4",
        "SELECT * FROM secret",
    ],
)
def test_even_a_whole_statement_reaches_nothing(statement, tmp_path):
    secret = pa.table({"x": [1]})  # DuckDB would find Python variables by their name
    with database(TABLE) as connection, pytest.raises(duckdb.Error):
        connection.execute(statement.format(folder=tmp_path)).fetchall()
    assert secret.num_rows
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: []", "has no steps"),
        ("- a", "has no steps"),
        ("steps: [a", "is not valid YAML"),
        ("steps: [a]", "step 1: write '- name: SQL condition'"),
        ("steps: [{a: 1 > 0, b: 1 > 0}]", "step 1: write"),
        ("steps: [{yes: score > 1}]", "its name True is not text"),
        ("steps: [{a: true}]", "neither an SQL condition nor a mapping"),
        ("steps: [{a: {top: 30%}}]", "by is needed"),
        ("steps: [{a: {top: 30%, by: x, pro: y}}]", "unknown key 'pro'"),
        ("steps: [{a: {top: 30%, by: x, of: all}}]", "of is pool or survivors"),
        ("steps: [{a: {top: 0.3, by: x}}]", "30% or a whole number"),
        ("steps: [{a: {top: -3, by: x}}]", "30% or a whole number"),
        ("steps: [{a: {top: 3, by: x, min: low}}]", "min is a number"),
        ("steps: [{a: {top: 30%, cap: 3}}]", "has one of: where, top, cap, sample, weight"),
        ("steps: [{a: {top: 3, by: x, exact_count: 1}}]", "exact_count is true or false"),
        ("steps: [{a: {top: 3, by: x, on_null: zero}}]", "on_null is error or drop or keep"),
        ("steps: [{a: {cap: 0, per: x}}]", "cap is 1 or more"),
        ("steps: [{a: {cap: 5}}]", "per is needed"),
        ("steps: [{a: {sample: 50%, by: x, soft_cap: -1}}]", "soft_cap is 0 or more"),
        ("steps: [{a: {weight: 2, seed: x}}]", "seed is a whole number"),
        ("steps: [{a: {sample: 9, by: x, soft_cap: .nan}}]", "soft_cap is a number, not nan"),
        ("steps: [{'': x > 1}]", "its name '' is not text"),
        ("steps: [{a: x > 1}]\nsteps: [{b: x > 1}]", "the key 'steps' stands twice"),
        ("needs: [clip]\nsteps: [{a: x > 1}]", "needs is a mapping"),
        ("steps: [{a: x > 1}, {a: x > 2}]", "two steps are called 'a'"),
        ("step: [{a: x > 1}]\nsteps: [{a: x > 1}]", "unknown key 'step'"),
        ("signals: caption\nsteps: [{a: x > 1}]", "signals is a list of names"),
        ("signals: [./evil.py]\nsteps: [{a: x > 1}]", "only built-in ones"),
        ("signals: [nothing]\nsteps: [{a: x > 1}]", "no signal called 'nothing'"),
        ("signals: ['clip(pretrained=http://x)']\nsteps: [{a: x > 1}]", "measure it yourself: --signal"),
        ("steps: !!python/object/apply:os.system [echo]", "is not valid YAML"),
    ],
)
def test_a_recipe_that_is_none_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(CurateError) as caught:
        load(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
def test_every_built_in_recipe_is_whole_and_says_what_it_is(name):
    recipe = load(name)
    assert recipe.steps
    assert recipe.text.startswith("about: >")
    for step in recipe.steps:
        assert expression_of(step)
    assert "arXiv" in recipe.text or name == "basic"
