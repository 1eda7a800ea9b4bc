"""What the emoji show, in words: their Unicode names (package emoji), skin tones left out."""

from collections.abc import Iterator

import emoji

from curate.errors import CurateError
from curate.queries.packages import version

SKIN_TONES = range(0x1F3FB, 0x1F400)


class Source:
    """Names such as "dog face" or "flag: Japan", without the colons; the count is always 1."""

    origin = "Unicode CLDR names of emoji (package emoji)"
    licence = "BSD-3-Clause; names: Unicode licence"
    running_text = False

    def __init__(self, language: str = "en"):
        if not self.covers(language):
            raise CurateError(f"emoji has no names in '{language}'; choose from: {', '.join(sorted(emoji.LANGUAGES))}")
        self.language = language
        self.made_by = version("emoji")

    @staticmethod
    def covers(language: str) -> bool:
        return language in emoji.LANGUAGES

    def read(self) -> Iterator[tuple[str, int]]:
        """(name, 1), each name once."""
        emoji.config.load_language(self.language)
        names = {
            about[self.language].strip(":").replace("_", " ").replace(":", " ")
            for picture, about in emoji.EMOJI_DATA.items()
            if self.language in about and not any(ord(char) in SKIN_TONES for char in picture)
        }
        yield from ((name, 1) for name in sorted(names))
