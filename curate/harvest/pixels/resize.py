"""One untrusted encoded image to a bounded JPEG: looked at before it is decoded, the pixels those of img2dataset."""

from collections.abc import Callable

import cv2
import numpy as np

from curate.errors import CurateError
from curate.harvest.pixels.decode import decode
from curate.harvest.pixels.peek import Header, peek
from curate.harvest.pixels.results import Resized
from curate.images import UndecodableImage
from curate.memory import keep_freed_memory

DECODE = "balanced"  # nobody sees the difference, networks hardly: docs/commands/harvest.md has the table
MARGIN = {"exact": float("inf"), "balanced": 1.5, "fast": 1.0}  # a JPEG is decoded at this many times the target
SMOOTH = 1.6  # interpolating between pixels is enough where no more of them a side than this become one
SUPERSAMPLED = 3  # up to this ratio, two pixels a side are interpolated for each one and averaged
Size = tuple[int, int]  # width, height
Extent = tuple[float, float]


class Resizer:
    """Shrinks the short side to `image_size` pixels where it is longer, then JPEG of `quality`.

    `decode` says how JPEG files are shrunk; all else is decoded whole and averaged by area:
    exact: whole too; the pixels of img2dataset, bit for bit.
    balanced: decoded by libjpeg at 1/2, 1/4 or 1/8 with at least 1.5 times the pixels a side; from a ratio of 3 those
    are averaged by area, below it so are two pixels a side interpolated for each one, and up to 1.6 they are only
    interpolated: faster, and it looks the same (at 1.5, weights of 3/4 and 1/4 stand for an area's 2/3 and 1/3).
    fast: the same with at least as many pixels.
    `strict`: a JPEG that libjpeg-turbo has to repair is refused.

    Raises UndecodableImage with a short reason that is the same for the same cause: not an image, too many pixels,
    image too small, not decodable, corrupt.
    """

    def __init__(self, image_size: int, quality: int, min_image_size: int, decode: str = "exact", strict: bool = True):
        if decode not in MARGIN:
            raise CurateError(f"decode={decode}: choose from {', '.join(MARGIN)}")
        self.image_size, self.quality, self.min_image_size = image_size, quality, min_image_size
        self.decode, self.strict = decode, strict
        keep_freed_memory()

    def __call__(self, encoded: bytes) -> Resized:
        return self._resized(encoded, self._peek(encoded))

    def kept(self, encoded: bytes) -> Resized:
        """The same, but a sound JPEG that fits as it is stays byte for byte: for images that were resized before."""
        header = self._peek(encoded)
        if not self._fits(encoded, header):
            return self._resized(encoded, header)
        decode(encoded, header, self.image_size, self.strict)  # it may be cut or corrupt
        size = header.width, header.height
        return Resized(encoded, *size, *size, header.format, header.animated, header.alpha)

    def fits(self, encoded: bytes) -> bool:
        """Whether the header is that of a small, upright JPEG of one scan. Raises UndecodableImage."""
        return self._fits(encoded, self._peek(encoded))

    def _peek(self, encoded: bytes) -> Header:
        header = peek(encoded)
        if min(header.width, header.height) < self.min_image_size:
            raise UndecodableImage("image too small")
        return header

    def _fits(self, encoded: bytes, header: Header) -> bool:
        whole = encoded.endswith(b"\xff\xd9")  # nothing behind the image
        return header.baseline and header.turn == 1 and whole and min(header.width, header.height) <= self.image_size

    def _resized(self, encoded: bytes, header: Header) -> Resized:
        cv2.setNumThreads(1)
        pixels, scale = decode(encoded, header, MARGIN[self.decode] * self.image_size, self.strict)
        height, width = (header.height, header.width) if scale > 1 else pixels.shape[:2]
        short = min(width, height)
        if short > self.image_size:
            size = (round(width * (self.image_size / short)), round(height * (self.image_size / short)))
            shrink = _quick if header.format == "jpeg" and self.decode != "exact" else _area
            pixels = shrink(pixels, size, (width / scale, height / scale))
        if header.turn > 1:
            pixels = TURN[header.turn](pixels)
            width, height = (height, width) if header.turn > 4 else (width, height)
        jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes()
        small_height, small_width = pixels.shape[:2]
        return Resized(jpeg, small_width, small_height, width, height, header.format, header.animated, header.alpha)


def _area(pixels: np.ndarray, size: Size, extent: Extent) -> np.ndarray:
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _quick(pixels: np.ndarray, size: Size, extent: Extent) -> np.ndarray:
    ratio = pixels.shape[1] / size[0]
    if ratio < SMOOTH:
        return _bilinear(pixels, size, extent)
    if ratio < SUPERSAMPLED:
        pixels = _bilinear(pixels, (2 * size[0], 2 * size[1]), extent)
    return _area(pixels, size, extent)


def _bilinear(pixels: np.ndarray, size: Size, extent: Extent) -> np.ndarray:
    """The pixels within `extent` (columns, rows, from the top left) to `size`; all of them without a remainder."""
    if extent == (pixels.shape[1], pixels.shape[0]):
        return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    step = [extent[0] / size[0], extent[1] / size[1]]
    back = np.array([[step[0], 0, (step[0] - 1) / 2], [0, step[1], (step[1] - 1) / 2]])  # from centre to centre
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


TURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF's orientation to upright
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.transpose(cv2.rotate(pixels, cv2.ROTATE_180)),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
