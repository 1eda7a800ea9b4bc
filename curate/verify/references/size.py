"""size by Pillow."""

import io

from PIL import Image

from curate.images import DAMAGED


class Reference:
    tolerance = 0.0

    def measure(self, images, captions) -> dict[str, list]:
        sizes = [_size(encoded) for encoded in images]
        return {
            "size_width": [size and size[0] for size in sizes],
            "size_height": [size and size[1] for size in sizes],
            "size_bytes": [len(encoded) for encoded in images],
        }


def _size(encoded: bytes) -> tuple[int, int] | None:
    """Of the first frame as stored, whatever EXIF says; a damaged image has the size that its header states."""
    try:
        return Image.open(io.BytesIO(encoded)).size
    except (*DAMAGED, Image.DecompressionBombError):
        return None
