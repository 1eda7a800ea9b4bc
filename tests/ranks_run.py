"""One process of a run of several: three steps in fp64 on its part of each batch; the first one writes the weights."""

import sys

import torch
from test_train_step import batch, tiny

from curate import named
from curate.train import ranks, towers
from curate.train.loader import Batch
from curate.train.step import How, adamw, train_step

if __name__ == "__main__":
    out, objective, chunk = sys.argv[1], named.load("train.objectives", sys.argv[2]), int(sys.argv[3])
    with ranks.joined(torch.device("cpu")) as mine:
        model = tiny(**objective.model_options).double()
        towers.drop_patches(model, 0.5)
        optimizer, losses = adamw(model, 1e-2, 0.2), []
        for step in range(3):
            whole = batch(12, seed=step)
            own = slice(12 * mine.rank // mine.size, 12 * (mine.rank + 1) // mine.size)
            part = Batch(whole.pixels[own], whole.tokens[own], whole.rows[own], [])
            losses.append(
                train_step(model, objective, optimizer, part, 1e-2, How(chunk=chunk, keep=1, ranks=mine), step)
            )
        if mine.first:
            torch.save({"losses": losses, "weights": model.state_dict()}, out)
