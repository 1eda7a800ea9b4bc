"""Weights, gradients and AdamW's averages shared out over the processes, each holding 1/n of every tensor (FSDP2).

A residual block is gathered when a chunk enters it, forwards and backwards, and let go again; what lies outside of the
blocks stays gathered while a step lasts. Gradients are summed over the processes as each chunk gives them. The scalars
of the model (the temperature, SigLIP's bias) and the weights of the objective are whole in every process.

Loaded for --fsdp alone: torch's part of it takes a second to import.
"""

import functools
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from curate.clip.attention import live_residual
from curate.clip.encoders import GATHERED, image_tower, text_tower
from curate.errors import CurateError
from curate.train.chunk import Chunk, Encoded
from curate.train.ranks import Ranks
from curate.train.shared import blocks


def check(ranks: Ranks, compiled: bool) -> None:
    """Raises CurateError where weights cannot be shared out."""
    if ranks.size == 1:
        raise CurateError("--fsdp shares the weights out over processes, and there is one: torchrun --nproc-per-node 4 "
                          "-m curate train-clip ...")  # fmt: skip
    if compiled:
        raise CurateError("--fsdp and --compile do not go together: leave one of them out")


class Entry(torch.nn.Module):
    """Where FSDP comes in: it gathers the weights outside of the blocks around `forward`, whatever an objective then
    asks of the model."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, model: Any, objective: Any, chunk: Chunk) -> Encoded:
        return objective.encode(model, chunk)


def shared_out(model: Any, ranks: Ranks) -> Entry:
    """Share the weights of `model` out, in place; through what comes back objectives encode."""
    mesh = init_device_mesh(torch.device(ranks.device).type, (ranks.size,))
    packed = [tower for tower in (image_tower(model), text_tower(model)) if tower is not None]
    rows = [block for tower in packed for block in tower.transformer.resblocks]
    scalars = {weight for weight in model.parameters() if weight.ndim == 0}
    entry = Entry(model)
    for part in [*blocks(model), entry]:
        fully_shard(part, mesh=mesh, ignored_params=scalars)
        part.set_gradient_divide_factor(1.0)  # the loss is the batch's: its gradients are summed
        part.set_force_sum_reduction_for_comms(True)  # gloo scales nothing
    for block in rows:
        setattr(block, GATHERED, functools.partial(live_residual, block))
        register_fsdp_forward_method(block, GATHERED)
    return entry
