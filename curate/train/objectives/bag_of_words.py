"""Bag of words: from the image alone, predict which words its caption has, in no order.

The softmax over all words with every word of the caption an equal target is that of Joulin et al. 2016, Learning Visual
Features from Large Weakly Supervised Data; the objective is one of figure 2 of the CLIP paper. Words are CLIP's tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from curate.clip.encoders import embed_dim
from curate.train import captions
from curate.train.chunk import Chunk, Encoded
from curate.train.loader import Batch

NAMES = 1024  # class names at a time: each is a row as wide as the vocabulary


class Objective(torch.nn.Module):
    """See docs/add-an-objective.md for what an objective offers."""

    needs = ("image", "tokens")
    compares = False
    model_options: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()

    def fit(self, model: Any, texts: Sequence[str], tokenizer: Any) -> None:
        """A word for every token; the first guess is how often each occurs."""
        captions.check(tokenizer, "bag-of-words")
        found = captions.words(tokenizer, texts)
        counts = torch.bincount(found[found >= 0], minlength=tokenizer.inner.vocab_size) + 1.0
        self.head = torch.nn.Linear(embed_dim(model), len(counts))
        with torch.no_grad():
            self.head.bias.copy_((counts / counts.sum()).log())

    def sized(self, state: Mapping[str, torch.Tensor]) -> None:
        """Weights of the sizes of a stored state."""
        words, width = state["head.weight"].shape
        self.head = torch.nn.Linear(width, words)

    def encode(self, model: Any, chunk: Chunk) -> Encoded:
        chances = self._chances(model, chunk)
        targets = bags(chunk.tokens.to(chances.device), chances.shape[1]).to(chances.dtype)
        targets = targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
        return Encoded(share=-(targets * chances).sum())

    def count(self, batch: Batch) -> int:
        """Captions with a word."""
        return int(captions.inside(batch.tokens).any(dim=1).sum())

    def scores(self, model: Any, chunk: Chunk, names: torch.Tensor) -> torch.Tensor:
        """[n, k]: mean log-probability of the words of each of k class names, int64 tokens [k, context]."""
        chances = self._chances(model, chunk)
        return torch.cat([self._means(chances, some) for some in names.to(chances.device).split(NAMES)], dim=1)

    def _means(self, chances: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
        chosen = bags(names, chances.shape[1]).to(chances.dtype)
        return chances @ (chosen / chosen.sum(dim=1, keepdim=True).clamp(min=1)).T

    def _chances(self, model: Any, chunk: Chunk) -> torch.Tensor:
        """Log-probabilities [n, vocabulary]."""
        return self.head(chunk.image(model, unit=False)).log_softmax(dim=1)


def bags(tokens: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """bool [n, vocabulary]: which words occur in each row of tokens [n, context]."""
    marked = tokens.masked_fill(~captions.inside(tokens), vocabulary)  # one more column takes what is no word
    bag = torch.zeros(len(tokens), vocabulary + 1, dtype=torch.bool, device=tokens.device)
    return bag.scatter_(1, marked, True)[:, :vocabulary]
