"""What an untrusted image says of itself before it is decoded: its size, its kind, what a plain decoder gets wrong."""

import io
import warnings
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from curate import images
from curate.images import UndecodableImage

EXIF_ORIENTATION = 0x0112
MAX_PIXELS = images.MAX_PIXELS // 2  # 270 MB once decoded
MOVING = {"GIF", "WEBP", "PNG", "AVIF"}  # the pages of a TIFF and the sizes of an MPO do not move


class Header(NamedTuple):
    """Size in pixels as stored, and the format as Pillow names it, in small letters."""

    format: str
    width: int
    height: int
    animated: bool  # more than one frame
    alpha: bool  # has transparent pixels, or may have
    turned: bool  # EXIF says that it is to be turned or mirrored
    deep: bool  # 16 or 32 bits a channel

    @property
    def told(self) -> tuple[str, bool, bool]:
        """What is worth a column: format, animated, alpha."""
        return self.format, self.animated, self.alpha


def peek(encoded: bytes) -> Header:
    """Read the header only. Raises UndecodableImage: not an image, too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded))
        if image.width * image.height > MAX_PIXELS:
            raise UndecodableImage("too many pixels")
        return _header(image, encoded)
    except UndecodableImage:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UndecodableImage("not an image") from error
    except Image.DecompressionBombError as error:
        raise UndecodableImage("too many pixels") from error


def _header(image: Image.Image, encoded: bytes) -> Header:
    # Pillow decodes a PNG to look for an EXIF chunk behind the pixels: only one before them counts
    readable = image.format != "PNG" or "exif" in image.info
    return Header(
        format=str(image.format).lower(),
        width=image.width,
        height=image.height,
        animated=image.format in MOVING and getattr(image, "is_animated", False),
        alpha=image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
        turned=readable and image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1),
        deep=image.mode.startswith("I") or (image.format == "PNG" and encoded[24] == 16),
    )
