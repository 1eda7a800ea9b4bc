"""The words of a language by frequency, from Wikipedia, subtitles, news, books, the web and more (package wordfreq)."""

import re
from collections.abc import Iterator

import wordfreq

from curate.errors import CurateError
from curate.queries.packages import version

PER = 10**9  # counts are rounded to occurrences in a billion words
SMASHED = re.compile(r"0[.,]?0")  # wordfreq writes every longer number with noughts: "0000" stands for all years


class Source:
    """All words of the largest list of a language; counts in a billion words of running text."""

    origin = "wordfreq by Robyn Speer: Wikipedia, OpenSubtitles, news, Google Books, OSCAR, Twitter, Reddit"
    licence = "Apache-2.0; data: CC BY-SA 4.0"
    running_text = True

    def __init__(self, language: str = "en"):
        if not self.covers(language):
            known = ", ".join(sorted(wordfreq.available_languages("best")))
            raise CurateError(f"wordfreq has no list for '{language}'; choose from: {known}")
        self.language = language
        self.made_by = version("wordfreq")

    @staticmethod
    def covers(language: str) -> bool:
        return language in wordfreq.available_languages("best")

    def read(self) -> Iterator[tuple[str, int]]:
        """(word in small letters, occurrences in a billion words)."""
        for word, share in wordfreq.get_frequency_dict(self.language, "best").items():
            if not SMASHED.search(word):
                yield word, round(share * PER)
