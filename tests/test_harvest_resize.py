"""Our resizer gives the bytes that img2dataset gives, without img2dataset."""

import importlib
import io
import random
import zlib

import numpy as np
import pytest
from PIL import Image

from curate.harvest.peek import MAX_PIXELS
from curate.harvest.resize import Resizer
from curate.images import UndecodableImage

MODES = {"RGB": ("JPEG", "PNG", "WEBP", "BMP"), "L": ("JPEG", "PNG"), "RGBA": ("PNG", "WEBP"), "P": ("PNG", "GIF"),
         "LA": ("PNG",), "CMYK": ("JPEG",), "1": ("PNG",)}  # fmt: skip


def picture(seed: int) -> tuple[str, bytes]:
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    width, height = rng.randrange(20, 400), rng.randrange(20, 400)
    small = Image.fromarray(noise.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8))
    mode = rng.choice(sorted(MODES))
    image = small.resize((width, height)).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(noise.integers(0, 255, (height, width), np.uint8)))
    buffer = io.BytesIO()
    image.save(buffer, rng.choice(MODES[mode]))
    return f"{mode} {width}x{height}", buffer.getvalue()


@pytest.mark.slow
def test_decoded_exactly_the_bytes_are_those_of_img2dataset():
    pytest.importorskip("curate.harvest.downloaders.img2dataset", reason="img2dataset is not installed")
    theirs = importlib.import_module("img2dataset.resizer").Resizer(64, "keep_ratio", True, encode_quality=95)
    ours = Resizer(64, 95, 0, "exact")
    for seed in range(120):
        name, encoded = picture(seed)
        assert tuple(ours(encoded))[:5] == tuple(theirs(io.BytesIO(encoded)))[:5], name


def png_header(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [(b"<html>", "not an image"), (b"", "not an image"), (png_header(int(MAX_PIXELS**0.5) + 9), "too many pixels"),
     (picture(3)[1][:200], "not decodable|not an image")],
)  # fmt: skip
def test_what_is_no_picture_has_a_reason(encoded, reason):
    with pytest.raises(UndecodableImage, match=reason):
        Resizer(64, 95, 8)(encoded)
