"""One file a signal: the same columns by the plainest means there are, one image and one text at a time.

A Reference takes the options of its signal. measure(images, captions): encoded images and texts -> {column: values}, a
column named as the signal names it, None where there is no value. tolerance: the largest difference of a number that is
expected, or of bits that differ. A Reference with `of`, the name of a signal, measures what that stored instead:
measure_embeddings(float16 [rows, dimensions]).
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from curate.images import DAMAGED


def picture(encoded: bytes) -> Image.Image | None:
    """The first frame as Pillow decodes it, turned as EXIF says, transparency on white, 16 bits scaled to 8, in RGB, or
    None where it cannot be decoded."""
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")
    except (*DAMAGED, Image.DecompressionBombError):
        return None


def of_pictures(method: Callable[[Image.Image], Any], images: Sequence[bytes]) -> list[Any]:
    """What a method says of each image, None where it cannot be decoded."""
    pictures = map(picture, images)
    return [None if image is None else method(image) for image in pictures]
