"""What an untrusted image says of itself before it is decoded: its size, its kind, what a plain decoder gets wrong."""

import io
import warnings
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from curate import images
from curate.images import UndecodableImage

EXIF_ORIENTATION = 0x0112
TIFF_BITS = 258
MAX_PIXELS = images.MAX_PIXELS // 2  # 270 MB once decoded
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000")  # no EPS, no icons: what nobody asked to read
MOVING = {"GIF", "WEBP", "PNG", "AVIF"}  # the pages of a TIFF and the second picture of an MPO do not move


class Header(NamedTuple):
    """Size in pixels as stored, and the format as Pillow names it, in small letters."""

    format: str
    width: int
    height: int
    animated: bool  # more than one frame
    alpha: bool  # has an alpha channel or a transparent colour
    turn: int  # EXIF's orientation, 1 to 8; 1 is upright
    plain: bool  # OpenCV reads it right: 8 bits a channel, no rare kind of TIFF
    baseline: bool  # a JPEG of one scan, grey or in colour


def peek(encoded: bytes) -> Header:
    """Read the header only. Raises UndecodableImage: not an image, too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded), formats=KINDS)
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
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    tiff = kind == "TIFF"
    turn = _turn(image)
    return Header(
        format=kind.lower(),
        width=image.width,
        height=image.height,
        animated=kind in MOVING and getattr(image, "is_animated", False),
        alpha=image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
        turn=1 if tiff else turn,  # Pillow turns a TIFF as it decodes it
        plain=_plain_tiff(image) and turn == 1 if tiff else not _deep(image, encoded),
        baseline=kind == "JPEG" and image.mode in ("L", "RGB") and "progressive" not in image.info,
    )


def _turn(image: Image.Image) -> int:
    # Pillow decodes a PNG to look for an EXIF chunk behind the pixels: only one before them counts
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    turn = image.getexif().get(EXIF_ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def _deep(image: Image.Image, encoded: bytes) -> bool:
    return image.mode.startswith("I") or (image.format == "PNG" and encoded[24] == 16)


def _plain_tiff(image: Image.Image) -> bool:
    bits = image.tag_v2.get(TIFF_BITS, (1,))  # type: ignore[attr-defined]
    return image.mode in ("1", "L", "P", "RGB") and max(bits) <= 8
