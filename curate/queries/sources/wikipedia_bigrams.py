"""Pairs of words that a Wikipedia has together more often than chance has it."""

from collections.abc import Iterator

from curate.queries.dumps import UNSPACED, Dumps
from curate.queries.pmi import STOP_SHARE, collocations


class Source:
    """CLIP's "bi-grams with high pointwise mutual information": at least `pmi` bits, seen `least` times or more.

    Without a floor on the count a high PMI selects misprints: words that were seen once, side by side.
    """

    origin = "Wikipedia dump (--wikipedia)"
    licence = "CC BY-SA 4.0"
    running_text = False

    def __init__(self, dumps: Dumps, least: int = 100, pmi: float = 5.0, stop_share: float = STOP_SHARE):
        dumps.need("wikipedia", "wikipedia_bigrams")
        self.dumps, self.least, self.pmi, self.stop_share = dumps, least, pmi, stop_share
        self.made_by = dumps.made_by

    @staticmethod
    def covers(language: str) -> bool:
        return language not in UNSPACED

    def read(self) -> Iterator[tuple[str, int]]:
        """(bigram, times it stands in the articles' text with nothing but blanks between)."""
        words, total = self.dumps.words(self.least)
        yield from collocations(self.dumps.pairs(self.least), words, total, self.pmi, self.stop_share)
