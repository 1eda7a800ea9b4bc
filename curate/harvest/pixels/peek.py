"""What an untrusted image says of itself before it is decoded: its size, its kind, what a plain decoder gets wrong."""

import io
import struct
import warnings
from typing import NamedTuple

from PIL import Image

from curate import images
from curate.images import DAMAGED, UndecodableImage

EXIF_ORIENTATION = 0x0112
TIFF_BITS = 258
MAX_PIXELS = images.MAX_PIXELS // 2  # 270 MB once decoded; half as many where decoding takes twice the memory
START, SCAN = b"\xff\xd8", b"\xff\xda"
BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
APP1 = 0xE1  # EXIF, XMP
SEQUENTIAL = {0xC0, 0xC1}  # frames of the baseline and the extended sequential process
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # of any process
FRAME = struct.Struct(">BHHB")  # bits, height, width, components
KEY_FRAME, VP8_SIZE = b"\x9d\x01\x2a", struct.Struct("<HH")  # RFC 6386, 9.1
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


class Frame(NamedTuple):
    """What the segments of a JPEG say up to its first scan."""

    kind: int  # the marker of the frame: which process
    bits: int
    height: int
    width: int
    components: int
    whole: bool = False  # the first scan holds all components; libjpeg refuses a sequential file with any after it
    described: bool = False  # EXIF or XMP, which may turn the image

    @property
    def header(self) -> Header | None:
        """What `_header` makes of it, in a tenth of the time; None where Pillow should have a look."""
        usual = self.bits == 8 and self.components in (1, 3) and self.height and self.width
        if not usual or self.described or self.kind not in SEQUENTIAL:
            return None
        return Header("jpeg", self.width, self.height, False, False, 1, plain=True, baseline=True)


def peek(encoded: bytes) -> Header:
    """Read the header only. Raises UndecodableImage: not an image, too many pixels, too many scans."""
    frame = _frame(encoded)
    header = (frame.header if frame else _simple_webp(encoded)) or _opened(encoded)
    if header.width * header.height > (MAX_PIXELS if header.cheap else MAX_PIXELS // 2):
        raise UndecodableImage("too many pixels")
    if header.format == "jpeg":
        # counting scans looks at every byte, which takes longer than all else that is read here
        single = header.baseline and frame and frame.whole
        if not single and encoded.count(SCAN) > MAX_SCANS:
            raise UndecodableImage("too many scans")
    return header


def _frame(jpeg: bytes) -> Frame | None:
    """None where this is no JPEG, or none whose segments lie one behind the other with one frame among them."""
    if not jpeg.startswith(START):
        return None
    at, frame, described = len(START), None, False
    while at + 10 <= len(jpeg):
        kind, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at] != 0xFF or kind in BARE or length < 2:
            return None
        if kind == SCAN[1]:
            return frame and frame._replace(whole=jpeg[at + 4] == frame.components, described=described)
        if kind in FRAMES:
            if frame:
                return None
            frame = Frame(kind, *FRAME.unpack_from(jpeg, at + 4))
        described = described or kind == APP1
        at += 2 + length
    return None


def _simple_webp(encoded: bytes) -> Header | None:
    """The header of a WebP that is one lossy picture and nothing else, for which Pillow unpacks the file; or None."""
    if encoded[:4] != b"RIFF" or encoded[8:16] != b"WEBPVP8 " or encoded[23:26] != KEY_FRAME or encoded[20] & 1:
        return None
    width, height = (side & 0x3FFF for side in VP8_SIZE.unpack_from(encoded.ljust(30, b"\0"), 26))
    if not (width and height):
        return None
    return Header("webp", width, height, False, False, 1, plain=True, baseline=False)


def _opened(encoded: bytes) -> Header:
    """As Pillow reads it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, and of sizes that are refused here anyway
            return _header(Image.open(io.BytesIO(encoded), formats=KINDS), encoded)
    except Image.DecompressionBombError as error:
        raise UndecodableImage("too many pixels") from error
    except DAMAGED as error:
        raise UndecodableImage("not an image") from error


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
    try:
        turn = image.getexif().get(EXIF_ORIENTATION, 1)
    except DAMAGED:  # of the EXIF, without which the image is shown as it is stored
        return 1
    return turn if turn in range(1, 9) else 1


def _deep(image: Image.Image, encoded: bytes) -> bool:
    return image.mode.startswith("I") or (image.format == "PNG" and encoded[24] == 16)


def _plain_tiff(image: Image.Image) -> bool:
    bits = image.tag_v2.get(TIFF_BITS, (1,))  # type: ignore[attr-defined]
    return image.mode in ("1", "L", "P", "RGB") and max(bits) <= 8
