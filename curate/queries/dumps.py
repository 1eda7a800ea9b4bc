"""The dumps a user has, counted once however many sources read them."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import CurateError
from curate.files import Folder
from curate.queries import merge
from curate.queries.count import CountText, CountViews
from curate.queries.wikipedia import parts, size_of
from curate.work import Task, run_all

UNSPACED = ("zh", "ja", "th", "lo", "my", "km", "bo", "yue", "wuu")  # a run of letters there is a sentence, not a word


@dataclass(frozen=True)
class Dumps:
    """Wikipedia dumps and page views of one language; what is counted of them lies in `scratch`, part by part."""

    scratch: Folder
    language: str = "en"
    wikipedia: tuple[str, ...] = ()
    pageviews: tuple[str, ...] = ()
    engine: str = "local"

    @property
    def made_by(self) -> dict[str, Any]:
        """Name and size of every file."""
        return {path.rsplit("/", 1)[-1]: size_of(path) for path in (*self.wikipedia, *self.pageviews)}

    def words(self, least: int) -> tuple[dict[str, int], int]:
        self._count_text()
        return merge.words(self.scratch, least)

    def pairs(self, least: int) -> Iterator[tuple[str, str, int]]:
        self._count_text()
        return merge.pairs(self.scratch, least)

    def titles(self, least: int) -> Iterator[tuple[str, int]]:
        """(title, views); where there is no dump to tell articles, whatever looks like no other namespace."""
        if self.wikipedia:
            self._count_text()
        self._run(CountViews(self.scratch, self.language), list(enumerate(self.pageviews)), "counting views")
        return merge.titles(self.scratch, least, of_articles=bool(self.wikipedia))

    def need(self, option: str, source: str) -> None:
        """Raise CurateError where the files that a source reads were not given."""
        if not getattr(self, option):
            example = {"wikipedia": "enwiki-latest-pages-articles-multistream.xml.bz2", "pageviews": "pageviews-*.gz"}
            raise CurateError(f"the source {source} needs --{option} FILE (such as {example[option]})")

    def _count_text(self) -> None:
        self._run(CountText(self.scratch), parts(self.wikipedia), "counting words")

    def _run(self, task: Task, items: Sequence[Any], label: str) -> None:
        for failure in run_all(task, items, self.engine, label).failures.values():
            raise CurateError(failure)


def expanded(paths: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Local globs written out, sorted, each file once. Raises CurateError for one that names no file."""
    found: list[str] = []
    for path in paths:
        matches = sorted(glob.glob(path)) if any(sign in path for sign in "*?[") and "://" not in path else [path]
        if not matches:
            raise CurateError(f"--{option} {path}: no such file")
        found += matches
    return tuple(dict.fromkeys(found))
