"""Visual n-grams: the image predicts phrases; a caption's probability is that of its n-grams, smoothed by shorter ones.

Li et al. 2017, Learning Visual N-Grams from Web Data, with its differentiable Jelinek-Mercer loss: the probability of a
word after the n - 1 before it is smoothing * p(word | they, image) + (1 - smoothing) * the same with n - 2, down to the
single word. Simplified: words are CLIP's tokens; the n-grams are the most frequent ones of the data, all its tokens
among them; where the words before are no n-gram of the list the shorter ones decide alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from curate.clip.encoders import embed_dim
from curate.errors import CurateError
from curate.train import captions
from curate.train.chunk import Chunk, Encoded
from curate.train.loader import Batch

NONE, ROOT = -1, 0  # no such n-gram; the empty one


class Objective(torch.nn.Module):
    """See docs/add-an-objective.md for what an objective offers. `longest`: tokens of an n-gram (the paper: 5).
    `vocabulary`: n-grams of two and more tokens (the paper: 120,000). Rarer ones than `least` are left out."""

    needs = ("image", "tokens")
    compares = False
    model_options: ClassVar[dict[str, Any]] = {}
    keys: torch.Tensor  # int64 [m], sorted: number of the n-gram without its last token * tokens + that token
    number_of_tokens: torch.Tensor

    def __init__(self, longest: int = 5, vocabulary: int = 120_000, least: int = 2, smoothing: float = 0.2) -> None:
        super().__init__()
        if not (longest >= 1 and 0 <= smoothing < 1):
            raise CurateError(f"ngrams(longest={longest}, smoothing={smoothing}): at least 1, and in [0, 1)")
        self.longest, self.vocabulary, self.least, self.smoothing = longest, vocabulary, least, smoothing

    def fit(self, model: Any, texts: Sequence[str], tokenizer: Any) -> None:
        """Find the n-grams of the data."""
        captions.check(tokenizer, "ngrams")
        size = tokenizer.inner.vocab_size
        keys = frequent(captions.words(tokenizer, texts), size, self.longest, self.vocabulary, self.least)
        self._made(keys, torch.tensor(size), embed_dim(model))

    def sized(self, state: Mapping[str, torch.Tensor]) -> None:
        """Weights of the sizes of a stored state."""
        self._made(torch.empty_like(state["keys"]), torch.tensor(0), state["head.weight"].shape[1])

    def encode(self, model: Any, chunk: Chunk) -> Encoded:
        told = self._told(self._chances(model, chunk), chunk.tokens.to(self.keys.device))
        return Encoded(share=-told.sum())

    def count(self, batch: Batch) -> int:
        return int(captions.inside(batch.tokens).sum())

    def scores(self, model: Any, chunk: Chunk, names: torch.Tensor) -> torch.Tensor:
        """[n, k]: mean log-probability of the tokens of each of k class names, int64 tokens [k, context]."""
        names = names.to(self.keys.device)
        chances, tokens = self._chances(model, chunk), captions.inside(names).sum(dim=1).clamp(min=1)
        return torch.stack([self._told(row.expand(len(names), -1), names) / tokens for row in chances.split(1)])

    def _made(self, keys: torch.Tensor, tokens: torch.Tensor, width: int) -> None:
        self.register_buffer("keys", keys)
        self.register_buffer("number_of_tokens", tokens)
        self.head = torch.nn.Linear(width, len(keys))

    def _chances(self, model: Any, chunk: Chunk) -> torch.Tensor:
        """Log-probability [n, m] of the last token of every n-gram after those before it."""
        logits = self.head(chunk.image(model, unit=False))
        before = (self.keys // self.number_of_tokens).expand_as(logits)  # n-grams with the same beginning compete
        groups = logits.new_full((len(logits), len(self.keys) + 1), -torch.inf)
        highest = groups.scatter_reduce(1, before, logits.detach(), "amax")
        sums = torch.zeros_like(groups).scatter_add(1, before, (logits - highest.gather(1, before)).exp())
        return logits - highest.gather(1, before) - sums.gather(1, before).log()

    def _told(self, chances: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Smoothed log-probability [n] of each caption; tokens that the data never had say nothing."""
        words = tokens.masked_fill(~captions.inside(tokens), NONE)
        chance = torch.ones_like(chances[:, :1]).expand(words.shape)
        for length in range(1, self.longest + 1):
            before = torch.nn.functional.pad(self._numbers(words, length - 1), (1, 0), value=NONE)[:, :-1]
            found = self._numbers(words, length)
            after = chances.gather(1, (found - 1).clamp(min=0)).exp().masked_fill(found == NONE, 0)
            part = 1.0 if length == 1 else self.smoothing
            chance = torch.where(before == NONE, chance, part * after + (1 - part) * chance)
        known = self._numbers(words, 1) != NONE
        return chance.masked_fill(~known, 1).log().sum(dim=1)

    def _numbers(self, words: torch.Tensor, length: int) -> torch.Tensor:
        """int64 like words [n, context]: the number, from 1, of the n-gram of `length` tokens that ends at each place;
        NONE where it is not in the list."""
        found = torch.full_like(words, ROOT)
        for back in reversed(range(length)):
            token = torch.nn.functional.pad(words, (back, 0), value=NONE)[:, : words.shape[1]]
            found = self._after(found, token)
        return found

    def _after(self, before: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """The n-gram that `before` becomes with one more token."""
        wanted = before * self.number_of_tokens + token
        at = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        there = (before != NONE) & (token != NONE) & (self.keys[at] == wanted)
        return torch.where(there, at + 1, NONE)


def frequent(words: torch.Tensor, tokens: int, longest: int, vocabulary: int, least: int) -> torch.Tensor:
    """Sorted keys of the n-grams of words [n, context] (-1: none): all single ones, then the most frequent longer ones
    whose beginning is in the list. Number i of the list, from 1, is what the i-th key stands for."""
    keys = words[words >= 0].unique()
    numbers = torch.where(words >= 0, torch.searchsorted(keys, words.clamp(min=0)) + 1, NONE)
    for _ in range(2, longest + 1):
        before = torch.nn.functional.pad(numbers, (1, 0), value=NONE)[:, : words.shape[1]]
        longer = torch.where((before != NONE) & (words >= 0), before * tokens + words, NONE)
        found, counts = longer[longer >= 0].unique(return_counts=True)
        found, counts = found[counts >= least], counts[counts >= least]
        room = vocabulary - (len(keys) - len(words[words >= 0].unique()))
        chosen = found[counts.argsort(descending=True, stable=True)[:room]].sort().values
        numbers = torch.where(longer >= 0, _numbered(chosen, longer, len(keys)), NONE)
        keys = torch.cat([keys, chosen])
    return keys


def _numbered(chosen: torch.Tensor, longer: torch.Tensor, first: int) -> torch.Tensor:
    if not len(chosen):
        return torch.full_like(longer, NONE)
    at = torch.searchsorted(chosen, longer).clamp(max=len(chosen) - 1)
    return torch.where(chosen[at] == longer, first + at + 1, NONE)
