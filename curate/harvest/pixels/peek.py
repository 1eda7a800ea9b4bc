"""What an untrusted image says of itself before it is decoded: its size, its kind, what a plain decoder gets wrong."""

import io
import warnings
from typing import NamedTuple

from PIL import Image

from curate import images
from curate.images import DAMAGED, UndecodableImage

EXIF_ORIENTATION = 0x0112
TIFF_BITS = 258
MAX_PIXELS = images.MAX_PIXELS // 2  # 270 MB once decoded; half as many where decoding takes twice the memory
SCAN = b"\xff\xda"
BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
FRAMES = {0xC0, 0xC1}  # of the baseline and the extended sequential process
MAX_SCANS = 100  # of a progressive JPEG, usually 10: each passes over all pixels, and can be a few bytes long
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
    baseline: bool  # a JPEG that is not progressive, grey or in colour

    @property
    def cheap(self) -> bool:
        """Whether decoding takes little more memory than the pixels, 3 bytes each."""
        return self.plain and not (self.alpha or self.animated) and (self.format != "jpeg" or self.baseline)


def peek(encoded: bytes) -> Header:
    """Read the header only. Raises UndecodableImage: not an image, too many pixels, too many scans."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, and of sizes that are refused here anyway
            header = _header(Image.open(io.BytesIO(encoded), formats=KINDS), encoded)
    except Image.DecompressionBombError as error:
        raise UndecodableImage("too many pixels") from error
    except DAMAGED as error:
        raise UndecodableImage("not an image") from error
    if header.width * header.height > (MAX_PIXELS if header.cheap else MAX_PIXELS // 2):
        raise UndecodableImage("too many pixels")
    if header.format == "jpeg" and not (header.baseline and _one_scan(encoded)) and encoded.count(SCAN) > MAX_SCANS:
        raise UndecodableImage("too many scans")
    return header


def _one_scan(jpeg: bytes) -> bool:
    """Whether the first scan holds all components; libjpeg refuses a sequential file with any after it.

    Counting scans looks at every byte, which takes longer than all else that is read here.
    """
    at, components = 2, 0
    while at + 10 <= len(jpeg):
        kind, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at] != 0xFF or kind in BARE or length < 2:
            return False
        if kind in FRAMES:
            components = jpeg[at + 9]
        if kind == SCAN[1]:
            return jpeg[at + 4] == components
        at += 2 + length
    return False


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
