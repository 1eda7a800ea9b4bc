"""One untrusted encoded image to a bounded JPEG: looked at before it is decoded, the pixels those of img2dataset."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from curate import images
from curate.harvest.peek import Header, peek
from curate.images import UndecodableImage

RESULTS = pa.schema(
    [("key", pa.string()), ("status", pa.string()), ("error_message", pa.string()), ("width", pa.int32()),
     ("height", pa.int32()), ("original_width", pa.int32()), ("original_height", pa.int32()), ("sha256", pa.string()),
     ("format", pa.string()), ("animated", pa.bool_()), ("alpha", pa.bool_())]
)  # fmt: skip  # what a downloader says of each row; all but key, status and error_message are null without an image


class Resized(NamedTuple):
    """A JPEG, its size in pixels, and what it came as: size, format, one of several frames, not wholly opaque."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    format: str  # jpeg, png, webp, gif, avif, bmp, tiff ...
    animated: bool
    alpha: bool

    @property
    def about(self) -> dict[str, Any]:
        """All but the JPEG itself."""
        return {name: value for name, value in self._asdict().items() if name != "jpeg"}


class Resizer:
    """Shrinks the short side to `image_size` pixels where it is longer (area averaging), then JPEG of `quality`.

    Raises UndecodableImage with a short reason that is the same for the same cause.
    """

    def __init__(self, image_size: int, quality: int, min_image_size: int):
        self.image_size, self.quality, self.min_image_size = image_size, quality, min_image_size

    def __call__(self, encoded: bytes) -> Resized:
        cv2.setNumThreads(1)
        header = peek(encoded)
        pixels = cv2.imdecode(np.frombuffer(readable(encoded, header), np.uint8), cv2.IMREAD_UNCHANGED)
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
        return Resized(jpeg, pixels.shape[1], pixels.shape[0], width, height, *header.told)


def readable(encoded: bytes, header: Header) -> bytes:
    """The image itself, or as PNG where OpenCV alone would get it wrong: turned by EXIF, 16 bits a channel."""
    if not (header.turned or header.deep):
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
