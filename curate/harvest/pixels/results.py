"""What becomes of an image: the columns that a downloader fills, and a resized image with what it came as."""

from typing import Any, NamedTuple

import pyarrow as pa

RESULTS = pa.schema(
    [("key", pa.string()), ("status", pa.string()), ("error_message", pa.string()), ("width", pa.int32()),
     ("height", pa.int32()), ("original_width", pa.int32()), ("original_height", pa.int32()), ("sha256", pa.string()),
     ("format", pa.string()), ("animated", pa.bool_()), ("alpha", pa.bool_())]
)  # fmt: skip  # what a downloader says of each row; all but key, status and error_message are null without an image


class Resized(NamedTuple):
    """A JPEG, its size in pixels, and what it came as: upright size, format, one of several frames, with alpha."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    format: str  # jpeg, png, webp, gif, avif, bmp, tiff, jpeg2000
    animated: bool
    alpha: bool

    @property
    def about(self) -> dict[str, Any]:
        """All but the JPEG itself."""
        return {name: value for name, value in self._asdict().items() if name != "jpeg"}
