"""SigLIP's objective: for every image and text of the batch, say whether they belong together.

Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training, algorithm 1.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from curate.train.chunk import Chunk, Encoded
from curate.train.ranks import Ranks
from curate.train.tiled import sigmoid_loss


class Objective(torch.nn.Module):
    """See docs/add-an-objective.md for what an objective offers."""

    needs = ("image", "text")
    compares = True
    # most pairs of a batch do not belong together: the bias starts where that is the first guess
    model_options: ClassVar[dict[str, Any]] = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}

    def __init__(self) -> None:
        super().__init__()

    def encode(self, model: Any, chunk: Chunk) -> Encoded:
        return Encoded((chunk.image(model), chunk.text(model)))

    def loss(self, model: Any, features: Sequence[torch.Tensor], ranks: Ranks) -> torch.Tensor:
        image, text = features
        return sigmoid_loss(image, text, model.logit_scale.exp(), model.logit_bias, ranks)
