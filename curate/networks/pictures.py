"""How networks in files want their pictures: size, shape and colours as numbers."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from curate.errors import CurateError

LARGEST = 8192  # pixels of a side
ELONGATED = 8  # longer pictures are cut to their middle before the short side is resized
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


Colour = float | tuple[float, ...]  # one number, or three


def check_size(signal: str, size: int) -> None:
    """Raises CurateError for what is no side of a picture."""
    if not 1 <= size <= LARGEST:
        raise CurateError(f"{signal}: size={size}: from 1 to {LARGEST} pixels")


def three(signal: str, mean: Colour, std: Colour) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of red, green and blue, each told by one number for all or by three. Raises CurateError."""
    both = [tuple(value) if isinstance(value, tuple | list) else (value,) * 3 for value in (mean, std)]
    good = all(isinstance(number, int | float) and math.isfinite(number) for each in both for number in each)
    if [len(each) for each in both] != [3, 3] or not good or not all(both[1]):
        raise CurateError(f"{signal}: mean and std are one number or three, of std none 0: (0.485, 0.456, 0.406), "
                          f"not {mean} and {std}")  # fmt: skip
    return tuple(map(float, both[0])), tuple(map(float, both[1]))


class Preset(NamedTuple):
    """How a network wants its pictures, and the similarity from which its authors count a copy.

    size: pixels; of both sides if `squash`, else of the shorter one. mean, std: of values from 0 to 1."""

    size: int
    squash: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    threshold: float

    def values(self, picture: np.ndarray) -> np.ndarray:
        """RGB uint8 [height, width, 3] -> float32 [3, height, width] as the network wants it."""
        image = Image.fromarray(picture)
        small = image.resize(self._shape(*image.size), Image.Resampling.BILINEAR, self._middle(*image.size))
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return (np.asarray(small, np.float32).transpose(2, 0, 1) / 255 - mean) / std

    def _shape(self, width: int, height: int) -> tuple[int, int]:
        if self.squash:
            return self.size, self.size
        scale = self.size / min(width, height)
        longest = ELONGATED * self.size
        return min(round(width * scale), longest), min(round(height * scale), longest)

    def _middle(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The box that is looked at: all of a picture, or the middle of a very long one that is not squashed."""
        longest = max(width, height) if self.squash else ELONGATED * min(width, height)
        left, top = max(0, width - longest) / 2, max(0, height - longest) / 2
        return left, top, width - left, height - top


PRESETS = {
    "sscd": Preset(288, False, *IMAGENET, 0.75),  # "copies with 90% precision"
    "sscd-320": Preset(320, True, *IMAGENET, 0.75),
    "isc": Preset(512, True, (0.5,) * 3, (0.5,) * 3, 0.604169),  # DataComp's decontamination
}
