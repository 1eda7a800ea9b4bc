"""One process of those that take three steps in fp64 together; the first of them writes the weights."""

import json
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from test_train_step import RESNET, TINY, batch, tiny

from curate import named
from curate.clip import models
from curate.clip.model_config import find_config
from curate.errors import CurateError
from curate.files import Folder
from curate.train import checkpoint, guard, index, ranks, sharding, shared, sources, towers
from curate.train.loader import Batch, Loader
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
    kept = sum(shared.own(number).numel() for state in optimizer.state.values() for number in state.values())
    return checkpoint.copied({"losses": losses, "weights": model.state_dict(), "kept": kept})


def spoil(data, out, mine):
    """End a run whose first batch is bad."""
    pairs = index.build(sources.of([data], None, [1.0]), Folder(f"{out}/cache-{mine.rank}"), True)
    loader = Loader(pairs, models.tokenizer_of(find_config(TINY)[1]), 32, 16, ranks=mine)
    first = next(loader.batches(0, 1))
    said = guard.bad_batch(Folder(out), loader, first, 1, "the loss is nan", "")
    Path(out, f"own-{mine.rank}.json").write_text(json.dumps([pairs.uids(first.rows), str(said)]))


def stay_away(out, mine):
    """The first process works alone for longer than an exchange may take; then it comes to none."""
    dist.set_timeout(timedelta(seconds=1))
    told = Path(out, "told.txt")
    if mine.first:
        time.sleep(2)
    mine.wait()
    if not mine.first:
        try:
            mine.sum(torch.ones(1))
        except CurateError as error:
            told.write_text(str(error))
    while not told.exists():
        time.sleep(0.05)


def main(arguments):
    out, data = arguments
    with ranks.joined(torch.device("cpu")) as mine:
        for name, chunk in OBJECTIVES.items():
            found = steps(named.load("train.objectives", name), chunk, mine)
            if mine.first:
                torch.save(found, f"{out}/{name}-{mine.size}.pt")
        if mine.size != 2:
            return
        goal = named.load("train.objectives", "clip")
        for fsdp in (False, True):
            found = steps(goal, 2, mine, RESNET, fsdp)
            if mine.first:
                torch.save(found, f"{out}/resnet-{fsdp}.pt")
        spoil(data, out, mine)
        stay_away(out, mine)
