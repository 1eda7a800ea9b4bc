"""Images with several classes each: how well every class ranks the images that show it (mean average precision).

Average precision is the mean of the precision at each right image of the ranking, without interpolation, as
CLIP_benchmark has it for VOC2007.
"""

from typing import Any

import numpy as np

RESAMPLES = 200  # of the images, for the interval


def mean_average_precision(scores: np.ndarray, shown: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Of scores [n, k], higher is nearer, and shown bool [n, k]: mAP over the classes that some image
    shows, with a 95% bootstrap interval over the images; chance = the mean share of images that show a class, what
    a random order reaches with many images."""
    used = shown.any(axis=0)
    images, classes = scores.shape
    scores, shown = scores[:, used], shown[:, used]
    weights = np.ones((1, images))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(float)
    value = float(average_precision(scores, shown, weights).mean())
    resampled = np.nanmean(average_precision(scores, shown, drawn), axis=0)
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return {
        "images": images,
        "classes": classes,
        "classes_without_images": int((~used).sum()),
        "mean_average_precision": {
            "value": round(value, 6),
            "interval95": [round(float(low), 6), round(float(high), 6)],
        },
        "chance": round(float(shown.mean()), 6),
    }


def average_precision(scores: np.ndarray, shown: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 [k, r] for scores and shown [n, k], every image counted weights[r, n] times; of equal scores the earlier
    image stands first. nan where a class has no image of weight."""
    found = np.full((scores.shape[1], len(weights)), np.nan)
    for k in range(scores.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        weight = weights[:, order]
        right = weight * shown[order, k]
        # an image of weight w stands w times in the ranking; its copies see on average half of their own
        seen, hits = weight.cumsum(axis=1) - (weight - 1).clip(0) / 2, right.cumsum(axis=1) - (right - 1).clip(0) / 2
        total = right.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[k] = np.nan_to_num(right * hits / seen).sum(axis=1) / total
    return found
