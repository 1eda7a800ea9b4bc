"""CLIP's byte-pair tokenizer with the ids of each word remembered: equal to open_clip's, about six times as fast."""

import functools
from collections.abc import Sequence

import torch

from curate.clip.lean import open_clip

_vocabulary = functools.cache(lambda length: open_clip.SimpleTokenizer(context_length=length))  # 0.3 CPU seconds each

REMEMBERED = 1_000_000  # words; a few hundred MB at most, then the memory starts anew


class Tokenizer:
    """Callable like open_clip.SimpleTokenizer: texts -> int64 [n, context_length], padded with 0."""

    def __init__(self, context_length: int):
        self.context_length = context_length
        self.inner = _vocabulary(context_length)
        self._words: dict[str, tuple[int, ...]] = {}

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> torch.Tensor:
        texts = [texts] if isinstance(texts, str) else texts
        length = context_length or self.context_length
        tokens = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = self.ids(text, length)
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def ids(self, text: str, context_length: int | None = None) -> list[int]:
        """Start, the words, end; a text that is too long loses its last words, never its end."""
        length = context_length or self.context_length
        ids = [self.inner.sot_token_id, *self.encode(text)][: length - 1]
        return [*ids, self.inner.eot_token_id]

    def encode(self, text: str) -> list[int]:
        """The ids of a text without start and end."""
        # mojibake and HTML entities are repaired by open_clip; plain ASCII without '&' cannot hold any
        plain = text.isascii() and text.isprintable() and "&" not in text
        clean = " ".join(text.split()).lower() if plain else self.inner.clean_fn(text)
        return [number for word in self.inner.pat.findall(clean) for number in self._word(word)]

    def _word(self, word: str) -> tuple[int, ...]:
        ids = self._words.get(word)
        if ids is None:
            if len(self._words) >= REMEMBERED:
                self._words.clear()
                self.inner.cache = {token: token for token in self.inner.cache if self._is_special(token)}
            spelled = "".join(self.inner.byte_encoder[byte] for byte in word.encode("utf-8"))
            ids = tuple(self.inner.encoder[part] for part in self.inner.bpe(spelled).split(" "))
            self._words[word] = ids
        return ids

    def _is_special(self, token: str) -> bool:
        return self.inner.encoder.get(token) in self.inner.all_special_ids
