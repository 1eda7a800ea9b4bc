"""Train a CLIP model: sample i is a pure function of the seed and i, so a run can stop anywhere and go on bit for bit.

The result is an open_clip state dict (model.pt) with its config, so that every tool that knows open_clip loads it.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from curate import named
from curate.clip import models
from curate.clip.encoders import image_size
from curate.errors import CurateError
from curate.files import Folder
from curate.train import checkpoint, crops, index, plan, prepare, ranks, sources, summary
from curate.train.checkpoint import CONFIG, LEFT_BY_STEPS, MODEL, OBJECTIVE, RUN, State
from curate.train.loader import Loader
from curate.train.loop import Evaluator, Trainer, Watch
from curate.train.step import adamw

CACHE_GB = 200.0  # of tars fetched from a store: five windows of 256 px images, of 1,000,000 each


def warned(line: str) -> None:
    sys.stderr.write(f"curate: {line}\n")


def run(data: Sequence[str], out: str | None = None, recipe: str | None = None, init: str | None = None,
        device: str = "auto", workers: int | None = None, save_every: int = 500, keep: int = 2,
        max_spike: float | None = None, evaluator: Evaluator | None = None, eval_every: int | None = None,
        tensorboard: bool = False, wandb: str | None = None, selection: str | None = None, resume: bool = True,
        seed: int = 0, show: bool = False, mixed: Sequence[tuple[str, float]] = (), cache: str | None = None,
        cache_size: float = CACHE_GB, chunk: int | None = None, grad_checkpointing: bool = False,
        compiled: bool = False, fsdp: bool = False, note: Callable[[str], None] = warned,
        **values: Any) -> tuple[str, dict[str, Any], dict[str, str]]:  # fmt: skip
    """Train on `data` into the folder `out`; comes back with (summary, numbers, failed shards).

    `values` are those of recipe.DEFAULTS (model, objective, batch_size, epochs, lr ...); what is not given is the
    recipe's, or ours. `evaluator`, `keep` and `max_spike`: see loop.Watch. `show` trains nothing: the summary is a
    table of every value and its origin. `note` is told what the user should know. `chunk`: samples encoded at a time;
    with it, `grad_checkpointing`, `compiled` and `fsdp` a run is the same but for rounding. `mixed`: more data, with
    the passes over it in one epoch (those of `data` are 1). `cache`: folder of the index and of tars fetched from a
    store, at most `cache_size` GB of them; RUN/cache by default.

    A finished run with the same options is left alone, an unfinished one goes on. Raises CurateError for options that
    cannot work, for a run that was started with others, and where the loss is not finite.
    """
    settings, config = plan.settings(recipe, init, values)
    if show:
        return settings.table(), {"values": dict(settings.values), "origins": dict(settings.origins)}, {}
    every = save_every if eval_every is None else eval_every
    watch = Watch(save_every, keep, max_spike, evaluator, every, tensorboard, wandb)
    data, weights = [*data, *(url for url, _ in mixed)], [1.0] * len(data) + [weight for _, weight in mixed]
    plan.check(data, watch, chunk, eval_every, workers, cache_size)
    folder, where = _folder(out, data), models.torch_device(ranks.own_device(device))
    with ranks.joined(where) as mine, _begun(folder, mine.first):
        if fsdp:
            prepare.sharding().check(mine, compiled)
        found = sources.of(data, selection, weights)
        if not mine.first:
            mine.wait()  # until the first process has built the index and begun the folder
        chosen: Any = named.plugin("train.objectives", named.parse(settings["objective"]))
        captions = not {"text", "tokens"}.isdisjoint(chosen.needs)
        pairs = index.build(found, Folder(cache) if cache else folder.within("cache"), captions)
        compares = getattr(chosen, "compares", False)
        settings = plan.on_data(settings, where, len(pairs), compares)
        ranks.check(mine, settings["batch_size"])
        record = plan.record(settings, config, init, seed, found, pairs)
        if mine.first:
            _begin(folder, record, resume)
            mine.wait()
        if folder.exists(MODEL):
            done = folder.read_json(RUN)
            return f"{done['summary']} (done before)", done["numbers"], pairs.failures
        torch.manual_seed(seed)
        network, goal = models.build(config), named.load("train.objectives", settings["objective"])
        if init:
            models.load_weights(network, settings["model"], init)
        tokenizer = models.tokenizer_of(config)
        prepare.everything(network, goal, settings, config, pairs, tokenizer, where, grad_checkpointing)
        crop = getattr(goal, "crop", crops.named(settings["crop"]))
        loader = Loader(pairs, tokenizer, image_size(network), settings["batch_size"], seed, workers, crop,
                        getattr(goal, "views", 1), mine, where.type == "cuda", settings["shuffle"],
                        cache_size * 1e9)  # fmt: skip
        for line in plan.notes(pairs, settings["batch_size"], compares) if mine.first else ():
            note(line)
        how = prepare.how(network, goal, settings, mine, chunk, pairs, tokenizer, fsdp, compiled)
        optimizer = adamw(network, settings["lr"], settings["weight_decay"], goal,
                          betas=(settings["beta1"], settings["beta2"]), eps=settings["eps"])  # fmt: skip
        watch = replace(watch, arithmetic=plan.arithmetic(config, where, settings["precision"]))
        made_by = {"model": settings["model"], "data": pairs.fingerprint}
        trainer = Trainer(folder, network, goal, optimizer, loader, plan.schedule(settings, len(pairs)), watch, made_by,
                          note, how)  # fmt: skip
        state = trainer.train()
        trained = checkpoint.copied(network.state_dict(), mine.first)
        if not mine.first:
            return "", {}, pairs.failures
        return *_finish(folder, record, state, trained, goal), pairs.failures


@contextlib.contextmanager
def _begun(folder: Folder, first: bool) -> Iterator[None]:
    """What is refused before the first step leaves nothing behind: the options that are mended may go there."""
    place = folder.path()
    before = set(os.listdir(place)) if os.path.isdir(place) else None
    try:
        yield
    except CurateError:
        kept = [name for name in LEFT_BY_STEPS if folder.exists(name)]
        if first and RUN not in (before or ()) and os.path.isdir(place) and not any(map(folder.size, kept)):
            for name in set(os.listdir(place)) - (before or set()):
                folder.remove(name)
            if before is None:
                os.rmdir(place)
        raise


def _begin(folder: Folder, record: dict[str, Any], resume: bool) -> None:
    """Make the folder of a run, or find it as the same options left it. Raises CurateError for others."""
    if not resume:
        checkpoint.start_over(folder)
    checkpoint.check_same(folder, record["options"], record["data"])
    if not folder.exists(MODEL):
        folder.sweep()
        folder.write_json(RUN, record)
        folder.write_json(CONFIG, record["options"]["config"])


def _finish(folder: Folder, record: dict[str, Any], state: State, trained: dict[str, torch.Tensor],
            goal: Any) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """Write the model; summary and numbers of the run."""
    numbers = summary.numbers(folder, state, record["options"]["batch_size"])
    line = summary.line(folder, record, numbers)
    folder.write_json(RUN, {**record, "summary": line, "numbers": numbers})
    if own := checkpoint.copied(dict(goal.state_dict())):
        content = {"objective": record["options"]["objective"], "state_dict": own}
        checkpoint.save_torch(folder, OBJECTIVE, content)
    checkpoint.save_torch(folder, MODEL, trained)
    return line, numbers


def _folder(out: str | None, data: Sequence[str]) -> Folder:
    """Where the run lies; by default the last part of the first path that names something. Raises CurateError."""
    parts = [part for part in data[0].split("/") if part not in ("", ".", "..", "shards") and not set("*{") & set(part)]
    folder = Folder(out or f"runs/{parts[-1].removesuffix('.tar') if parts else 'run'}")
    if not folder.is_local:
        raise CurateError(f"--out {folder.url} is not on this machine; train into a local folder and copy it")
    return folder
