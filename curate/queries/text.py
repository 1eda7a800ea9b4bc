"""What a query is: its one spelling, the words in it, and whether any text can match it."""

import re
import unicodedata

LONGEST = 80  # characters; longer ones are sentences, which no second text repeats
# \w knows letters and digits but no combining marks: without them Hindi and Thai words would fall apart
MARKS = "".join(chr(code) for code in range(0x300, 0x1EF00) if unicodedata.category(chr(code))[0] == "M")
_LETTER = r"[^\W_]"
WORD = rf"{_LETTER}+(?:(?:[{MARKS}]+|['’\-\u200c\u200d](?={_LETTER})){_LETTER}*)*"
_WORD = re.compile(WORD)
# MetaCLIP sets blanks around its eight marks in texts, never in queries: what they touch in a query is never found
_DEAD_METACLIP = re.compile(r"[^ ][,.;:?!`]|[,.;:?!`][^ ]|[,.;:?!`] [,.;:?!`]")


def normalise(query: str) -> str:
    """Composed (NFC), every run of blanks, tabs and line ends one blank, none around it."""
    return " ".join(unicodedata.normalize("NFC", query).split())


def words(text: str) -> list[str]:
    """Runs of letters, digits and marks, apostrophes and hyphens inside them kept."""
    return _WORD.findall(text)


def flaw(query: str, metaclip: bool = False) -> str | None:
    """Why no text can match a normalised query, or None. `metaclip`: by MetaCLIP's rule too ("U.S.", "St. Louis")."""
    if len(query) > LONGEST:
        return "too long"
    kinds = {unicodedata.category(char) for char in query} if not (query.isascii() and query.isalnum()) else {"Ll"}
    if kinds & {"Cs", "Cc"}:
        return "control character"
    if not {kind[0] for kind in kinds} & {"L", "N", "S"}:
        return "no word"
    if metaclip and _DEAD_METACLIP.search(query):
        return "dead in metaclip mode"
    return None
