"""One step of training: the gradient of a batch, AdamW, and the temperature kept in its bounds."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from curate.clip.lean import open_clip
from curate.errors import CurateError
from curate.train import cached
from curate.train.chunk import Encode, cut, encoded_by
from curate.train.loader import Batch
from curate.train.order import uniform_bits
from curate.train.ranks import ALONE, Ranks
from curate.train.shared import is_shared, own
from curate.train.towers import PatchDropout, set_training

MAX_LOGIT_SCALE = math.log(100)  # the paper's clip: logits are never scaled by more than 100
PATCHES, DROPOUT = 9, 11  # what random numbers are for


class BadLoss(ValueError):
    """The loss of a batch or its gradient is not finite."""


@dataclass(frozen=True)
class How:
    """How a step is computed; none of it but `precision` and `clip_norm` changes what it computes.

    chunk: samples encoded at a time (None: the batch). keep: chunks whose graph is kept (None: all). clip_norm: longer
    gradients are shortened to this norm. encode: what asks the objective; that of `sharding` gathers weights first.
    """

    precision: str = "fp32"
    chunk: int | None = None
    keep: int | None = None
    clip_norm: float | None = None
    ranks: Ranks = ALONE
    encode: Encode = encoded_by

    @property
    def sharded(self) -> bool:
        """Whether every process holds but its part of the weights."""
        return self.encode is not encoded_by


AT_ONCE = How()


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up from peak / warmup to `peak`, then half a cosine down to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def adamw(model: Any, lr: float, weight_decay: float, objective: Any = None, betas: tuple[float, float] | None = None,
          eps: float | None = None) -> torch.optim.AdamW:  # fmt: skip
    """AdamW over the weights that are not locked, those of the objective among them; gains, biases and the temperature
    do not decay. Betas and epsilon are the paper's for ViT or ResNet where they are not given."""
    resnet = isinstance(model.visual, open_clip.modified_resnet.ModifiedResNet)
    of_paper = ((0.9, 0.999), 1e-8) if resnet else ((0.9, 0.98), 1e-6)
    weights = [weight for weight in model.parameters() if weight.ndim]
    alone = [weight for weight in model.parameters() if not weight.ndim]  # what is never shared out, as fused kernels
    alone += [] if objective is None else objective.parameters()  # do not take both kinds at once
    groups = [{"params": [p for p in some if p.requires_grad and (p.ndim >= 2) == decays],
               "weight_decay": weight_decay if decays else 0.0}
              for some in (weights, alone) for decays in (True, False)]  # fmt: skip
    groups = [group for group in groups if group["params"]]
    on_gpu = model.logit_scale.is_cuda
    return torch.optim.AdamW(groups, lr=lr, betas=betas or of_paper[0], eps=eps or of_paper[1], fused=on_gpu or None)


def train_step(model: Any, objective: Any, optimizer: torch.optim.AdamW, batch: Batch, lr: float, how: How = AT_ONCE,
               seed: int = 0) -> float:  # fmt: skip
    """One step on `batch`, this process's part of it; the loss of the whole. `seed` rules patch dropout. Raises
    BadLoss, and changes no weight, where loss or gradient is not finite; no more does running out of memory."""
    set_training(model)
    optimizer.zero_grad(set_to_none=True)
    loss = gradient(model, objective, batch, how, seed)
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    how.ranks.sum_all([each for each in gradients if not is_shared(each)])
    norm = _norm(gradients, how.ranks)
    value, length = torch.stack([loss, norm.to(loss.dtype)]).tolist()
    if not (math.isfinite(value) and math.isfinite(length)):
        raise BadLoss(f"the loss is {value}, the norm of its gradient {length}")
    if how.clip_norm is not None:
        shorter = (how.clip_norm / (norm + 1e-6)).clamp(max=1)
        for each in gradients:
            own(each).mul_(shorter)
    for group in optimizer.param_groups:
        group["lr"] = lr
    try:
        optimizer.step()
    except torch.OutOfMemoryError as error:  # some weights may be those of the next step: no going back
        raise CurateError("no room for AdamW's averages: a smaller --chunk; the last checkpoint is kept") from error
    with torch.no_grad():
        model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
    return value


def gradient(model: Any, objective: Any, batch: Batch, how: How, seed: int) -> torch.Tensor:
    """Add the gradient of this process's part of a batch to the weights; the loss of the whole batch comes back."""
    device, ranks = model.logit_scale.device, how.ranks
    first = ranks.rank * len(batch.pixels)
    chance = _chance(model, first, len(batch.pixels), ranks, seed)
    pixels = batch.pixels.pin_memory() if device.type == "cuda" and not batch.pixels.is_pinned() else batch.pixels
    batch = Batch(pixels.to(device, non_blocking=True), batch.tokens, batch.rows, batch.undecodable)
    chunks = cut(batch, how.chunk, device, how.precision, chance, lambda place: _bits(seed, DROPOUT, first + place))
    total = 1.0
    if hasattr(objective, "count"):  # what the losses of single samples are averaged over
        total = ranks.sum(torch.tensor(float(objective.count(batch)), dtype=torch.float64, device=device)).item()
    return cached.backward(model, objective, chunks, how.keep, total, ranks, how.encode)


def _norm(gradients: list[torch.Tensor], ranks: Ranks) -> torch.Tensor:
    """Length of the whole gradient, whose shared-out part every process has a piece of."""
    norm = torch.nn.utils.get_total_norm([each for each in gradients if not is_shared(each)])
    pieces = [own(each) for each in gradients if is_shared(each)]
    if not pieces:
        return norm
    return (norm.square() + ranks.sum(torch.nn.utils.get_total_norm(pieces).square())).sqrt()


def _chance(model: Any, first: int, samples: int, ranks: Ranks, seed: int) -> torch.Tensor | None:
    """Random numbers [samples, patches] for patch dropout: those of a sample depend on its place in the batch alone."""
    dropout = getattr(model.visual, "patch_dropout", None)
    if not isinstance(dropout, PatchDropout):
        return None
    generator = torch.Generator().manual_seed(_bits(seed, PATCHES, 0))
    return torch.rand(samples * ranks.size, dropout.patches, generator=generator)[first : first + samples]


def _bits(seed: int, purpose: int, place: int) -> int:
    return int(uniform_bits(seed, purpose, np.array([place]))[0] >> np.uint64(1))
