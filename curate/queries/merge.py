"""Add up the blocks that count.py wrote: exact, with a fixed amount of memory, the rest on disk."""

import contextlib
from collections.abc import Iterator
from typing import Any

import duckdb

from curate.files import Folder

MEMORY = "2GB"
ROWS = 100_000  # fetched at a time
WORDS = "SELECT word, sum(count)::BIGINT AS count FROM read_parquet($words) GROUP BY word HAVING sum(count) >= $least"
# a pair that is frequent enough has two words that are: the others need not be added up
PAIRS = f"""
    WITH kept AS MATERIALIZED ({WORDS})
    SELECT first, second, sum(count)::BIGINT FROM read_parquet($pairs)
    WHERE first IN (SELECT word FROM kept) AND second IN (SELECT word FROM kept)
    GROUP BY first, second HAVING sum(count) >= $least"""
VIEWS = "SELECT title, sum(views)::BIGINT AS views FROM read_parquet($views) GROUP BY title HAVING sum(views) >= $least"


def words(scratch: Folder, least: int) -> tuple[dict[str, int], int]:
    """({word: count} of the words seen `least` times or more, number of all words of the text)."""
    paths: dict[str, object] = {"words": scratch.path("words/*.parquet")}
    with _database(scratch) as database:
        total = database.execute("SELECT coalesce(sum(count), 0)::BIGINT FROM read_parquet($words)", paths)
        number = total.fetchall()[0][0]
        return dict(database.execute(WORDS, {**paths, "least": least}).fetchall()), number


def pairs(scratch: Folder, least: int) -> Iterator[tuple[str, str, int]]:
    """(first, second, count) of the neighbours seen `least` times or more, in no order."""
    paths: dict[str, object] = {name: scratch.path(f"{name}/*.parquet") for name in ("words", "pairs")}
    yield from _rows(scratch, PAIRS, {**paths, "least": least})


def titles(scratch: Folder, least: int, of_articles: bool) -> Iterator[tuple[str, int]]:
    """(title, views) of those viewed `least` times or more, in no order; `of_articles`: only titles in the dump."""
    paths: dict[str, object] = {"views": scratch.path("views/*.parquet")}
    query = VIEWS
    if of_articles:
        paths["titles"] = scratch.path("titles/*.parquet")
        query = f"SELECT * FROM ({VIEWS}) WHERE title IN (SELECT title FROM read_parquet($titles))"
    yield from _rows(scratch, query, {**paths, "least": least})


def _rows(scratch: Folder, query: str, values: dict[str, object]) -> Iterator[tuple]:
    with _database(scratch) as database:
        found = database.execute(query, values)
        while rows := found.fetchmany(ROWS):
            yield from rows


@contextlib.contextmanager
def _database(scratch: Folder) -> Iterator[duckdb.DuckDBPyConnection]:
    settings: dict[str, Any] = {
        "memory_limit": MEMORY,
        "temp_directory": scratch.path("duckdb"),
        "preserve_insertion_order": "false",
    }
    with duckdb.connect(config=settings) as database:
        yield database
