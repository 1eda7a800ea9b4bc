"""Encoded bytes to RGB pixels, one definition for every signal: EXIF applied, transparency on white, 16 bits scaled.

Beside it the grey levels and their reductions that the perceptual hashes start from: Pillow's own arithmetic, bit for
bit, as matrix products. The first use compares them with the installed Pillow, which takes over where they differ.
"""

import functools
import io
import itertools
import struct

import cv2
import numpy as np
import PIL
import simplejpeg
from PIL import Image, ImageOps

from curate.errors import UndecodableImage

MAX_PIXELS = 178_956_970  # Pillow's own limit for an error: larger images are refused before they are decoded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow raises at twice this value


DECODER = {"pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__}  # what decides the pixels
MIN_SIDE = 16  # fewer pixels than this on a side say too little to compare pictures by
MIN_SPREAD = 4.0  # grey levels of 255
SMALL = 32  # side of the reduction that flatness is told by, and from which phash starts
STRIP = 1 << 15  # pixels turned grey at a time: they stay in the cache, and huge pictures need no huge floats
LARGEST = 2048  # pixels on a side up to which `lanczos` multiplies matrices
LUMA = np.array([[19595, 38470, 7471, 1 << 15]], np.float32) / (1 << 16)  # Pillow's weights of R, G, B; rounding
WEIGHT_BITS = 22  # of the weights of Pillow's resize
BLOCK, WIDE_BLOCK = 8, 16  # columns that `lanczos` makes at a time: fewer is slow, more multiplies zeros


# what Pillow's readers raise for damaged files: it passes these over itself where it looks for a reader
DAMAGED = (OSError, ValueError, SyntaxError, IndexError, TypeError, KeyError, EOFError, RuntimeError, struct.error)


def decode(encoded: bytes, upright: bool = True) -> np.ndarray:
    """RGB uint8 [height, width, 3] of the first frame, turned as EXIF says if `upright`. Raises UndecodableImage.

    JPEG files without an EXIF rotation go through libjpeg-turbo (bit-equal to Pillow), everything else through Pillow.
    """
    try:
        if encoded[:2] == b"\xff\xd8" and b"Exif\0\0" not in encoded[:4096]:
            height, width, space = _jpeg_header(encoded)
            if height * width > MAX_PIXELS:
                raise UndecodableImage(f"{width} x {height} pixels, more than {MAX_PIXELS}")
            if space in ("YCbCr", "RGB", "Gray"):
                return simplejpeg.decode_jpeg(encoded, "RGB")
        return np.asarray(_rgb(Image.open(io.BytesIO(encoded)), upright))
    except UndecodableImage:
        raise
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise UndecodableImage(str(error).split("\n", 1)[0]) from error


def _jpeg_header(encoded: bytes) -> tuple[int, int, str]:
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
    except KeyError:  # a sampling that simplejpeg has no name for
        return 0, 0, ""
    return height, width, space


def pixel_count(encoded: bytes) -> int:
    """Width times height as the header says, 0 where it cannot be read or says too much: nothing will be decoded."""
    try:
        if encoded[:2] == b"\xff\xd8":
            height, width, _ = _jpeg_header(encoded)
        else:
            width, height = Image.open(io.BytesIO(encoded)).size
    except (*DAMAGED, Image.DecompressionBombError):
        return 0
    return width * height if width * height <= MAX_PIXELS else 0


def grey(pixels: np.ndarray) -> np.ndarray:
    """RGB uint8 [height, width, 3] -> grey levels uint8 [height, width], those of Pillow's convert("L")."""
    return _grey(pixels) if _grey_agrees() else _grey_by_pillow(pixels)


def lanczos(levels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Grey levels uint8 [h, w] -> uint8 [height, width], those of Pillow's Lanczos resize."""
    shrinks = width <= levels.shape[1] <= LARGEST and height <= levels.shape[0] <= LARGEST
    return (_lanczos if shrinks and _lanczos_agrees() else _lanczos_by_pillow)(levels, width, height)


def is_flat(levels: np.ndarray, small: np.ndarray) -> bool:
    """Whether a picture is near-blank or tiny: such pictures look alike to every measure.

    levels: its grey levels uint8 [height, width]; small: their `lanczos` reduction to SMALL x SMALL, whose standard
    deviation is under MIN_SPREAD where there is next to nothing to see.
    """
    return min(levels.shape) < MIN_SIDE or float(small.std(dtype=np.float32)) < MIN_SPREAD


def trials() -> list[np.ndarray]:
    """Grey levels of noise in a few shapes, for comparing a fast method with the library it stands for."""
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (48, 200), (200, 48), (33, 90), (256, 341), (1000, 40), (40, 1000), (9, 7)]
    coarse = [rng.integers(0, 256, (-(-h // 8), -(-w // 8)), np.uint8).repeat(8, 0).repeat(8, 1) for h, w in shapes]
    fine = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    return [levels[:h, :w].copy() for noise in (coarse, fine) for levels, (h, w) in zip(noise, shapes, strict=True)]


def _grey(pixels: np.ndarray) -> np.ndarray:
    """All sums are multiples of 2**-16 below 256, so float32 holds them exactly."""
    levels = np.empty(pixels.shape[:2], np.uint8)
    rows = max(1, STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        levels[top : top + rows] = cv2.transform(pixels[top : top + rows].astype(np.float32), LUMA)
    return levels


def _grey_by_pillow(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


@functools.lru_cache(maxsize=1)
def _grey_agrees() -> bool:
    colours = np.random.default_rng(0).integers(0, 256, (300, 401, 3), np.uint8)
    colours[:2, :3] = [[[255, 255, 255], [0, 0, 0], [255, 0, 0]], [[0, 255, 0], [0, 0, 255], [1, 1, 1]]]
    return np.array_equal(_grey(colours), _grey_by_pillow(colours))


def _lanczos(levels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The order of the passes is that of Pillow 13: rows first, unless most of the work lies in the columns."""
    found = levels.astype(np.float64)
    across, down = levels.shape[1] - width, levels.shape[0] - height
    if down > 2 * across:
        return _shrunk(_shrunk(found.T, height).T, width).astype(np.uint8)
    return _shrunk(_shrunk(found, width).T, height).T.astype(np.uint8)


def _shrunk(levels: np.ndarray, target: int) -> np.ndarray:
    """Grey levels [n, size] in float64 -> [n, target], rounded as Pillow does; nothing is done where size == target."""
    if levels.shape[1] == target:
        return levels
    sums = np.concatenate([levels[:, part] @ weights for part, weights in _weights(levels.shape[1], target)], axis=1)
    sums *= 2.0**-WEIGHT_BITS
    sums += 0.5
    return np.clip(np.floor(sums, out=sums), 0, 255, out=sums)


@functools.lru_cache(maxsize=512)  # of about 70 KB
def _weights(size: int, target: int) -> list[tuple[slice, np.ndarray]]:
    """Pillow's weights of a Lanczos window of 3 lobes on either side, whole numbers in float64 [some of size, some of
    target]: a band matrix, cut into blocks that leave most of the zeros out."""
    scale = size / target
    reach = 3 * scale
    centres = (np.arange(target) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    last = np.minimum((centres + reach + 0.5).astype(int), size)
    at = first[:, None] + np.arange((last - first).max())
    x = (at - centres[:, None] + 0.5) / scale
    window = np.where((at < last[:, None]) & (x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0)
    whole = window / window.sum(axis=1, keepdims=True) * 2**WEIGHT_BITS
    weights = np.zeros((target, size + at.shape[1]))
    np.put_along_axis(weights, at, np.trunc(whole + np.where(whole < 0, -0.5, 0.5)), axis=1)
    blocks = max(1, target // (BLOCK if target <= 64 else WIDE_BLOCK))
    cuts = np.linspace(0, target, blocks + 1).astype(int)
    parts = [(slice(first[start], last[end - 1]), slice(start, end)) for start, end in itertools.pairwise(cuts)]
    return [(taken, np.ascontiguousarray(weights[given, taken].T)) for taken, given in parts]


def _lanczos_by_pillow(levels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.LANCZOS))


@functools.lru_cache(maxsize=1)
def _lanczos_agrees() -> bool:
    return all(
        np.array_equal(_lanczos(levels, *size), _lanczos_by_pillow(levels, *size))
        for levels in trials()
        for size in ((32, 32), (9, 8), (256, 256))
        if levels.shape[1] >= size[0] and levels.shape[0] >= size[1]
    )


def _rgb(image: Image.Image, upright: bool) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image) if upright else image
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image)
        image = Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
