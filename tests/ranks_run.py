"""One, two and four processes, forked of this one, take three steps in fp64; the first of each writes the weights."""

import os
import sys
from multiprocessing import get_context

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


def one(out, rank, size, port):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
    with ranks.joined(torch.device("cpu")) as mine:
        for name, chunk in OBJECTIVES.items():
            found = steps(named.load("train.objectives", name), chunk, mine)
            if mine.first:
                torch.save(found, f"{out}/{name}-{size}.pt")


if __name__ == "__main__":
    for size, port in zip((1, 2, 4), sys.argv[2:], strict=True):
        started = [get_context("fork").Process(target=one, args=(sys.argv[1], rank, size, port))
                   for rank in range(size)]  # fmt: skip
        for process in started:
            process.start()
        for process in started:
            process.join()
        sys.exit(1) if any(process.exitcode for process in started) else None
