"""pdq by pdqhash."""

import numpy as np
import pdqhash

from curate.verify.references import of_pictures


class Reference:
    tolerance = 0.0

    def measure(self, images, captions) -> dict[str, list]:
        found = of_pictures(lambda image: pdqhash.compute(np.asarray(image)), images)
        return {
            "pdq": [None if one is None else np.packbits(one[0]).tobytes() for one in found],
            "pdq_quality": [None if one is None else int(one[1]) for one in found],
        }
