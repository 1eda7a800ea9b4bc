"""How much of a batch fits at a time: measured bytes of what gradients need, and the chunks that follow from them."""

from typing import Any, NamedTuple

import torch

from curate.errors import CurateError
from curate.train.cached import statistics_kept
from curate.train.chunk import cut
from curate.train.loader import Batch
from curate.train.ranks import Ranks
from curate.train.shared import blocks
from curate.train.tiled import TILE
from curate.train.towers import set_training

SPARE = 0.9  # of the memory is planned with: the rest is for the allocator's gaps and the libraries
AROUND = 1.15  # times the saved bytes: what a backward pass holds for a moment
LARGEST = 1024  # samples in a chunk; larger ones are no faster
TILES = 4  # of logits at the same time
BYTES_OF_A_WEIGHT = 4 + 4 + 8 + 2  # itself, its gradient, AdamW's two averages, its bf16 copy


class Saved(NamedTuple):
    """Bytes that the graph of a chunk keeps for its gradient: fixed, and for each sample."""

    fixed: int
    sample: int


class Parts(NamedTuple):
    """Bytes that a step needs whatever the chunk, part by part."""

    weights: int
    pixels: int
    features: int
    tiles: int


def room(model: Any, objective: Any, ranks: Ranks) -> int:
    """Bytes for model, objective and a step on the GPU where they lie, the fewest of all processes: what nobody has
    taken, and what they take already."""
    device = model.logit_scale.device
    own = sum(tensor.nbytes for each in (model, objective) for tensor in (*each.parameters(), *each.buffers()))
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(ranks.gather(torch.tensor([own + free], device=device)).min())


def saved_bytes(model: Any, objective: Any, batch: Batch, precision: str) -> Saved:
    """Measured on a third of `batch` and on the whole: what autograd saves, each storage once, without the weights."""
    set_training(model)
    device = model.logit_scale.device
    with statistics_kept(model):
        few, many = (_saved(model, objective, batch, rows, device, precision) for rows in
                     (len(batch.pixels) // 3, len(batch.pixels)))  # fmt: skip
    sample = (many - few) // (len(batch.pixels) - len(batch.pixels) // 3)
    return Saved(max(0, many - sample * len(batch.pixels)), max(1, sample))


def _saved(model: Any, objective: Any, batch: Batch, rows: int, device: torch.device, precision: str) -> int:
    ours = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *objective.parameters())}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    some = Batch(batch.pixels[:rows].to(device), batch.tokens[:rows], batch.rows[:rows], [])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        encoded = objective.encode(model, cut(some, None, device, precision)[0])
    kept = sum(sizes.values())
    del encoded
    return kept


def parts(model: Any, objective: Any, samples: int, all_samples: int, views: int, dimensions: int,
          device_kind: str, shares: int = 1) -> Parts:  # fmt: skip
    """`samples` of this process, of `all_samples` in the batch; `dimensions` of a feature; `shares`: processes that
    the weights are shared out over."""
    weights = sum(p.numel() * (BYTES_OF_A_WEIGHT if p.requires_grad else 6)
                  for p in (*model.parameters(), *objective.parameters()))  # fmt: skip
    weights = weights if shares == 1 else weights // shares + _gathered(model)
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    logits = max(TILE[device_kind], all_samples)
    return Parts(weights, samples * views * 3 * height * width, (5 * samples + 3 * all_samples) * dimensions * 4,
                 TILES * logits * 4)  # fmt: skip


def _gathered(model: Any) -> int:
    """Bytes of what is whole for a while where weights are shared out: those outside of the blocks and two blocks, with
    gradients, and the bf16 copies of all."""
    every = sum(weight.numel() for weight in model.parameters())
    sizes = [sum(weight.numel() for weight in block.parameters()) for block in blocks(model)]
    return 8 * (every - sum(sizes) + 2 * max(sizes, default=0)) + 2 * every


def plan(needs: Parts, saved: Saved, samples: int, memory: int) -> tuple[int | None, int | None]:
    """(samples of a chunk, chunks whose graph is kept) for `samples` in `memory` bytes; (None, None): all at once.
    Raises CurateError where not even one sample fits."""
    free = memory * SPARE - sum(needs)
    fit = int((free / AROUND - saved.fixed) // saved.sample)
    if fit >= samples:
        return None, None
    if fit < 1:
        raise CurateError(
            f"a batch of {samples:,} does not fit in {memory / 2**30:.0f} GiB: weights, pixels and features take "
            f"{sum(needs) / 2**30:.1f} GiB, a sample {saved.sample / 2**20:.1f} MiB; a smaller --batch-size, "
            f"--grad-checkpointing or more processes"
        )
    chunk = min(LARGEST, 1 << max(0, (fit // 2).bit_length() - 1))
    kept = int((free / AROUND) // (saved.fixed + chunk * saved.sample)) - 1  # the last one is for a chunk encoded again
    return chunk, max(0, kept)


def smaller(chunk: int | None, keep: int | None, samples: int) -> tuple[int, int] | None:
    """The plan to follow where (chunk, keep) took more than it should: half the graphs, and once none is kept, half the
    chunk. None where nothing is left to halve."""
    if chunk is None or keep is None:
        chunk = min(LARGEST, chunk or samples)
        keep = -(-samples // chunk)
    if keep:
        return chunk, keep // 2
    return (chunk // 2, 0) if chunk > 1 else None
