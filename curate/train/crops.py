"""What the trainer sees of an image: a crop of it, placed by random numbers that follow from the seed and the place.

A crop is a function of an image and random numbers, so that another one can stand in its place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from curate.clip.lean import TF
from curate.errors import CurateError

SMALLEST = 0.9  # of the area of the largest square, or of the image: open_clip's default scale
RATIOS = (3 / 4, 4 / 3)  # width to height
TRIES = 10  # of torchvision's RandomResizedCrop, before it takes the centre


@dataclass(frozen=True)
class Crop:
    """`cut` takes RGB uint8 [h, w, 3], a size and `draws` random numbers in [0, 1), float64; it gives uint8
    [3, size, size]. Must be picklable: a function at the top of a module."""

    cut: Callable[[np.ndarray, int, np.ndarray], torch.Tensor]
    draws: int


def named(name: str) -> Crop:
    """Raises CurateError for a name that is none of CROPS."""
    if name not in CROPS:
        raise CurateError(f"no crop '{name}'; choose from: {', '.join(CROPS)}")
    return CROPS[name]


def square(image: np.ndarray, size: int, draws: np.ndarray) -> torch.Tensor:
    """A random square: the only augmentation of the CLIP paper. The numbers are its size (0.9 to 1 of the area of the
    largest square), top and left."""
    height, width = image.shape[:2]
    side, top, left = draws.tolist()
    edge = max(1, round(min(height, width) * (SMALLEST + (1 - SMALLEST) * side) ** 0.5))
    return resized(image, int(top * (height - edge + 1)), int(left * (width - edge + 1)), edge, edge, size)


def random_resized(image: np.ndarray, size: int, draws: np.ndarray) -> torch.Tensor:
    """torchvision's RandomResizedCrop with the scale of open_clip's default: 0.9 to 1 of the area, ratio 3/4 to 4/3.

    The numbers are top and left, then area and ratio of each try.
    """
    height, width = image.shape[:2]
    (top, left), tries = draws[:2].tolist(), draws[2:].reshape(TRIES, 2).tolist()
    low, high = (math.log(ratio) for ratio in RATIOS)
    for share, ratio in tries:
        area, form = height * width * (SMALLEST + (1 - SMALLEST) * share), math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(area * form)), round(math.sqrt(area / form))
        if 0 < w <= width and 0 < h <= height:
            return resized(image, int(top * (height - h + 1)), int(left * (width - w + 1)), h, w, size)
    w = min(width, round(height * RATIOS[1])) or 1
    h = min(height, round(width / RATIOS[0])) or 1
    return resized(image, (height - h) // 2, (width - w) // 2, h, w, size)


def center(image: np.ndarray, size: int, draws: np.ndarray) -> torch.Tensor:
    """The largest square in the middle; nothing is random."""
    height, width = image.shape[:2]
    edge = min(height, width)
    return resized(image, (height - edge) // 2, (width - edge) // 2, edge, edge, size)


def squash(image: np.ndarray, size: int, draws: np.ndarray) -> torch.Tensor:
    """The whole image, both sides resized, as SigLIP and copy detectors see it; nothing is random."""
    height, width = image.shape[:2]
    return resized(image, 0, 0, height, width, size)


def resized(image: np.ndarray, top: int, left: int, height: int, width: int, size: int) -> torch.Tensor:
    """A part of RGB uint8 [h, w, 3] -> uint8 [3, size, size] (bicubic, antialiased)."""
    part = torch.from_numpy(image[top : top + height, left : left + width].copy()).permute(2, 0, 1)
    return TF.resize(part, [size, size], TF.InterpolationMode.BICUBIC, antialias=True)


CROPS = {"square": Crop(square, 3), "random-resized": Crop(random_resized, 2 + 2 * TRIES), "center": Crop(center, 0),
         "squash": Crop(squash, 0)}  # fmt: skip
