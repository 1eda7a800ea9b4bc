"""One benchmark as one model sees it: what several tasks need of it is computed when the first one asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from curate.benchmark import has_split, open_benchmark
from curate.clip.encoders import preprocessing
from curate.clip.models import ClipModel
from curate.errors import CurateError
from curate.evaluate import encoded
from curate.evaluate.encoded import NONE, Change, Encoded
from curate.evaluate.judge import Judge
from curate.evaluate.linear_probe import drawn_validation
from curate.evaluate.typographic import Written
from curate.evaluate.zero_shot import classifier, sentences
from curate.files import Folder

VALIDATION = ("val", "validation")


@dataclass(frozen=True)
class Training:
    """Images to learn from: features float32 [n, d], labels int64 [n], keys, and which rows are for validation."""

    features: np.ndarray
    labels: np.ndarray
    keys: list[str]
    held_out: np.ndarray  # bool [n]


class TestSet:
    """The test split of a benchmark, its classes, and its training images where it has any (or `train` has them)."""

    __test__ = False  # for pytest: no test

    def __init__(self, model: ClipModel, path: str, train: str | None = None, cache: Folder | None = None,
                 batch_size: int = 256, seed: int = 0, judge: Judge | None = None):  # fmt: skip
        self.judge = judge  # where the run has one, it says what an image shows
        self.model, self.path, self.cache, self.batch_size, self.seed = model, path, cache, batch_size, seed
        self.train_path = train or path
        self.benchmark = open_benchmark(path)
        self.name = self.benchmark.name

    @cached_property
    def found(self) -> Encoded:
        return encoded.encode(self.model, self.benchmark, self.batch_size, self.cache)

    @cached_property
    def texts(self) -> np.ndarray:
        """float32 [texts, d]"""
        return encoded.text_features(self.model, self.found, self.benchmark, self.cache)

    @cached_property
    def labelled(self) -> np.ndarray:
        """int64: the images that have one class. Raises CurateError where the classes have no names or are too few."""
        labelled = np.flatnonzero(self.found.labels != NONE)
        if len(labelled):
            self._check(self.found.labels[labelled], self.classnames)
        return labelled

    @property
    def classnames(self) -> list[str]:
        return self.benchmark.classnames or []

    @property
    def labels(self) -> np.ndarray:
        return self.found.labels[self.labelled]

    @property
    def features(self) -> np.ndarray:
        return self.found.features[self.labelled]

    @property
    def keys(self) -> list[str]:
        return [self.found.keys[at] for at in self.labelled]

    @cached_property
    def classes(self) -> np.ndarray:
        """float32 [classes, d]: the zero-shot classifier."""
        return classifier(self.model, self.classnames, self.benchmark.templates)

    @cached_property
    def scores(self) -> np.ndarray:
        """float32 [labelled images, classes]"""
        return self.scored()[self.labelled]

    def scored(self, change: Change | None = None) -> np.ndarray:
        """float32 [images, classes] of all images, or of what `change` makes of them."""
        if self.judge:
            told = [sentences(name, self.benchmark.templates) for name in self.classnames]
            return encoded.class_scores(self.judge, self.benchmark, told, self.batch_size, self.cache, "test", change)
        if change is None:
            return self.found.features @ self.classes.T
        found = encoded.encode(self.model, self.benchmark, self.batch_size, self.cache, "test", change)
        return found.features @ self.classes.T

    @cached_property
    def shown(self) -> np.ndarray:
        """bool [n, classes] of a multilabel set: the classes of each image. Raises CurateError."""
        shown = np.zeros((len(self.found.keys), len(self.classnames)), bool)
        for row, places in zip(shown, self.found.multilabels, strict=True):
            if places:
                self._check(np.array(places), self.classnames)
                row[places] = True
        return shown

    @cached_property
    def training(self) -> Training:
        """Raises CurateError where there is no training split with the classes of this benchmark."""
        if self.train_path == self.path and not has_split(self.path, "train"):
            raise CurateError(f"benchmark {self.name} has no train split ({self.path}/train); --train DIR names one")
        parts = [self._split("train" if has_split(self.train_path, "train") else None)]
        for split in VALIDATION:
            if self.train_path == self.path and has_split(self.path, split) and has_split(self.path, "test"):
                parts.append(self._split(split))
        features, labels, keys = (np.concatenate([part[at] for part in parts]) for at in range(3))
        held_out = np.arange(len(labels)) >= len(parts[0][1])
        if not held_out.any():
            held_out = drawn_validation(keys.tolist(), labels, self.seed)
        if not held_out.any():
            raise CurateError(f"{self.train_path} has one training image a class: none is left for validation")
        return Training(features, labels, keys.tolist(), held_out)

    def attack(self) -> Written:
        """What writes wrong class names on the images."""
        squash = preprocessing(self.model.model)["resize_mode"] == "squash"
        return Written(tuple(self.classnames), self.model.image_size, squash, self.seed)

    def _split(self, split: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, labels and keys of the labelled images of a split of the training images."""
        benchmark = open_benchmark(self.train_path, split)
        found = encoded.encode(self.model, benchmark, self.batch_size, self.cache, split or "all")
        used = np.flatnonzero(found.labels != NONE)
        if not len(used):
            raise CurateError(f"{self.train_path} has no labelled training image")
        labels = found.labels[used]
        self._check(labels, benchmark.classnames or self.classnames)
        if benchmark.classnames and benchmark.classnames != self.classnames:
            labels = self._places(benchmark.classnames)[labels]
        return found.features[used], labels, np.array([found.keys[at] for at in used], object)

    def _places(self, names: Sequence[str]) -> np.ndarray:
        """Of the classes of the training images, by their names: the class here."""
        strange = sorted(set(names) - set(self.classnames))
        if strange:
            raise CurateError(f"{self.train_path} has the class '{strange[0]}', benchmark {self.name} has not")
        return np.array([self.classnames.index(name) for name in names], np.int64)

    def _check(self, labels: np.ndarray, classnames: Sequence[str]) -> None:
        if not classnames:
            raise CurateError(f"benchmark {self.name} has images but no class names (classnames.txt): nothing to "
                              f"compare them with")  # fmt: skip
        if labels.max() >= len(classnames) or labels.min() < 0:
            wrong = labels.max() if labels.max() >= len(classnames) else labels.min()
            raise CurateError(f"benchmark {self.name} has the label {wrong} but only {len(classnames)} lines in "
                              f"classnames.txt")  # fmt: skip
        if len(classnames) < 2:
            raise CurateError(f"benchmark {self.name} has one class only, '{classnames[0]}': every answer is right")
