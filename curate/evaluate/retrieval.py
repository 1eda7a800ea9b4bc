"""Retrieval: find the texts of an image among all texts, and the image of a text among all images."""

import math
from typing import Any

import numpy as np

from curate.evaluate.interval import proportion

AT = (1, 5, 10)
CHUNK = 1024  # images compared with all texts at a time


def recalls(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> dict[str, Any]:
    """Recall at 1, 5 and 10, both ways, of image features [n, d] and text features [m, d].

    owner int [m]: the image of each text; an image may have several, and one of them among the first k is enough (the
    rule of Flickr30k and COCO). "chance" is the recall of a random order.
    """
    of_image, of_text = ranks(images, texts, owner)
    own_texts = np.bincount(owner, minlength=len(images))
    described = own_texts > 0
    return {
        "images": len(images),
        "texts": len(texts),
        "image_to_text": _at_each_k(of_image[described], len(texts), own_texts[described]),
        "text_to_image": _at_each_k(of_text, len(images), np.ones(len(texts), np.int64)),
    }


def ranks(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image how many texts of others beat the best of its own; for each text how many other images beat its
    own. Of equal scores the others win: identical features earn nothing."""
    own = np.einsum("td,td->t", texts, images[owner])
    best = np.full(len(images), -np.inf, np.float32)
    np.maximum.at(best, owner, own)
    of_image, of_text = np.zeros(len(images), np.int64), np.zeros(len(texts), np.int64)
    for start in range(0, len(images), CHUNK):
        scores = images[start : start + CHUNK] @ texts.T
        foreign = owner[None, :] != np.arange(start, start + len(scores))[:, None]
        of_image[start : start + CHUNK] = ((scores >= best[start : start + CHUNK, None]) & foreign).sum(axis=1)
        of_text += ((scores >= own) & foreign).sum(axis=0)
    return of_image, of_text


def _at_each_k(found: np.ndarray, total: int, right: np.ndarray) -> dict[str, Any]:
    shares = {f"recall@{k}": proportion(int((found < k).sum()), len(found)) for k in AT}
    return {**shares, "chance": {f"recall@{k}": round(_chance(total, right, k), 6) for k in AT}}


def _chance(total: int, right: np.ndarray, k: int) -> float:
    """Mean chance that one of right[i] among `total` is in a random k: 1 - C(total - right, k) / C(total, k)."""
    numbers, times = np.unique(right, return_counts=True)
    missed = [math.comb(total - int(number), k) / math.comb(total, k) if k <= total else 0.0 for number in numbers]
    return 1 - float(np.average(missed, weights=times))
