"""One untrusted encoded image to a bounded JPEG: looked at before it is decoded, the pixels those of img2dataset."""

import io
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from curate import images
from curate.images import UndecodableImage

EXIF_ORIENTATION = 0x0112
MAX_PIXELS = images.MAX_PIXELS // 2  # 270 MB once decoded


class Resized(NamedTuple):
    """A JPEG, its size in pixels, and the size it came in."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int


class Resizer:
    """Shrinks the short side to `image_size` pixels where it is longer (area averaging), then JPEG of `quality`.

    Raises UndecodableImage with a short reason that is the same for the same cause.
    """

    def __init__(self, image_size: int, quality: int, min_image_size: int):
        self.image_size, self.quality, self.min_image_size = image_size, quality, min_image_size

    def __call__(self, encoded: bytes) -> Resized:
        cv2.setNumThreads(1)
        pixels = cv2.imdecode(np.frombuffer(checked(encoded), np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise UndecodableImage("not decodable")
        height, width = pixels.shape[:2]
        if min(height, width) < self.min_image_size:
            raise UndecodableImage("image too small")
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            pixels = _on_white(pixels)
        if min(height, width) > self.image_size:
            scale = self.image_size / min(height, width)
            size = (round(width * scale), round(height * scale))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes()
        return Resized(jpeg, pixels.shape[1], pixels.shape[0], width, height)


def checked(encoded: bytes) -> bytes:
    """The image itself, or as PNG where OpenCV alone would get it wrong: turned by EXIF, 16 bits a channel.

    Only the header is read of all others. Raises UndecodableImage.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded))
        if image.width * image.height > MAX_PIXELS:
            raise UndecodableImage("too many pixels")
        # Pillow decodes a PNG to look for an EXIF chunk behind the pixels: only one before them counts
        readable = image.format != "PNG" or "exif" in image.info
        turned = readable and image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1)
    except UndecodableImage:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UndecodableImage("not an image") from error
    except Image.DecompressionBombError as error:
        raise UndecodableImage("too many pixels") from error
    deep = image.mode.startswith("I") or (encoded[:4] == b"\x89PNG" and encoded[24] == 16)
    if not (turned or deep):
        return encoded
    try:
        pixels = images.decode(encoded)
    except UndecodableImage as error:
        raise UndecodableImage("not decodable") from error
    return cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()


def _on_white(bgra: np.ndarray) -> np.ndarray:
    alpha = bgra[:, :, 3:]
    mixed = alpha / 255 * bgra[:, :, :3] + 255 - alpha
    return np.rint(mixed.clip(0, 255)).astype(np.uint8)
