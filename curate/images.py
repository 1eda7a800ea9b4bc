"""Encoded bytes to RGB pixels, one definition for every signal: EXIF applied, transparency on white, 16 bits scaled."""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tiff", "tif", "avif")
MAX_PIXELS = 178_956_970  # Pillow's own limit for an error: larger images are refused before they are decoded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow raises at twice this value


MIN_SIDE = 16  # fewer pixels than this on a side say too little to compare pictures by
MIN_SPREAD = 4.0  # grey levels of 255


class UndecodableImage(ValueError):
    """The bytes are no whole image of a size that can be decoded."""


def decode(encoded: bytes) -> np.ndarray:
    """RGB uint8 [height, width, 3] of the first frame. Raises UndecodableImage.

    JPEG files without an EXIF rotation go through libjpeg-turbo (bit-equal to Pillow), everything else through Pillow.
    """
    try:
        if encoded[:2] == b"\xff\xd8" and b"Exif\0\0" not in encoded[:4096]:
            height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
            if height * width > MAX_PIXELS:
                raise UndecodableImage(f"{width} x {height} pixels, more than {MAX_PIXELS}")
            if space in ("YCbCr", "RGB", "Gray"):
                return simplejpeg.decode_jpeg(encoded, "RGB")
        return np.asarray(_rgb(Image.open(io.BytesIO(encoded))))
    except UndecodableImage:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UndecodableImage(str(error).split("\n", 1)[0]) from error


def is_flat(pixels: np.ndarray) -> bool:
    """Whether RGB uint8 [height, width, 3] is near-blank, or tiny: such pictures look alike to every measure.

    Near-blank: the grey levels of its 32 x 32 box average have a standard deviation under MIN_SPREAD.
    """
    if min(pixels.shape[:2]) < MIN_SIDE:
        return True
    grey = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX)
    return float(np.asarray(grey, np.float32).std()) < MIN_SPREAD


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
