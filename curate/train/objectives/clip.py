"""CLIP's objective: of all texts of the batch, find the one of each image, and the other way round (InfoNCE).

Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, figure 3.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from curate.train.chunk import Chunk, Encoded
from curate.train.ranks import Ranks
from curate.train.tiled import contrastive_loss


class Objective(torch.nn.Module):
    """See docs/add-an-objective.md for what an objective offers."""

    needs = ("image", "text")
    compares = True  # samples with the others of the batch
    model_options: ClassVar[dict[str, Any]] = {}  # open_clip's initial temperature, 1 / 0.07, is the paper's

    def __init__(self) -> None:
        super().__init__()

    def encode(self, model: Any, chunk: Chunk) -> Encoded:
        return Encoded((chunk.image(model), chunk.text(model)))

    def loss(self, model: Any, features: Sequence[torch.Tensor], ranks: Ranks) -> torch.Tensor:
        image, text = features
        return contrastive_loss(image, text, model.logit_scale.exp(), ranks)
