"""What is trained, made ready: objective fitted, towers locked, patches dropped, teacher loaded, chunks sized."""

import importlib
from typing import Any

import numpy as np
import torch

from curate.clip import models
from curate.clip.encoders import embed_dim, image_size
from curate.clip.model_config import config_of
from curate.errors import CurateError
from curate.train import memory, towers
from curate.train.chunk import Encode, encoded_by
from curate.train.index import Index
from curate.train.loader import Batch
from curate.train.ranks import Ranks
from curate.train.recipe import Settings
from curate.train.step import How

PROBED = 48  # samples that memory is measured on
FITTED = 10_000_000  # captions that an objective is fitted on, the first ones of the data


def everything(model: Any, goal: Any, found: Settings, config: dict[str, Any], pairs: Index, tokenizer: Any,
               device: torch.device, grad_checkpointing: bool) -> None:  # fmt: skip
    """Model and objective as they are trained, on `device`. Raises CurateError for what does not go together."""
    if hasattr(goal, "fit"):
        goal.fit(model, pairs.captions(FITTED), tokenizer)
    towers_of(model, goal, found)
    if found["distill"]:
        teach(goal, found["objective"], found["distill"], config, device)
    if grad_checkpointing:
        towers.checkpoint_activations(model)
    model.to(device)
    goal.to(device)


def towers_of(model: Any, goal: Any, found: Settings) -> None:
    """Lock what is not to learn, and put the patch dropout in. Raises CurateError where nothing is left to learn."""
    wanted = [side for side in towers.SIDES if found[f"lock_{side}"]]
    if len(wanted) == len(towers.SIDES) and goal.compares:
        raise CurateError("--lock-image and --lock-text together leave nothing to train")
    if "text" not in goal.needs:
        wanted.append("text")  # the objective never asks it
    for side in set(wanted):
        towers.lock(model, side)
    if found["patch_dropout"]:
        towers.drop_patches(model, found["patch_dropout"])


def teach(goal: Any, objective: str, checkpoint: str, config: dict[str, Any], device: torch.device) -> None:
    """Give the objective a teacher. Raises CurateError where it takes none, or where that one reads other texts or
    images of another size."""
    if not hasattr(goal, "teacher"):
        raise CurateError(f"--distill works with --objective clip, not with {objective}")
    name, theirs = config_of(None, checkpoint)
    network = models.build(theirs)
    models.load_weights(network, name, checkpoint)
    mine, other = models.tokenizer_of(config), models.tokenizer_of(theirs)
    if type(mine) is not type(other) or theirs["text_cfg"].get("context_length", 77) != config["text_cfg"].get(
        "context_length", 77
    ):
        raise CurateError(f"the teacher {checkpoint} ({name}) reads texts otherwise than this model: other tokens")
    if image_size(network) != config["vision_cfg"].get("image_size", 224):
        raise CurateError(
            f"the teacher {checkpoint} ({name}) sees {image_size(network)} pixels, this model "
            f"{config['vision_cfg'].get('image_size', 224)}"
        )
    network.requires_grad_(False)
    goal.teacher.append(network.to(device).eval())


def how(model: Any, goal: Any, found: Settings, ranks: Ranks, chunk: int | None, pairs: Index,
        tokenizer: Any, fsdp: bool = False, compiled: bool = False) -> How:  # fmt: skip
    """How steps are computed; with `fsdp` the weights are shared out from here on. Without a `chunk`, a GPU gets as
    much at a time as fits by measured bytes; a CPU gets the whole batch."""
    device, samples = model.logit_scale.device, found["batch_size"] // ranks.size
    keep: int | None = 0 if chunk else None
    if chunk is None and device.type == "cuda":
        views, size = getattr(goal, "views", 1), image_size(model)
        shape = (PROBED, 3, size, size) if views == 1 else (PROBED, views, 3, size, size)
        some = (pairs.captions(PROBED) * PROBED)[:PROBED]
        probe = Batch(torch.zeros(shape, dtype=torch.uint8), tokenizer(some), np.arange(PROBED), [])
        saved = memory.saved_bytes(model, goal, probe, found["precision"])
        needs = memory.parts(model, goal, samples, found["batch_size"], views, embed_dim(model), "cuda",
                             ranks.size if fsdp else 1)  # fmt: skip
        chunk, keep = memory.plan(needs, saved, samples, memory.room(model, goal, ranks))
    if fsdp:
        encode: Encode = sharding().shared_out(model, ranks)
    else:
        encode = encoded_by
        towers.lay_channels_last(model)  # FSDP takes weights in their usual order alone
    if compiled:  # after memory was measured: each of its sizes would be compiled
        towers.compile_image_tower(model)
    return How(found["precision"], chunk, keep, found["clip_norm"], ranks, encode)


def sharding() -> Any:
    """The module, which takes a second to import and is seldom wanted."""
    return importlib.import_module("curate.train.sharding")
