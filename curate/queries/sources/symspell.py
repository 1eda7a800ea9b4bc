"""Pairs of English dictionary words that stand together more often than chance has it (package symspellpy)."""

from collections.abc import Iterator

from curate.queries.packages import data_file, version
from curate.queries.pmi import STOP_SHARE, collocations

WORDS = 1_024_908_267_229  # in the corpus (Google's Web 1T) that both lists were counted in
SCALE = 64  # the pairs' counts are 64 times those of the words: exactly so for all pairs that wordsegment has too


class Source:
    """Bigrams of at least `pmi` bits without stop words; dictionary words only, so little of the web's spam."""

    origin = "SymSpell's bigram and word lists (package symspellpy), from Google's Web 1T and SCOWL"
    licence = "MIT"
    running_text = False

    def __init__(self, pmi: float = 3.0, stop_share: float = STOP_SHARE):
        self.pmi, self.stop_share = pmi, stop_share
        self.made_by = version("symspellpy")

    @staticmethod
    def covers(language: str) -> bool:
        return language == "en"

    def read(self) -> Iterator[tuple[str, int]]:
        """(bigram, count in a trillion words of the web of 2006)."""
        words = {word: int(count) for word, count in _rows("frequency_dictionary_en_82_765.txt")}
        pairs = (
            (first, second, int(count) // SCALE)
            for first, second, count in _rows("frequency_bigramdictionary_en_243_342.txt")
        )
        yield from collocations(pairs, words, WORDS, self.pmi, self.stop_share)


def _rows(name: str) -> Iterator[list[str]]:
    with open(data_file("symspellpy", name), encoding="utf-8-sig") as lines:
        yield from (line.split() for line in lines)
