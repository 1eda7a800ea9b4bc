"""Runs that learn no text tower judge by their objective: how probable it finds a class name, given the image.

Captioning, n-grams and bag of words predict words from the image alone, so there is nothing to compare images with but
the prediction itself. That is how figure 2 of the CLIP paper compares them with contrastive training.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from curate import named
from curate.clip.encoders import encode_image, normalised, preprocessing, resized
from curate.clip.model_config import weights_file
from curate.clip.models import ClipModel
from curate.errors import CurateError
from curate.files import Folder

TEXTS = ("zero-shot", "retrieval", "typographic", "robustness")  # tasks that need a word for a class or an image


class Seen:
    """Images as the `scores` of an objective read them: what it may ask of a chunk of a batch in training."""

    def __init__(self, model: ClipModel, images: Sequence[np.ndarray]):
        squash = preprocessing(model.model)["resize_mode"] == "squash"
        self.pixels = torch.stack([resized(image, model.image_size, squash) for image in images])
        self.device, self.precision, self._ready = model.device, model.precision, model.ready["image"]

    def input(self, model: Any) -> torch.Tensor:
        """Normalised pixels [n, 3, s, s]."""
        return normalised(self.pixels.to(self.device), model).to(next(model.visual.parameters()).dtype)

    def image(self, model: Any, unit: bool = True) -> torch.Tensor:
        """fp32 features [n, d], of length 1 or as they come."""
        found = encode_image(model, self.input(model), self._ready).float()
        return F.normalize(found, dim=-1) if unit else found


class Judge:
    """An objective with its weights, beside the model that it was trained with."""

    def __init__(self, model: ClipModel, name: str, goal: Any):
        self.model, self.name, self.goal = model, name, goal.to(model.device).eval()

    @functools.cached_property
    def made_by(self) -> dict[str, str]:
        """Changes with the objective, its options and its weights."""
        digest = hashlib.sha256()
        for key, value in sorted(self.goal.state_dict().items()):
            digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return {"name": self.name, "weights": digest.hexdigest()}

    @property
    def names_classes(self) -> bool:
        return hasattr(self.goal, "scores")

    def check(self, task: str) -> None:
        """Raises CurateError for a task that this objective has no words for."""
        check(self.name, self.goal, task)

    @torch.inference_mode()
    def scores(self, images: Sequence[np.ndarray], sentences: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 [n, classes] of RGB uint8 [h, w, 3] images: the mean log-probability of a token, and its mean over
        the sentences of each class."""
        if not images:
            return np.zeros((0, len(sentences)), np.float32)
        tokens = self.model.tokenizer([text for some in sentences for text in some])
        found = self.goal.scores(self.model.model, Seen(self.model, images), tokens).float().cpu().numpy()
        ends = np.cumsum([len(some) for some in sentences])
        return np.stack([part.mean(axis=1) for part in np.split(found, ends[:-1], axis=1)], axis=1)


def judges(goal: Any) -> bool:
    """Whether the runs of an objective are judged by it: they learn no text tower."""
    return hasattr(goal, "scores") or {"text", "tokens"}.isdisjoint(goal.needs)


def check(name: str, goal: Any, task: str) -> None:
    """Raises CurateError for a task that an objective which judges its runs has no words for."""
    if task in TEXTS and not hasattr(goal, "scores"):
        raise CurateError(f"a run of --objective {name} learns of no texts: no {task}; --task linear-probe and "
                          f"few-shot judge its images")  # fmt: skip
    if task == "retrieval":
        raise CurateError(f"a run of --objective {name} has no features of texts to search with: no retrieval; "
                          f"zero-shot works, on benchmarks with classes")  # fmt: skip


def judge_of(pretrained: str, model: ClipModel) -> Judge | None:
    """The judge of a run, or of a checkpoint in it; None where images and texts are compared by their features. Raises
    CurateError where weights of the objective are missing, or are those of another one."""
    weights = weights_file(pretrained)
    if weights is None:
        return None
    folder, name = weights
    above, _, own_name = folder.url.rstrip("/").rpartition("/")
    run = Folder(above or ".") if own_name == "checkpoints" else folder
    about = run.read_json("run.json") if run.exists("run.json") else {}
    spec = about.get("options", {}).get("objective") if isinstance(about, dict) else None
    if not spec:
        return None
    file = named.parse(spec).name
    if file.endswith(".py") and not Path(file).is_file() and not run.exists("objective.pt"):
        return None  # it had no weights, and is no longer there to say more
    goal = named.load("train.objectives", spec)
    if not judges(goal):
        return None
    if hasattr(goal, "sized"):
        _restore(goal, _own(folder, name), spec, f"{folder.url}/{name}")
    return Judge(model, spec, goal)


def _own(folder: Folder, name: str) -> Mapping[str, torch.Tensor]:
    """The objective's state dict: beside model.pt, or inside a checkpoint."""
    if name == "model.pt" and not folder.exists("objective.pt"):
        return {}
    with folder.local("objective.pt" if name == "model.pt" else name) as path:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content.get("state_dict" if name == "model.pt" else "objective", {})


def _restore(goal: Any, own: Mapping[str, torch.Tensor], spec: str, shown: str) -> None:
    if not own:
        raise CurateError(f"{shown} was trained with --objective {spec}, but the weights of the objective are not "
                          f"there: objective.pt lies beside model.pt, where train-clip wrote both")  # fmt: skip
    try:
        goal.sized(own)
        goal.load_state_dict(own)
    except (RuntimeError, KeyError) as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise CurateError(f"the weights of the objective of {shown} are not those of {spec}: {reason[:160]}") from error
