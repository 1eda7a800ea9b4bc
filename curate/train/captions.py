"""What of a row of tokens is caption: CLIP's tokens are a start, the words, an end, then padding."""

from collections.abc import Sequence
from typing import Any

import torch

from curate.clip.lean import open_clip
from curate.clip.tokenizer import Tokenizer
from curate.errors import CurateError


def check(tokenizer: Any, objective: str) -> None:
    """Raises CurateError for a tokenizer whose end token is not the largest id."""
    if not isinstance(tokenizer, Tokenizer | open_clip.SimpleTokenizer):
        raise CurateError(f"--objective {objective} reads CLIP's own tokens; this model has another tokenizer")


def ends(tokens: torch.Tensor) -> torch.Tensor:
    """int64 [n]: the place of the end token, which has the largest id (padding, 0, is also the id of "!")."""
    return tokens.argmax(dim=1)


def inside(tokens: torch.Tensor) -> torch.Tensor:
    """bool like tokens [n, context]: what stands between start and end."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return (places > 0) & (places < ends(tokens)[:, None])


def words(tokenizer: Any, captions: Sequence[str], at_a_time: int = 8192) -> torch.Tensor:
    """int64 [total, context]: the tokens of many captions with everything but the words set to -1."""
    parts = []
    for start in range(0, len(captions), at_a_time):
        tokens = tokenizer(list(captions[start : start + at_a_time]))
        parts.append(tokens.masked_fill(~inside(tokens), -1))
    return torch.cat(parts)
