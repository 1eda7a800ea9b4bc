"""Titles of Wikipedia articles by page views."""

import re
from collections import Counter
from collections.abc import Iterator

from curate.queries.dumps import Dumps

BRACKETS = re.compile(r"\s+\([^()]*\)$")  # "Mercury (planet)": nobody writes that under a picture
OTHER_NAMESPACE = re.compile(r"^\S+:\S")  # "Special:Search"; "Star Wars: A New Hope" has a blank


class Source:
    """CLIP's "names of all Wikipedia articles above a certain search volume": viewed `least` times or more.

    With --wikipedia only articles count; without it, every title that page views name outside other namespaces. What
    brackets tell apart ("Mercury (planet)", "Mercury (element)") becomes one query, views added up.
    """

    origin = "Wikipedia page views (--pageviews)"
    licence = "CC0 1.0"
    running_text = False

    def __init__(self, dumps: Dumps, least: int = 70):
        dumps.need("pageviews", "wikipedia_titles")
        self.dumps, self.least = dumps, least
        self.made_by = dumps.made_by

    @staticmethod
    def covers(language: str) -> bool:
        return True

    def read(self) -> Iterator[tuple[str, int]]:
        """(title, views in the files given)."""
        views: Counter[str] = Counter()
        for title, count in self.dumps.titles(self.least):
            if self.dumps.wikipedia or not OTHER_NAMESPACE.match(title):
                views[BRACKETS.sub("", title)] += count
        yield from views.items()
