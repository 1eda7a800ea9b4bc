"""CLIP's objective: of all texts of the batch, find the one of each image, and the other way round (InfoNCE).

Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, figure 3.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F


class Objective:
    """Called with L2-normalised features [n, d] and the model's exp(logit_scale) and logit_bias."""

    model_options: ClassVar[dict[str, Any]] = {}  # open_clip's initial temperature, 1 / 0.07, is the paper's

    def __call__(
        self, image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return contrastive_loss(image, text, scale)


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy: row i of `image` belongs with row i of `text`."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
