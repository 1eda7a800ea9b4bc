"""CoCa: CLIP's contrast, and a decoder that writes the caption while it looks at the image.

Yu et al. 2022, CoCa: Contrastive Captioners are Image-Text Foundation Models, on open_clip's CoCa models and with the
weights of open_clip's CoCaLoss: 1 for the contrast, 2 for the captions.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from curate.clip.encoders import autocast
from curate.clip.lean import open_clip
from curate.errors import CurateError
from curate.train.chunk import Chunk, Encoded
from curate.train.loader import Batch
from curate.train.ranks import Ranks
from curate.train.tiled import contrastive_loss

PADDING = 0  # as in open_clip's CoCaLoss, where "!", which has the same id, does not count either


class Objective(torch.nn.Module):
    """See docs/add-an-objective.md for what an objective offers."""

    needs = ("image", "text")
    compares = True
    model_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, contrast: float = 1.0, caption: float = 2.0) -> None:
        super().__init__()
        self.contrast, self.caption = contrast, caption

    def fit(self, model: Any, texts: Sequence[str], tokenizer: Any) -> None:
        """Nothing to make: the decoder is the model's. Raises CurateError where it has none."""
        if not isinstance(model, open_clip.CoCa):
            raise CurateError("--objective coca needs a CoCa model, for example --model coca_ViT-B-32")

    def encode(self, model: Any, chunk: Chunk) -> Encoded:
        tokens = chunk.tokens.to(chunk.device)
        if not torch.is_grad_enabled():
            return Encoded((chunk.image(model), chunk.text(model)))
        with autocast(chunk.device, chunk.precision):
            found = model(chunk.input(model), tokens)
        image, text, logits = (_exact(found[name]) for name in ("image_features", "text_features", "logits"))
        share = F.cross_entropy(logits.transpose(1, 2), found["labels"], ignore_index=PADDING, reduction="sum")
        return Encoded((F.normalize(image, dim=-1), F.normalize(text, dim=-1)), self.caption * share)

    def count(self, batch: Batch) -> int:
        """Tokens to be written."""
        return int((batch.tokens[:, 1:] != PADDING).sum())

    def loss(self, model: Any, features: Sequence[torch.Tensor], ranks: Ranks) -> torch.Tensor:
        image, text = features
        return self.contrast * contrastive_loss(image, text, model.logit_scale.exp(), ranks)


def _exact(features: torch.Tensor) -> torch.Tensor:
    return features if features.dtype == torch.float64 else features.float()
