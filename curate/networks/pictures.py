"""How networks in files want their pictures: size, shape and colours as numbers."""

from typing import NamedTuple

import numpy as np
from PIL import Image

ELONGATED = 8  # longer pictures are cut to their middle before the short side is resized
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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
