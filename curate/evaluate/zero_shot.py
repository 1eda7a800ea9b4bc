"""Zero-shot classification: an image belongs to the class whose name, set into sentences, it is nearest to.

Radford et al. 2021, section 3.1.4: the features of all sentences of a class are averaged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from curate.evaluate.interval import proportion
from curate.models import ClipModel


def classifier(model: ClipModel, classnames: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """float32 [classes, d]: the normalised average of the normalised features of "a photo of a {c}.", ..."""
    texts = [template.replace("{c}", name) for name in classnames for template in templates]
    features = model.encode_texts(texts).reshape(len(classnames), len(templates), -1).mean(axis=1)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def accuracy(images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """Accuracy of image features [n, d] with labels int [n] against class features [k, d].

    top1 and top5 with 95% intervals; mean_per_class_recall over the classes that have images; chance = 1 / k;
    majority = the share of the largest class, what a blind guess reaches at best.
    """
    ranks = ranks_of(images @ classes.T, labels)
    recalls = [float((ranks[labels == label] == 0).mean()) for label in np.unique(labels)]
    total = len(labels)
    return {
        "images": total,
        "classes": len(classes),
        "top1": proportion(int((ranks == 0).sum()), total),
        "top5": proportion(int((ranks < 5).sum()), total),
        "mean_per_class_recall": round(float(np.mean(recalls)), 6),
        "chance": round(1 / len(classes), 6),
        "majority": round(float(np.bincount(labels).max()) / total, 6),
    }


def nearest(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """int64 [n]: the class that each image is nearest to, the first of equally near ones; right where its rank is 0."""
    return (images @ classes.T).argmax(axis=1)


def ranks_of(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many columns of scores [n, k] beat the right one of each row; of equal scores the earlier column wins."""
    own = scores[np.arange(len(scores)), right][:, None]
    earlier = np.arange(scores.shape[1]) < right[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
