"""Contrastive losses over every image and text of a batch, in tiles: memory grows with the batch, not with its square.

The gradient is written out, so no logit is kept for it: a first pass over the tiles finds the log-sum-exp of every row
and column, a second one turns each tile into its gradient. Of several processes each owns the rows of its images.
The idea of tiling is that of Cheng et al. 2024, Breaking the Memory Barrier (Inf-CL); the sums here are over maxima,
hence safe at any scale.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from curate.train.ranks import ALONE, Ranks

TILE = {"cpu": 1 << 22, "cuda": 1 << 26}  # logits at a time: 16 MB on a CPU, 256 MB on a GPU


class Teacher(NamedTuple):
    """Features [n, d] of the same images and texts by another model, and its exp(logit_scale)."""

    image: torch.Tensor
    text: torch.Tensor
    scale: torch.Tensor


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, ranks: Ranks = ALONE,
                     teacher: Teacher | None = None) -> torch.Tensor:  # fmt: skip
    """Symmetric cross-entropy: row i of `image` belongs with row i of `text` (InfoNCE; open_clip's ClipLoss).

    image and text are L2-normalised [n, d], this process's part of the batch, scale a scalar; comes back with the loss
    of the batch of all processes, the same in each, and gives each its part of the gradient: they are to be summed.
    With a teacher the cross-entropy with its two softmaxes is added (open_clip's DistillClipLoss).
    """
    return _Loss.apply(partial(_contrastive, ranks, teacher), image, text, scale)


def sigmoid_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None,
                 ranks: Ranks = ALONE) -> torch.Tensor:  # fmt: skip
    """For every image and text, whether they belong together: summed over the pairs, averaged over the images
    (open_clip's SigLipLoss). Arguments and gradients as in `contrastive_loss`."""
    bias = image.new_zeros(()) if bias is None else bias
    return _Loss.apply(partial(_sigmoid, ranks), image, text, scale, bias)


class _Loss(torch.autograd.Function):
    """A loss whose gradient is computed with it. `compute(*inputs)` -> (loss, gradient of each input)."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., tuple[torch.Tensor, ...]], *inputs: torch.Tensor) -> torch.Tensor:
        value, *gradients = compute(*inputs)
        ctx.save_for_backward(*[gradient.view_as(given) for gradient, given in zip(gradients, inputs, strict=True)])
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *[gradient * upstream[0] for gradient in ctx.saved_tensors]


def _contrastive(ranks: Ranks, teacher: Teacher | None, image: torch.Tensor, text: torch.Tensor,
                 scale: torch.Tensor) -> tuple[torch.Tensor, ...]:  # fmt: skip
    texts, total, first = ranks.gather(text), len(text) * ranks.size, len(text) * ranks.rank
    rows, columns = _log_sums(image, texts, scale, ranks)
    if teacher is not None:
        taught_texts = ranks.gather(teacher.text)
        taught_rows, taught_columns = _log_sums(teacher.image, taught_texts, teacher.scale, ranks)
    learnt = 1 if teacher is None else 2  # distributions that rows and columns are to match: the truth, the teacher's
    d_image, d_texts = torch.empty_like(image), torch.zeros_like(texts)
    d_scale, matched = (scale.new_zeros((), dtype=torch.float64) for _ in range(2))
    for tile in _tiles(image, texts):
        likeness = image[tile] @ texts.T
        gradient = _softmaxes(scale * likeness, rows[tile], columns).mul_(learnt)
        _own(gradient, tile, first).sub_(2)
        matched += 2 * scale * _own(likeness, tile, first).sum(dtype=torch.float64)
        if teacher is not None:
            taught = teacher.scale * (teacher.image[tile] @ taught_texts.T)
            taught = _softmaxes(taught, taught_rows[tile], taught_columns)
            gradient.sub_(taught)
            matched += scale * taught.mul_(likeness).sum(dtype=torch.float64)
        gradient.div_(2 * total)
        d_image[tile] = scale * (gradient @ texts)
        d_texts.addmm_(gradient.T, scale * image[tile])
        d_scale += gradient.mul_(likeness).sum(dtype=torch.float64)
    d_text = ranks.sum(d_texts)[first : first + len(text)]
    sums = rows.sum(dtype=torch.float64) + columns[first : first + len(text)].sum(dtype=torch.float64)
    loss = ranks.sum((learnt * sums - matched) / (2 * total))
    return loss.to(image.dtype), d_image, d_text, d_scale.to(scale.dtype)


def _sigmoid(ranks: Ranks, image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor,
             bias: torch.Tensor) -> tuple[torch.Tensor, ...]:  # fmt: skip
    texts, total, first = ranks.gather(text), len(text) * ranks.size, len(text) * ranks.rank
    d_image, d_texts = torch.empty_like(image), torch.zeros_like(texts)
    d_scale, d_bias, loss = (scale.new_zeros((), dtype=torch.float64) for _ in range(3))
    for tile in _tiles(image, texts):
        likeness = image[tile] @ texts.T
        wrong = scale * likeness + bias
        _own(wrong, tile, first).neg_()
        loss += F.softplus(wrong).sum(dtype=torch.float64)
        gradient = wrong.sigmoid_().div_(total)
        _own(gradient, tile, first).neg_()
        d_image[tile] = scale * (gradient @ texts)
        d_texts.addmm_(gradient.T, scale * image[tile])
        d_bias += gradient.sum(dtype=torch.float64)
        d_scale += gradient.mul_(likeness).sum(dtype=torch.float64)
    d_text = ranks.sum(d_texts)[first : first + len(text)]
    loss = ranks.sum(loss / total)
    return loss.to(image.dtype), d_image, d_text, d_scale.to(scale.dtype), d_bias.to(bias.dtype)


def _tiles(image: torch.Tensor, texts: torch.Tensor) -> list[slice]:
    """The rows of `image` in slices whose logits with all texts fill a tile."""
    rows = max(1, TILE["cpu" if image.device.type == "cpu" else "cuda"] // len(texts))
    return [slice(start, start + rows) for start in range(0, len(image), rows)]


def _log_sums(image: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor,
              ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """log(sum(exp(logits))) of each row of this process [n] and of each column of all [N]."""
    rows, columns = image.new_empty(len(image)), image.new_full((len(texts),), -torch.inf)
    for tile in _tiles(image, texts):
        logits = scale * (image[tile] @ texts.T)
        rows[tile] = logits.logsumexp(1)
        columns = torch.logaddexp(columns, logits.logsumexp(0))
    return rows, ranks.logsumexp(columns)


def _softmaxes(logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Softmax over the row plus softmax over the column of each logit."""
    return (logits - rows[:, None]).exp_().add_(logits.sub_(columns).exp_())


def _own(tile_of_logits: torch.Tensor, tile: slice, first: int) -> torch.Tensor:
    """A view of those logits whose image and text belong together."""
    return tile_of_logits.diagonal(first + tile.start)
