"""One process of those that take three steps in fp64 together; the first of them writes the weights."""

import torch
from test_train_step import batch, tiny

from curate import named
from curate.train import ranks, towers
from curate.train.loader import Batch
from curate.train.step import How, adamw, train_step

OBJECTIVES = {"clip": 2, "siglip": 12}  # and the chunk of each


def steps(objective, chunk, mine):
    """Losses and weights of three steps on this process's part of each batch."""
    model = tiny(**objective.model_options).double()
    towers.drop_patches(model, 0.5)
    optimizer, losses = adamw(model, 1e-2, 0.2), []
    for step in range(3):
        whole = batch(12, seed=step)
        own = slice(12 * mine.rank // mine.size, 12 * (mine.rank + 1) // mine.size)
        part = Batch(whole.pixels[own], whole.tokens[own], whole.rows[own], [])
        how = How(chunk=chunk, keep=1, ranks=mine)
        losses.append(train_step(model, objective, optimizer, part, 1e-2, how, step))
    return {"losses": losses, "weights": model.state_dict()}


def main(arguments):
    (out,) = arguments
    with ranks.joined(torch.device("cpu")) as mine:
        for name, chunk in OBJECTIVES.items():
            found = steps(named.load("train.objectives", name), chunk, mine)
            if mine.first:
                torch.save(found, f"{out}/{name}-{mine.size}.pt")
