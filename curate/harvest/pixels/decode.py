"""One encoded image to pixels, JPEG at a fraction of its size where that is enough; only sound files pass."""

import struct

import cv2
import numpy as np
import simplejpeg

from curate import images
from curate.harvest.pixels.peek import Header
from curate.harvest.pixels.quiet import quiet
from curate.images import UndecodableImage

SCALES = (8, 4, 2)  # libjpeg leaves out the high frequencies of a block: exact averages, no cost for what is left out
PNG_SIGNATURE, CHUNK, CHECKSUM = b"\x89PNG\r\n\x1a\n", struct.Struct(">I4s"), 4
ROWS = 64  # that are put on white at a time, in the cache
UNREADABLE = ("Premature end of JPEG file", "Unsupported JPEG")  # cut off; 12 bits, lossless


def decode(encoded: bytes, header: Header, least: float, strict: bool) -> tuple[np.ndarray, int]:
    """Blue, green, red or grey uint8 [height, width(, 3)] of the first frame, as stored; transparency on white.

    And how many pixels of the image, each way, one of them stands for: a JPEG comes at 1/2, 1/4 or 1/8 of its size
    where its short side then still has `least` pixels. What does not fill the last one is filled up by its neighbours.
    Raises UndecodableImage: not decodable (cut off, too), and where `strict` corrupt: a JPEG that libjpeg-turbo
    decodes with a warning.
    """
    if header.format == "jpeg":
        return _jpeg(encoded, least, strict)
    if header.format == "png" and not _whole(encoded):
        raise UndecodableImage("not decodable")
    pixels = _opencv(encoded) if header.plain else None
    if pixels is None and header.plain and header.format in ("png", "webp", "gif"):
        raise UndecodableImage("not decodable")
    if pixels is None or pixels.dtype != np.uint8:
        return _pillow(encoded), 1
    return on_white(pixels) if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels, 1


def _jpeg(encoded: bytes, least: float, strict: bool) -> tuple[np.ndarray, int]:
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    except (ValueError, KeyError):  # KeyError: samplings that it has no name for
        return _unusual_jpeg(encoded), 1
    scale = next((scale for scale in SCALES if min(height, width) / scale >= least), 1)
    size = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
    if space in ("CMYK", "YCCK"):
        _sound(encoded, "CMYK", strict, {"min_height": 1, "min_width": 1})
        return _unusual_jpeg(encoded), 1
    pixels = _sound(encoded, "GRAY" if space == "Gray" else "BGR", strict, size)
    return pixels, scale if len(pixels) < height else 1


def _sound(encoded: bytes, space: str, strict: bool, size: dict[str, int]) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(encoded, space, **size)
    except ValueError as error:
        unreadable = str(error).startswith(UNREADABLE)
        if strict or unreadable:
            raise UndecodableImage("not decodable" if unreadable else "corrupt") from error
    return _unusual_jpeg(encoded)


def _unusual_jpeg(encoded: bytes) -> np.ndarray:
    """By OpenCV, as img2dataset does: CMYK, samplings that simplejpeg has no name for, damage it cannot pass over."""
    pixels = _opencv(encoded)
    if pixels is None:
        raise UndecodableImage("not decodable")
    return pixels


def _opencv(encoded: bytes) -> np.ndarray | None:
    with quiet():
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)


def _pillow(encoded: bytes) -> np.ndarray:
    try:
        return np.ascontiguousarray(images.decode(encoded, upright=False)[:, :, ::-1])
    except UndecodableImage as error:
        raise UndecodableImage("not decodable") from error


def _whole(png: bytes) -> bool:
    """Whether no chunk reaches behind the end: OpenCV 4.14 allots what a chunk says, 4 GB for a file of 224 bytes."""
    at = len(PNG_SIGNATURE)
    while at + CHUNK.size <= len(png):
        length, kind = CHUNK.unpack_from(png, at)
        at += CHUNK.size + length + CHECKSUM
        if kind == b"IEND":
            break
    return at <= len(png)


def on_white(bgra: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 4] over white: round(alpha / 255 * colour + 255 - alpha), img2dataset's, in integers."""
    white = np.empty((*bgra.shape[:2], 3), np.uint8)
    for top in range(0, len(bgra), ROWS):
        rows = bgra[top : top + ROWS]
        alpha = cv2.cvtColor(rows[:, :, 3], cv2.COLOR_GRAY2BGR)
        faded = cv2.multiply(cv2.cvtColor(rows, cv2.COLOR_BGRA2BGR), alpha, scale=1 / 255)
        white[top : top + ROWS] = cv2.add(faded, cv2.bitwise_not(alpha))
    return white
