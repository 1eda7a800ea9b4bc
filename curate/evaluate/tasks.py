"""What can be asked of a model on a benchmark; each task is a function of a TestSet that gives numbers for the JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from curate.errors import CurateError
from curate.evaluate import encoded, typographic
from curate.evaluate.few_shot import DRAWS, SHOTS, few_shot, most_shots
from curate.evaluate.linear_probe import linear_probe
from curate.evaluate.multilabel import mean_average_precision
from curate.evaluate.retrieval import recalls
from curate.evaluate.sets import TestSet
from curate.evaluate.zero_shot import accuracy

TASKS = ("zero-shot", "retrieval", "linear-probe", "few-shot", "typographic", "robustness")
DEFAULT = ("zero-shot", "retrieval")


def offered(test: TestSet) -> list[str]:
    """Which of the default tasks a benchmark has the labels or texts for. Raises CurateError where it has neither,
    and where the objective has no words for them."""
    found = ["zero-shot"] if can_classify(test) else []
    found += ["retrieval"] if test.found.texts and not (test.judge and found) else []
    if not found:
        raise nothing_to_compare(test.name)
    if test.judge:
        for task in found:
            test.judge.check(task)
    return found


def nothing_to_compare(name: str) -> CurateError:
    return CurateError(f"benchmark {name} has images but no labels or texts: nothing to compare them with")


def can_classify(test: TestSet) -> bool:
    """Whether the images have classes. Raises CurateError where those have no names and there is no text either."""
    there = len(test.found.keys) and (len(np.flatnonzero(test.found.labels >= 0)) or any(test.found.multilabels))
    return bool(there) and bool(test.classnames or not test.found.texts)


def numbers(test: TestSet, task: str, shots: Sequence[int] | None, draws: int) -> dict[str, Any]:
    """task -> its numbers, under the name that they have in the JSON. Raises CurateError where it cannot be done."""
    if task == "zero-shot":
        return zero_shot(test)
    if task == "retrieval":
        return {"retrieval": _retrieval(test)}
    if task == "linear-probe":
        return {"linear_probe": _linear_probe(test)}
    if task == "few-shot":
        return {"few_shot": _few_shot(test, shots, draws)}
    return {"typographic": _typographic(test)[0]}


def zero_shot(test: TestSet) -> dict[str, Any]:
    """zero_shot of the images with one class each; multilabel where they have several."""
    if any(test.found.multilabels):
        return {"multilabel": mean_average_precision(test.scored(), test.shown, test.seed)}
    _need_labels(test)
    return {"zero_shot": accuracy(test.scores, test.labels)}


def predictions(test: TestSet) -> pa.Table:
    """key, label, prediction, correct of each classified image."""
    predicted = test.scores.argmax(axis=1)
    keys = [key.encode("utf-8", "replace").decode() for key in test.keys]
    return pa.table({"key": keys, "label": test.labels, "prediction": predicted, "correct": predicted == test.labels})


def examples(test: TestSet) -> Image.Image:
    """A picture of a few images before and after the typographic attack, with what the model takes them for."""
    _, before, after, words = _typographic(test)
    shown = typographic.examples(before, after, test.labels, words)
    wanted, attack = {test.keys[at]: at for at in shown}, test.attack()
    pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for group in encoded.groups(test.benchmark.samples(), 64):
        for sample, pixels in group:
            if sample.key in wanted and pixels is not None:
                pairs[wanted[sample.key]] = (attack.seen(pixels), attack(sample, pixels))
        if len(pairs) == len(wanted):
            break
    names = test.classnames
    told = [(f"is: {names[test.labels[at]]}\ntaken for: {names[before[at]]}",
             f"written: {names[words[at]]}\ntaken for: {names[after[at]]}") for at in shown]  # fmt: skip
    return typographic.sheet([pairs[at] for at in shown], told)


def _retrieval(test: TestSet) -> dict[str, Any]:
    if not test.found.texts:
        raise CurateError(f"benchmark {test.name} has no texts (.txt members or captions.json): no retrieval")
    return recalls(test.found.features, test.texts, test.found.owner)


def _linear_probe(test: TestSet) -> dict[str, Any]:
    _need_labels(test)
    learnt = test.training
    return linear_probe(learnt.features, learnt.labels, learnt.held_out, test.features, test.labels,
                        len(test.classnames))  # fmt: skip


def _few_shot(test: TestSet, shots: Sequence[int] | None, draws: int) -> dict[str, Any]:
    """Where nobody named the shots, those that some class has too few images for are left out, and named."""
    _need_labels(test)
    if draws < 1 or any(k < 1 for k in shots or ()):
        raise CurateError("--shots and --draws are whole numbers from 1")
    learnt, wished = test.training, shots or SHOTS
    most, poorest = most_shots(learnt.labels, learnt.held_out, len(test.classnames))
    few = f"class '{test.classnames[poorest]}' of {test.name} has {most} training images besides those for validation"
    usable = [k for k in wished if k <= most]
    if not usable or (shots and len(usable) < len(shots)):
        raise CurateError(f"{few}, fewer than {max(wished) if shots else min(wished)} shots")
    found = few_shot(learnt.features, learnt.labels, learnt.keys, learnt.held_out, test.features, test.labels,
                     len(test.classnames), usable, draws or DRAWS, test.seed)  # fmt: skip
    if not test.judge or test.judge.names_classes:
        found["zero_shot"] = accuracy(test.scores, test.labels)["top1"]
    if len(usable) < len(wished):
        found["left_out"] = {"shots": [k for k in wished if k > most], "reason": few}
    return found


def _typographic(test: TestSet) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """(numbers, predictions before, after, the classes written)"""
    _need_labels(test)
    attack = test.attack()
    words = np.array([attack.word(key, label) for key, label in zip(test.keys, test.labels.tolist(), strict=True)])
    attacked = test.scored(attack)[test.labelled].argmax(axis=1)
    before = test.scores.argmax(axis=1)
    return typographic.fooled(before, attacked, test.labels, words), before, attacked, words


def _need_labels(test: TestSet) -> None:
    if not len(test.labelled):
        several = " with one class each" if any(test.found.multilabels) else ""
        raise CurateError(f"benchmark {test.name} has no labelled images{several}: no classes to tell apart")
