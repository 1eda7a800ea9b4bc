"""Some samples of a batch on the device, encoded by the towers when an objective asks for them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from curate.clip.encoders import autocast, encode_image, encode_text, moved, normalised
from curate.train.loader import Batch
from curate.train.towers import PatchDropout, compiled, locked


class Encoded(NamedTuple):
    """What an objective wants of a chunk: features [n, ...] that it compares over the whole batch, and its loss of
    samples that need no others, summed over the chunk (None: there is none)."""

    features: tuple[torch.Tensor, ...] = ()
    share: torch.Tensor | None = None


class Chunk:
    """`rows` of a batch. `chance` fp32 [n, patches] says which patches are dropped, `seed` rules any other dropout."""

    def __init__(self, batch: Batch, rows: slice, device: torch.device, precision: str = "fp32",
                 chance: torch.Tensor | None = None, seed: int = 0):  # fmt: skip
        self.pixels, self.tokens = batch.pixels[rows], batch.tokens[rows]
        self.device, self.precision, self.seed = device, precision, seed
        self.chance = None if chance is None else chance[rows]
        self._known: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def views_of_each(self) -> int:
        """Pixels are [n, 3, s, s], or [n, views, 3, s, s] for objectives that need "views"."""
        return self.pixels.shape[1] if self.pixels.ndim == 5 else 1

    def image(self, model: Any, unit: bool = True) -> torch.Tensor:
        """fp32 features [n, d] of the images, of length 1 or as they come."""
        return self._of("image", model, lambda: self._image(model), unit)

    def text(self, model: Any) -> torch.Tensor:
        """fp32 features [n, d] of the texts, of length 1."""
        return self._of("text", model, lambda: encode_text(model, self.tokens))

    def views(self, model: Any) -> list[torch.Tensor]:
        """The same of the first views of the images, of the second ones ..."""
        every = self._of("image", model, lambda: self._image(model))
        return [each.contiguous() for each in every.view(len(self), -1, every.shape[-1]).unbind(1)]

    def input(self, model: Any) -> torch.Tensor:
        """Normalised pixels [n, 3, s, s], of several views [n * views, 3, s, s]; the patch dropout is set for them."""
        dropout = getattr(model.visual, "patch_dropout", None)
        if isinstance(dropout, PatchDropout):
            each = None if self.chance is None else self.chance.repeat_interleave(self.views_of_each, 0)
            dropout.chance = None if each is None else moved(each, self.device)
        pixels = self.pixels.to(self.device, non_blocking=True).flatten(0, -4)
        return normalised(pixels, model).to(model.logit_scale.dtype)

    def once(self, name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What has no gradient (a locked tower's, a teacher's features), computed once for both passes of a step."""
        if name not in self._known:
            with torch.no_grad():
                self._known[name] = compute()
        return self._known[name]

    def _image(self, model: Any) -> torch.Tensor:
        pixels = self.input(model)
        return model.encode_image(pixels) if compiled(model) else encode_image(model, pixels)

    def _of(self, side: str, model: Any, encode: Callable[[], torch.Tensor], unit: bool = True) -> torch.Tensor:
        def features() -> torch.Tensor:
            with autocast(self.device, self.precision):
                found = encode()
            found = found if found.dtype == torch.float64 else found.float()
            return F.normalize(found, dim=-1) if unit else found

        # the loss is in fp32: at scale 100 bf16 logits are wrong by a percent
        return self.once(side, features) if locked(model, side) else features()


Encode = Callable[[Any, Any, Chunk], Encoded]  # of a model and an objective


def encoded_by(model: Any, objective: Any, chunk: Chunk) -> Encoded:
    return objective.encode(model, chunk)


def cut(batch: Batch, size: int | None, device: torch.device, precision: str = "fp32",
        chance: torch.Tensor | None = None, seeds: Callable[[int], int] = int) -> list[Chunk]:  # fmt: skip
    """The batch in chunks of at most `size` samples (None: one) that differ by one at most, so that few shapes occur.
    `seeds`: place of a chunk's first sample in the batch -> its seed."""
    number = -(-len(batch.pixels) // size) if size else 1
    edges = [len(batch.pixels) * at // number for at in range(number + 1)]
    return [Chunk(batch, slice(a, b), device, precision, chance, seeds(a)) for a, b in pairwise(edges)]
