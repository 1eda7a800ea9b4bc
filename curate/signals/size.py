"""Width, height, aspect ratio and bytes of the stored image, as its header states them."""

import io

import pyarrow as pa
from PIL import Image, UnidentifiedImageError


class Signal:
    reads = ("image",)

    def measure(self, rows) -> dict[str, pa.Array]:
        sizes = [_size(encoded) for encoded in rows["image"]]
        shapes = [(max(size), min(size)) if size else None for size in sizes]
        return {
            "size_width": pa.array([size[0] if size else None for size in sizes], pa.int32()),
            "size_height": pa.array([size[1] if size else None for size in sizes], pa.int32()),
            "size_min": pa.array([shape[1] if shape else None for shape in shapes], pa.int32()),
            "size_aspect": pa.array([shape[0] / shape[1] if shape else None for shape in shapes], pa.float32()),
            "size_bytes": pa.array([len(encoded) for encoded in rows["image"]], pa.int64()),
        }


def _size(encoded: bytes) -> tuple[int, int] | None:
    try:
        width, height = Image.open(io.BytesIO(encoded)).size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    return (width, height) if width and height else None
