"""dhash by imagehash."""

import imagehash
import numpy as np

from curate.verify.references import of_pictures


class Reference:
    tolerance = 0.0

    def __init__(self, size: int = 8):
        self.size = size

    def measure(self, images, captions) -> dict[str, list]:
        return {
            "dhash": of_pictures(lambda image: np.packbits(imagehash.dhash(image, self.size).hash).tobytes(), images)
        }
