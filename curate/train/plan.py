"""What a run will do, decided and checked before it begins."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

import curate
from curate import named
from curate.clip import models
from curate.clip.model_config import config_of, made_by
from curate.errors import CurateError
from curate.train import crops, flops, log, recipe
from curate.train.index import Index
from curate.train.loop import Schedule, Watch
from curate.train.progress import Arithmetic
from curate.train.recipe import Settings
from curate.train.sources import Source
from curate.words import counted

DEFAULT_MODEL = "ViT-B-32"
DEFAULT_BATCH = 1024  # pairs, or all of a smaller dataset
LOOKED_AT = 4096  # texts, of the first batch
TELLING = 0.1  # of the loss of a guess: from there on equal texts are worth a word


def settings(name: str | None, init: str | None, values: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Every value of a run with its origin, and the config of its model. Raises CurateError for a name or value that
    is none."""
    unknown = next((value for value in values if value not in recipe.DEFAULTS), None)
    if unknown:
        raise TypeError(f"train-clip has no option '{unknown}'")
    found = recipe.settings(name, values)
    goal = named.load("train.objectives", found["objective"])
    crops.named(found["crop"])
    model, config = config_of(found["model"] or (None if init else DEFAULT_MODEL), init)
    config = {**config, **goal.model_options}
    if found["crop"] == "squash":  # evaluated as it was trained
        config["preprocess_cfg"] = {**config.get("preprocess_cfg", {}), "resize_mode": "squash"}
    origin = "--init" if init else "default"
    if found["model"] is None:
        found = found.put("model", model, origin)
    scale = config.get("init_logit_scale", math.log(1 / 0.07))
    if found["temperature"] is None:
        found = found.put("temperature", round(math.exp(-scale), 6), f"objective {found['objective']}")
    else:
        config["init_logit_scale"] = math.log(1 / found["temperature"])
    return recipe.with_model(found, config), config


def check(data: Sequence[str], watch: Watch, chunk: int | None = None, eval_every: int | None = None,
          workers: int | None = None, cache_size: float = 1.0) -> None:  # fmt: skip
    """Raises CurateError for options that cannot work, whatever the data."""
    for name in ("save_every", "keep", "max_spike", "eval_every"):
        value = getattr(watch, name)
        if value is not None and not value > 0:
            raise CurateError(f"--{name.replace('_', '-')} {value} is not a positive number")
    if watch.evaluator is None and eval_every is not None:
        raise CurateError("--eval-every says how often --eval is asked; name a benchmark with --eval")
    if workers is not None and workers < 0:
        raise CurateError(f"--workers {workers} is not a number of threads")
    if not cache_size > 0:
        raise CurateError(f"--cache-size {cache_size:g} is not a positive number")
    if chunk is not None and chunk < 1:
        raise CurateError(f"--chunk {chunk} is not a positive number")
    if not data:
        raise CurateError("nothing to train on: name a dataset, or a folder or glob of tars")
    log.check(watch.tensorboard, watch.wandb)


def on_data(found: Settings, device: torch.device, pairs: int, compares: bool) -> Settings:
    """The settings with what depends on the device and the number of pairs. Raises CurateError where the pairs are
    fewer than a batch, or a batch too few for an objective that compares them with each other."""
    if found["precision"] == "auto":
        found = found.put("precision", models.precision_on("auto", device), f"default on {device.type}")
    if found["batch_size"] is None:
        found = found.put("batch_size", max(1, min(DEFAULT_BATCH, pairs)), "default")
    if pairs < found["batch_size"]:
        size = found["batch_size"]
        raise CurateError(f"{counted(pairs, 'pair')} in all, fewer than one batch of {size:,}; --batch-size {pairs}")
    if compares and found["batch_size"] < 2:
        raise CurateError(f"a batch of one pair teaches nothing: the objective {found['objective']} compares the pairs "
                          f"of a batch with each other; {counted(pairs, 'pair')} in all")  # fmt: skip
    return found


def schedule(found: Settings, pairs: int) -> Schedule:
    samples = found["samples"] or found["epochs"] * pairs
    steps = math.ceil(samples / found["batch_size"])
    warmup = min(found["warmup"], steps // 10)
    return Schedule(steps, found["lr"], warmup)


def record(found: Settings, config: dict[str, Any], init: str | None, seed: int, sources: Sequence[Source],
           pairs: Index) -> dict[str, Any]:  # fmt: skip
    """What run.json says before the first step: options that a run must go on with, its data, versions."""
    weights = init and made_by(found["model"], init)["weights"]
    return {
        "options": {**found.values, "init": weights, "seed": seed, "config": config},
        "origins": dict(found.origins),
        "data": {
            "sources": [
                {"url": source.url, "selection": source.selection, "weight": source.weight} for source in sources
            ],
            "samples": len(pairs),
            "fingerprint": pairs.fingerprint,
        },
        "versions": {"curate": curate.__version__, **{name: version(name) for name in ("torch", "open_clip_torch")}},
    }


def notes(pairs: Index, batch_size: int, compares: bool) -> list[str]:
    """What the user should know of the data before it is trained on."""
    found = []
    if pairs.empty:
        found.append(f"{counted(pairs.empty, 'empty caption')}, nothing to learn from; drop them: "
                     "curate filter DATASET --where \"caption != ''\"")  # fmt: skip
    if compares and batch_size > 1:
        captions = pairs.captions(min(batch_size, LOOKED_AT))
        counts = Counter(captions)
        # of c equal texts none can be told from the others: each of their losses is log c at least, both ways
        least = sum(count * math.log(count) for count in counts.values()) / len(captions)
        if least > TELLING * math.log(len(captions)):
            found.append(f"{len(captions):,} pairs have only {counted(len(counts), 'different text')}, which nothing "
                         f"tells apart in a batch: the contrastive loss cannot fall below {least:.2f}")  # fmt: skip
    return found


def arithmetic(config: dict[str, Any], device: torch.device, precision: str) -> Arithmetic:
    return Arithmetic(*flops.of_pair(config), flops.peak(device, precision))
