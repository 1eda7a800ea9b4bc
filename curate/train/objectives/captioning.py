"""Captioning: a small transformer writes the caption token by token while it looks at the patches of the image.

Desai and Johnson 2021, VirTex. Simplified: it writes forwards only, where VirTex writes backwards too. CLIP's figure 2
has such a language model as the slowest of its three objectives.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from curate.clip.encoders import autocast
from curate.clip.lean import ModifiedResNet, MultimodalTransformer, VisionTransformer
from curate.errors import CurateError
from curate.train import captions
from curate.train.chunk import Chunk, Encoded
from curate.train.loader import Batch

HEAD_WIDTH = 64
NAMES = 64  # class names at a time: each token of each is a row as wide as the vocabulary


class Objective(torch.nn.Module):
    """See docs/add-an-objective.md for what an objective offers. `layers`: blocks of the decoder (VirTex: 1 to 4)."""

    needs = ("image", "tokens")
    compares = False
    model_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.layers = layers

    def fit(self, model: Any, texts: Sequence[str], tokenizer: Any) -> None:
        """A decoder as wide as the image tower."""
        captions.check(tokenizer, "captioning")
        self._made(tokenizer.inner.vocab_size, int(model.context_length), grid_width(model))

    def sized(self, state: Mapping[str, torch.Tensor]) -> None:
        """Weights of the sizes of a stored state."""
        self._made(len(state["words.weight"]), *state["places"].shape)

    def _made(self, vocabulary: int, context: int, width: int) -> None:
        self.words = torch.nn.Embedding(vocabulary, width)
        self.places = torch.nn.Parameter(torch.empty(context, width))
        self.decoder = MultimodalTransformer(width, self.layers, max(1, width // HEAD_WIDTH), context, output_dim=1)
        self.decoder.text_projection = None  # the words themselves are the projection, as in VirTex
        torch.nn.init.normal_(self.words.weight, std=0.02)
        torch.nn.init.normal_(self.places, std=0.01)

    def encode(self, model: Any, chunk: Chunk) -> Encoded:
        return Encoded(share=-self._told(self._grid(model, chunk), chunk.tokens.to(chunk.device), chunk).sum())

    def count(self, batch: Batch) -> int:
        """Tokens that are written, the end of each caption among them."""
        return int(captions.ends(batch.tokens).sum())

    def scores(self, model: Any, chunk: Chunk, names: torch.Tensor) -> torch.Tensor:
        """[n, k]: mean log-probability of the tokens of each of k class prompts, int64 tokens [k, context]."""
        grid, written = self._grid(model, chunk), captions.ends(names).to(chunk.device)
        parts = names.to(chunk.device).split(NAMES)
        rows = [torch.cat([self._told(one.expand(len(some), -1, -1), some, chunk) for some in parts])
                for one in grid.split(1)]  # fmt: skip
        return torch.stack(rows) / written

    def _grid(self, model: Any, chunk: Chunk) -> torch.Tensor:
        """What the image tower says of each place of the image [n, places, width]."""
        with autocast(chunk.device, chunk.precision):
            found = model.visual.forward_intermediates(
                chunk.input(model), indices=1, normalize_intermediates=True, intermediates_only=True
            )
        return found["image_intermediates"][-1].flatten(2).transpose(1, 2)

    def _told(self, grid: torch.Tensor, tokens: torch.Tensor, chunk: Chunk) -> torch.Tensor:
        """Log-probability [n] of each caption, start excluded, end included."""
        tokens = tokens[:, : int(captions.ends(tokens).max()) + 1]  # it never looks ahead: exact
        asked, wanted = tokens[:, :-1], tokens[:, 1:]
        with autocast(chunk.device, chunk.precision):
            x = self.words(asked) + self.places[: asked.shape[1]]
            logits = self.decoder(grid, x) @ self.words.weight.T
        logits = logits if logits.dtype == torch.float64 else logits.float()
        chances = -F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)
        written = torch.arange(wanted.shape[1], device=wanted.device) < captions.ends(tokens)[:, None]
        return (chances * written).sum(dim=1)


def grid_width(model: Any) -> int:
    """Width of the places of the image. Raises CurateError for towers that do not show them."""
    if isinstance(model.visual, VisionTransformer):
        return int(model.visual.transformer.width)
    if isinstance(model.visual, ModifiedResNet):
        return int(model.visual.attnpool.k_proj.in_features)
    raise CurateError("--objective captioning needs open_clip's own vision transformer or ResNet")
