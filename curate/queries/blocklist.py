"""Words that no query may hold."""

import io

from curate.errors import CurateError
from curate.queries.text import normalise, words
from curate.storage.streams import Lines, exists


class Blocklist:
    """One entry a line, # for remarks. `word` or `two words`: no query with them in it; `=query`: that query alone.

    Case does not count. Reads .txt, also .gz .bz2 .xz .zst, from any store. Raises CurateError where a file cannot
    be read or is no UTF-8.
    """

    def __init__(self, paths: tuple[str, ...]):
        entries = [entry for path in paths for entry in _entries(path)]
        self.exact = {entry[1:].strip() for entry in entries if entry.startswith("=")}
        self.phrases = {tuple(words(entry)) for entry in entries if not entry.startswith("=")} - {()}
        # what holds no word (an emoji, say) can only be meant as a whole
        self.exact |= {entry for entry in entries if not entry.startswith("=") and not words(entry)}
        self.longest = max(map(len, self.phrases), default=0)

    def __len__(self) -> int:
        return len(self.exact) + len(self.phrases)

    def blocks(self, query: str) -> bool:
        folded = query.casefold()
        if folded in self.exact:
            return True
        tokens = words(folded) if self.phrases else []
        return any(
            tuple(tokens[start:end]) in self.phrases
            for start in range(len(tokens))
            for end in range(start + 1, min(start + self.longest, len(tokens)) + 1)
        )


def _entries(path: str) -> list[str]:
    if not exists(path):
        raise CurateError(f"no such blocklist: {path}")
    with Lines(path) as lines:
        content = io.BufferedReader(lines).read()
        if lines.damage:
            raise CurateError(f"the blocklist {path} is damaged: {lines.damage}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CurateError(f"the blocklist {path} is not UTF-8 (byte {error.start})") from error
    found = [normalise(line.partition("#")[0]).casefold() for line in text.split("\n")]
    return [entry for entry in found if entry]
