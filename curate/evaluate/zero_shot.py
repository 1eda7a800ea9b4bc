"""Zero-shot classification: an image belongs to the class whose name, set into sentences, it is nearest to.

Radford et al. 2021, section 3.1.4: the features of all sentences of a class are averaged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.benchmark import Templates
from curate.clip.models import ClipModel
from curate.errors import CurateError
from curate.evaluate.interval import mean_of_shares, proportion


def classifier(model: ClipModel, classnames: Sequence[str], templates: Templates) -> np.ndarray:
    """float32 [classes, d]: the normalised average of the normalised features of "a photo of a {c}.", ... or, where
    each class has its own sentences (CuPL, Pratt et al. 2023), of those. All go through the text tower together.

    Raises CurateError for a class that has no sentences.
    """
    texts = [sentences(name, templates) for name in classnames]
    features = model.encode_texts([text for some in texts for text in some])
    ends = np.cumsum([len(some) for some in texts])
    means = np.stack([part.mean(axis=0) for part in np.split(features, ends[:-1])])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def sentences(name: str, templates: Templates) -> list[str]:
    """What is said of a class."""
    if isinstance(templates, Sequence):
        return [template.replace("{c}", name) for template in templates]
    if name not in templates:
        raise CurateError(f"zeroshot_classification_templates.json has no sentences for the class '{name}'")
    return [text.replace("{c}", name) for text in templates[name]]


def accuracy(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy of scores [n, k], higher is nearer, against labels int [n].

    top1 and top5 with 95% intervals; mean_per_class_recall over the classes that have images; chance = 1 / k;
    majority = the share of the largest class, what a blind guess reaches at best.
    """
    ranks = ranks_of(scores, labels)
    total, classes = len(labels), scores.shape[1]
    images = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[ranks == 0], minlength=classes)
    there = images > 0
    low, high = mean_of_shares(right[there], images[there])
    return {
        "images": total,
        "classes": classes,
        "classes_without_images": int((~there).sum()),
        "top1": proportion(int((ranks == 0).sum()), total),
        "top5": proportion(int((ranks < 5).sum()), total),
        "mean_per_class_recall": round(float((right[there] / images[there]).mean()), 6),
        "mean_per_class_recall_interval95": [round(low, 6), round(high, 6)],
        "chance": round(1 / classes, 6),
        "majority": round(float(images.max()) / total, 6),
    }


def ranks_of(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many columns of scores [n, k] beat the right one of each row; of equal scores the earlier column wins."""
    own = scores[np.arange(len(scores)), right][:, None]
    earlier = np.arange(scores.shape[1]) < right[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
