"""CLIP's objective: of all texts of the batch, find the one of each image, and the other way round (InfoNCE).

Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, figure 3.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from curate.clip.encoders import autocast, encode_image, encode_text, normalised
from curate.train.chunk import Chunk, Encoded
from curate.train.ranks import Ranks
from curate.train.tiled import Teacher, contrastive_loss


class Objective(torch.nn.Module):
    """See docs/add-an-objective.md for what an objective offers."""

    needs = ("image", "text")
    compares = True  # samples with the others of the batch
    model_options: ClassVar[dict[str, Any]] = {}  # open_clip's initial temperature, 1 / 0.07, is the paper's

    def __init__(self) -> None:
        super().__init__()
        self.teacher: list[Any] = []  # a model to distil, at most one; in a list, so that it is no part of this one

    def encode(self, model: Any, chunk: Chunk) -> Encoded:
        features = [chunk.image(model), chunk.text(model)]
        if self.teacher:
            features += [chunk.once(f"taught {side}", partial(self._told, chunk, side)) for side in ("image", "text")]
        return Encoded(tuple(features))

    def loss(self, model: Any, features: Sequence[torch.Tensor], ranks: Ranks) -> torch.Tensor:
        image, text, *taught = features
        teacher = None
        if self.teacher:
            teacher = Teacher(taught[0].detach(), taught[1].detach(), self.teacher[0].logit_scale.exp().to(image.dtype))
        return contrastive_loss(image, text, model.logit_scale.exp(), ranks, teacher)

    def _told(self, chunk: Chunk, side: str) -> torch.Tensor:
        """Features of length 1 as the teacher has them, without patch dropout."""
        teacher = self.teacher[0]
        with autocast(chunk.device, chunk.precision):
            if side == "text":
                found = encode_text(teacher, chunk.tokens)
            else:
                found = encode_image(teacher, normalised(chunk.pixels, teacher).to(teacher.logit_scale.dtype))
        return F.normalize(found if found.dtype == torch.float64 else found.float(), dim=-1)
