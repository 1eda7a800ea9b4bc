"""The gradient of a batch that does not fit in memory, chunk by chunk, equal to that of the batch at once.

Features of all chunks come first, without what their gradients need; the loss of the whole batch gives the gradient of
every feature; then each chunk is encoded again, with the same random numbers, and passes its own on to the weights
(GradCache: Gao et al. 2021). Chunks that do fit keep their graph and are encoded once.

Equal but for batch norm: its statistics are those of a chunk, as on any machine with several GPUs. The running ones
are updated once for each sample, not again when a chunk is encoded a second time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from curate.train.chunk import Chunk, Encode, Encoded, encoded_by
from curate.train.ranks import ALONE, Ranks


def backward(model: Any, objective: Any, chunks: Sequence[Chunk], keep: int | None = None, total: float = 1.0,
             ranks: Ranks = ALONE, encode: Encode = encoded_by) -> torch.Tensor:  # fmt: skip
    """Add this process's part of the gradient to the weights; comes back with the loss of the whole batch (a scalar,
    equal in all processes). The graphs of the last `keep` chunks are kept (None: of all); `total` is what shares of the
    loss are divided by, over all processes. `encode`: what asks the objective."""
    encode = partial(_replayed, encode, model, objective)
    drafts = 0 if keep is None else max(0, len(chunks) - keep)
    if not objective.compares:
        return ranks.sum(torch.stack([_own_loss(encode(chunk), total) for chunk in chunks]).sum())
    with torch.no_grad():
        encoded = [encode(chunk) for chunk in chunks[:drafts]]
    encoded += [encode(chunk) for chunk in chunks[drafts:]]
    features = [torch.cat(parts).detach().requires_grad_() for parts in zip(*(each.features for each in encoded))]
    loss = objective.loss(model, features, ranks)
    loss.backward()
    sizes = [len(chunk) for chunk in chunks]
    gradients = list(zip(*(_split(feature.grad, sizes) for feature in features)))
    own = loss.new_zeros(())
    for at in [*range(drafts, len(chunks)), *range(drafts)]:
        if at < drafts:
            with statistics_kept(model):
                encoded[at] = encode(chunks[at])
        own += _own_loss(encoded[at], total, gradients[at])
        encoded[at] = Encoded()  # its graph is done with
    return loss.detach() + ranks.sum(own)


def _replayed(encode: Encode, model: Any, objective: Any, chunk: Chunk) -> Encoded:
    torch.manual_seed(chunk.seed)
    return encode(model, objective, chunk)


def _split(gradient: torch.Tensor | None, sizes: list[int]) -> Sequence[torch.Tensor | None]:
    return [None] * len(sizes) if gradient is None else gradient.split(sizes)


def _own_loss(encoded: Encoded, total: float, gradients: Sequence[torch.Tensor | None] = ()) -> torch.Tensor:
    """Send the gradient of the features and of the chunk's share of the loss back; the share comes back."""
    pairs = [(feature, gradient) for feature, gradient in zip(encoded.features, gradients)
             if gradient is not None and feature.requires_grad]  # fmt: skip
    if encoded.share is not None:
        share = encoded.share / total
        pairs.append((share, torch.ones_like(share)))
    if pairs:
        torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return share.detach() if encoded.share is not None else torch.zeros((), device=encoded.features[0].device)


@contextmanager
def statistics_kept(model: Any) -> Iterator[None]:
    """Batch norms use the statistics of what they see without counting it into the running ones."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    counted = [module.track_running_stats for module in norms]
    for module in norms:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module, before in zip(norms, counted, strict=True):
            module.track_running_stats = before
