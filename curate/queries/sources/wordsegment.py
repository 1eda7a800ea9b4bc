"""Pairs of words of the English web that stand together more often than chance has it (package wordsegment)."""

from collections.abc import Iterator

from curate.queries.packages import data_file, version
from curate.queries.pmi import STOP_SHARE, collocations

WORDS = 1_024_908_267_229  # in the corpus, Google's Web 1T


class Source:
    """Bigrams of at least `pmi` bits without stop words: symspell's and, beside them, names, American spelling, spam.

    `least`: the words' own count; words seen less often are mostly misspelt or machine-made.
    """

    origin = "Peter Norvig's counts from Google's Web 1T (package wordsegment)"
    licence = "Apache-2.0; counts: MIT, Peter Norvig, from LDC2006T13"
    running_text = False

    def __init__(self, pmi: float = 3.0, least: int = 10**6, stop_share: float = STOP_SHARE):
        self.pmi, self.least, self.stop_share = pmi, least, stop_share
        self.made_by = version("wordsegment")

    @staticmethod
    def covers(language: str) -> bool:
        return language == "en"

    def read(self) -> Iterator[tuple[str, int]]:
        """(bigram, count in a trillion words of the web of 2006)."""
        words = {word: int(count) for word, count in _rows("unigrams.txt") if int(count) >= self.least}
        pairs = (
            (first, second, int(count))
            for pair, count in _rows("bigrams.txt")
            for first, second in [pair.split(" ")]
            if "<" not in pair  # "<s> dog": dog at the start of a sentence
        )
        yield from collocations(pairs, words, WORDS, self.pmi, self.stop_share)


def _rows(name: str) -> Iterator[list[str]]:
    with open(data_file("wordsegment", name), encoding="utf-8") as lines:
        yield from (line.rstrip("\n").split("\t") for line in lines)
