"""Train a CLIP model: sample i is a pure function of the seed and i, so a run can stop anywhere and go on bit for bit.

The result is an open_clip state dict (model.pt) with its config, so that every tool that knows open_clip loads it.
"""

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

import curate
from curate import models, named
from curate.encoders import image_size
from curate.errors import CurateError
from curate.files import Folder
from curate.train import checkpoint, index
from curate.train.checkpoint import CONFIG, MODEL, RUN, State
from curate.train.loader import Loader
from curate.train.loop import Schedule, train
from curate.train.step import adamw

DEFAULT_MODEL = "ViT-B-32"
DEFAULT_BATCH = 1024  # pairs, or all of a smaller dataset
LAST = 10  # lines of the log whose mean loss is reported as the last


def run(data: Sequence[str], out: str | None = None, model: str | None = None, init: str | None = None,
        objective: str = "clip", batch_size: int | None = None, epochs: float = 32.0, lr: float = 5e-4,
        warmup: int = 2000, weight_decay: float = 0.2, precision: str = "auto", device: str = "auto",
        workers: int | None = None, save_every: int = 500, selection: str | None = None, resume: bool = True,
        seed: int = 0) -> tuple[str, dict[str, Any], dict[str, str]]:  # fmt: skip
    """Train on `data` into the folder `out`; comes back with (summary, numbers, failed shards).

    A finished run with the same options is left alone, an unfinished one goes on. Raises CurateError for options that
    cannot work, for a run that was started with others, and where the loss is not finite.
    """
    _check_positive(batch_size=1 if batch_size is None else batch_size, epochs=epochs, lr=lr, save_every=save_every)
    folder, where = Folder(out or f"runs/{_name(data[0])}"), models.torch_device(device)
    goal = named.load("train.objectives", objective)
    name, config = models.config_of(model or (None if init else DEFAULT_MODEL), init)
    config = {**config, **goal.model_options}
    found = index.sources(data, selection)
    pairs = index.build(found, folder.within("cache"))
    if batch_size is None:
        batch_size = max(1, min(DEFAULT_BATCH, len(pairs)))
    if len(pairs) < batch_size:
        raise CurateError(f"{len(pairs):,} pairs are fewer than one batch of {batch_size:,}; --batch-size {len(pairs)}")
    precision = models.precision_on(precision, where)
    options = {"model": name, "init": init and models.made_by(name, init)["weights"], "objective": objective,
               "batch_size": batch_size, "epochs": epochs, "lr": lr, "warmup": warmup, "weight_decay": weight_decay,
               "precision": precision, "seed": seed, "config": config}  # fmt: skip
    about = {"sources": [{"url": source.url, "selection": source.selection} for source in found],
             "samples": len(pairs), "fingerprint": pairs.fingerprint}  # fmt: skip
    if not resume:
        checkpoint.start_over(folder)
    checkpoint.check_same(folder, options, about)
    if folder.exists(MODEL):
        done = folder.read_json(RUN)
        return f"{done['summary']} (done before)", done["numbers"], pairs.failures
    folder.sweep()
    record = {"options": options, "data": about, "versions": _versions()}
    folder.write_json(RUN, record)
    folder.write_json(CONFIG, config)
    torch.manual_seed(seed)
    network = models.build(config)
    if init:
        models.load_weights(network, name, init)
    loader = Loader(pairs, models.tokenizer_of(config), image_size(network), batch_size, seed, workers)
    steps = math.ceil(epochs * len(pairs) / batch_size)
    schedule = Schedule(steps, lr, min(warmup, steps // 10), save_every, precision)
    state = train(folder, network.to(where), goal, adamw(network, lr, weight_decay), loader, schedule)
    numbers = _numbers(folder, state, batch_size)
    summary = _summary(folder, name, len(pairs), epochs, numbers)
    folder.write_json(RUN, {**record, "summary": summary, "numbers": numbers})
    checkpoint.save_torch(folder, MODEL, {key: value.cpu() for key, value in network.state_dict().items()})
    return summary, numbers, pairs.failures


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise CurateError(f"--{name.replace('_', '-')} {value} is not a positive number")


def _name(data: str) -> str:
    """The last part of a path that names something."""
    parts = [part for part in data.split("/") if part not in ("", ".", "..", "shards") and not set("*{") & set(part)]
    return parts[-1].removesuffix(".tar") if parts else "run"


def _versions() -> dict[str, str]:
    return {"curate": curate.__version__, **{name: version(name) for name in ("torch", "open_clip_torch")}}


def _numbers(folder: Folder, state: State, batch_size: int) -> dict[str, Any]:
    losses = [line["loss"] for line in checkpoint.lines(folder, checkpoint.LOG)]
    timings = checkpoint.lines(folder, checkpoint.TIMINGS)
    seconds = sum(line["seconds"] for line in timings)
    return {
        "run": folder.url,
        "steps": state.step,
        "samples": state.step * batch_size,
        "first_loss": round(losses[0], 4),
        "last_loss": round(sum(losses[-LAST:]) / len(losses[-LAST:]), 4),
        "seconds": round(seconds, 1),
        "samples_per_s": round(sum(line["steps"] for line in timings) * batch_size / seconds, 1),
        "data_wait": round(sum(line["data_wait"] for line in timings) / seconds, 4),
        "undecodable": len(state.undecodable),
    }


def _summary(folder: Folder, name: str, pairs: int, epochs: float, numbers: dict[str, Any]) -> str:
    replaced = f", {numbers['undecodable']:,} images could not be decoded" if numbers["undecodable"] else ""
    return (
        f"train-clip: {name}, {pairs:,} pairs x {epochs:g} epochs, loss {numbers['first_loss']:.2f} -> "
        f"{numbers['last_loss']:.2f} in {numbers['seconds']:,.0f} s ({numbers['samples_per_s']:,.0f} samples/s)"
        f"{replaced}, {folder.url}/{MODEL}"
    )
