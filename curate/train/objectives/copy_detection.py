"""Near-duplicates: of all images of the batch, find the other copy of each; no texts (CLIP's own detector, appendix C).

InfoNCE at a fixed temperature between two views of every image (Radford et al. 2021, appendix C), and the entropy term
of SSCD (Pizzi et al., CVPR 2022; Kozachenko and Leonenko 1987): every image is pushed away from its nearest stranger,
so that unlike images spread over the sphere and one threshold fits all of them.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from curate.train.chunk import Chunk, Encoded
from curate.train.copies import COPY
from curate.train.ranks import Ranks
from curate.train.tiled import TILE, contrastive_loss

LEAST = 1e-3  # distance: strangers that are nearer, such as one image twice in a batch, are not pushed apart


class Objective(torch.nn.Module):
    """entropy: weight of the entropy term; SSCD takes 30 with a temperature of 0.05 and 4,096 images in a batch. The
    temperature is the model's first one (`--temperature`, 0.07) and stays."""

    needs = ("views",)
    compares = True
    views, crop = 2, COPY
    model_options: ClassVar[dict[str, Any]] = {"preprocess_cfg": {"resize_mode": "squash"}}  # borders count

    def __init__(self, entropy: float = 5.0):
        super().__init__()
        self.entropy = entropy

    def encode(self, model: Any, chunk: Chunk) -> Encoded:
        return Encoded(tuple(chunk.views(model)))

    def loss(self, model: Any, features: Sequence[torch.Tensor], ranks: Ranks) -> torch.Tensor:
        first, second = features
        found = contrastive_loss(first, second, model.logit_scale.detach().exp(), ranks)
        return found + self.entropy * entropy_loss(first, second, ranks) if self.entropy else found


def entropy_loss(first: torch.Tensor, second: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Minus the mean logarithm of the distance from each view to the nearest view of another image.

    first and second are L2-normalised [n, d], this process's part of the batch; comes back with the loss of the batch
    of all processes, and gives each its part of the gradient, that of being somebody's nearest included.
    """
    start, size = ranks.rank * len(first), len(first) * ranks.size
    every = []
    for own in (first, second):
        held = ranks.gather(own.detach())
        every.append(torch.cat([held[:start], own, held[start + len(own) :]]))
    views = torch.cat(every)
    near = (views - views[nearest_strangers(views.detach(), size)]).square().sum(1)
    return -0.5 * near.clamp_min(LEAST**2).log().mean()


def nearest_strangers(views: torch.Tensor, images: int) -> torch.Tensor:
    """int64 [2 * images]: the nearest view of another image to each of views [2 * images, d], in tiles."""
    found = []
    rows = max(1, TILE["cpu" if views.device.type == "cpu" else "cuda"] // len(views))
    at = torch.arange(len(views), device=views.device)
    for part in at.split(rows):
        likeness = views[part] @ views.T
        for own in (part, (part + images) % len(views)):
            likeness.scatter_(1, own[:, None], -torch.inf)
        found.append(likeness.argmax(1))
    return torch.cat(found)
