"""What the stored file says of itself in its header: format, frames, transparency, EXIF orientation, interlacing.

Shards of `harvest` hold JPEGs made anew, so there these flags describe that JPEG; what the original was stands in the
shard's own columns `format`, `animated` and `alpha`.
"""

import io
import struct
import warnings
from typing import Any

import pyarrow as pa
from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag
MOVING = {"GIF", "WEBP", "PNG", "AVIF"}  # the pages of a TIFF and the sizes of an MPO do not move
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
COLUMNS = {"format": pa.string(), "frames": pa.int32(), "animated": pa.bool_(), "alpha": pa.bool_(),
           "orientation": pa.int8(), "progressive": pa.bool_()}  # fmt: skip


class Signal:
    """All null where the header cannot be read. flags_format: as Pillow names it, in small letters. flags_frames:
    frames or pages. flags_animated: several frames that move. flags_alpha: has transparent pixels, or may have.
    flags_orientation: 1 to 8, 1 is upright. flags_progressive: a progressive JPEG or an interlaced PNG."""

    reads = ("image",)

    def measure(self, rows) -> dict[str, pa.Array]:
        found = [_flags(encoded) for encoded in rows["image"]]
        return {f"flags_{name}": pa.array([each.get(name) for each in found], kind) for name, kind in COLUMNS.items()}


def _flags(encoded: bytes) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded))
        frames = getattr(image, "n_frames", 1)
        # Pillow decodes a PNG to look for EXIF behind the pixels: only what stands before them counts
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        turned = exif.get(ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError):
        return {}
    return {
        "format": str(image.format).lower(),
        "frames": frames,
        "animated": image.format in MOVING and frames > 1,
        "alpha": image.mode in TRANSPARENT or "transparency" in image.info,
        "orientation": turned if turned in range(1, 9) else 1,
        "progressive": bool(image.info.get("progressive") or image.info.get("interlace")),
    }
