"""SigLIP's objective: for every image and text of the batch, say whether they belong together.

Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training, algorithm 1.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F


class Objective:
    """Called with L2-normalised features [n, d] and the model's exp(logit_scale) and logit_bias."""

    # most pairs of a batch do not belong together: the bias starts where that is the first guess
    model_options: ClassVar[dict[str, Any]] = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}

    def __call__(
        self, image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return sigmoid_loss(image, text, scale, bias)


def sigmoid_loss(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Summed over the pairs, averaged over the images; row i of `image` belongs with row i of `text` alone."""
    logits = scale * image @ text.T
    if bias is not None:
        logits = logits + bias
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)
