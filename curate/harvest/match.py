"""Which queries stand in which texts: exact, case-sensitive, every overlap counted once."""

import json
import os
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curate.errors import CurateError

MODES = ("default", "metaclip")


class Matcher:
    """First plain version: windows of tokens looked up in a dict."""

    def __init__(self, queries: Sequence[str], mode: str = "default", casefold: bool = False, nfc: bool = True):
        if mode not in MODES:
            raise CurateError(f"no match mode called '{mode}'; choose from: {', '.join(MODES)}")
        self.queries, self.mode, self.casefold, self.nfc = list(queries), mode, casefold, nfc
        self._windows: dict[tuple[str, ...], list[int]] = {}
        self.never_matching: list[int] = []
        for query, text in enumerate(self.queries):
            tokens = tuple(text.split(" ")) if mode == "metaclip" else self._tokens(text)
            if self._dead(tokens):
                self.never_matching.append(query)
            else:
                self._windows.setdefault(tokens, []).append(query)
        self._longest = max(map(len, self._windows), default=0)

    def match(self, texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets int64 [n + 1] and ids int32: the queries in text i are ids[offsets[i]:offsets[i + 1]], ascending."""
        found = [self._match(text) for text in texts.cast(pa.large_binary()).to_pylist()]
        offsets = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(ids) for ids in found], out=offsets[1:])
        return offsets, np.array([query for ids in found for query in ids], np.int32)

    def save(self, path: str) -> None:
        """Write the index whole: a temporary file, then a rename."""
        with open(f"{path}.{os.getpid()}.tmp", "w", encoding="ascii") as file:
            json.dump([self.queries, self.mode, self.casefold, self.nfc], file)
        os.replace(f"{path}.{os.getpid()}.tmp", path)

    @classmethod
    def load(cls, path: str) -> "Matcher":
        """The matcher that `save` wrote."""
        with open(path, encoding="ascii") as file:
            return cls(*json.load(file))

    def _match(self, text: bytes | None) -> list[int]:
        if text is None:
            return []
        tokens = self._tokens(text.decode("utf-8", "replace"))
        found: set[int] = set()
        for start in range(len(tokens)):
            for stop in range(start + 1, min(start + self._longest, len(tokens)) + 1):
                found.update(self._windows.get(tokens[start:stop], ()))
        return sorted(found)

    def _tokens(self, text: str) -> tuple[str, ...]:
        if self.mode == "metaclip":
            return tuple(re.sub(r"([,.;:?!`])", r" \1 ", re.sub(r"[\t\n\r]", " ", text)).split(" "))
        text = unicodedata.normalize("NFC", text) if self.nfc else text
        text = text.casefold() if self.casefold else text
        return tuple(re.findall(r"\w+(?:['&@#*-]\w+)*|[^\w\s]", text))

    def _dead(self, tokens: tuple[str, ...]) -> bool:
        if self.mode == "metaclip":
            return any(re.search(r"[\t\n\r]|.[,.;:?!`]|[,.;:?!`].", token, re.DOTALL) for token in tokens)
        return not any(re.search(r"\w", token) for token in tokens)
