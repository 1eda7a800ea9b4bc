"""The words of a Wikipedia, as they are written, that stand in it at least 100 times."""

from collections.abc import Iterator

from curate.queries.dumps import UNSPACED, Dumps


class Source:
    """CLIP's "all words occurring at least 100 times in the English version of Wikipedia" (Radford et al., 2021)."""

    origin = "Wikipedia dump (--wikipedia)"
    licence = "CC BY-SA 4.0"
    running_text = True

    def __init__(self, dumps: Dumps, least: int = 100):
        dumps.need("wikipedia", "wikipedia_words")
        self.dumps, self.least = dumps, least
        self.made_by = dumps.made_by

    @staticmethod
    def covers(language: str) -> bool:
        return language not in UNSPACED

    def read(self) -> Iterator[tuple[str, int]]:
        """(word, times it stands in the articles' text)."""
        yield from self.dumps.words(self.least)[0].items()
