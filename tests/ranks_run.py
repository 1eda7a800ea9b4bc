"""One process of those that take three steps in fp64 together; the first of them writes the weights."""

import torch
from test_train_step import RESNET, batch, tiny

from curate import named
from curate.train import checkpoint, ranks, sharding, towers
from curate.train.loader import Batch
from curate.train.step import AT_ONCE, How, adamw, train_step

OBJECTIVES = {"clip": 2, "siglip": 12}  # and the chunk of each


def steps(objective, chunk, mine, config=None, fsdp=False):
    """Losses and weights after three steps on this process's part of each batch, and how many numbers AdamW keeps
    here."""
    model = tiny(config=config, **objective.model_options).double()
    if config is None:
        towers.drop_patches(model, 0.5)
    encode = sharding.shared_out(model, mine) if fsdp else AT_ONCE.encode
    optimizer, losses = adamw(model, 1e-2, 0.2), []
    for step in range(3):
        whole = batch(12, seed=step)
        own = slice(12 * mine.rank // mine.size, 12 * (mine.rank + 1) // mine.size)
        part = Batch(whole.pixels[own], whole.tokens[own], whole.rows[own], [])
        how = How(chunk=chunk, keep=1, clip_norm=0.5, ranks=mine, encode=encode)
        losses.append(train_step(model, objective, optimizer, part, 1e-2, how, step))
    kept = sum(sharding.own(number).numel() for state in optimizer.state.values() for number in state.values())
    return checkpoint.copied({"losses": losses, "weights": model.state_dict(), "kept": kept})


def main(arguments):
    (out,) = arguments
    with ranks.joined(torch.device("cpu")) as mine:
        for name, chunk in OBJECTIVES.items():
            found = steps(named.load("train.objectives", name), chunk, mine)
            if mine.first:
                torch.save(found, f"{out}/{name}-{mine.size}.pt")
        if mine.size != 2:
            return
        goal = named.load("train.objectives", "clip")
        for name, chunk, options in (
            ("clip-sharded", 2, {"fsdp": True}),
            ("resnet", None, {"config": RESNET}),
            ("resnet-sharded", None, {"config": RESNET, "fsdp": True}),
        ):
            found = steps(goal, chunk, mine, **options)
            if mine.first:
                torch.save(found, f"{out}/{name}.pt")
