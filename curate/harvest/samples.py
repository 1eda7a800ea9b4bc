"""One downloaded pair as members of a shard's tar: the image, its text, and all that is known of it as JSON."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

from curate.harvest.resize import Resized
from curate.images import UndecodableImage
from curate.shard import SUCCESS


def result_of(encoded: bytes, resize: Callable[[bytes], Resized]) -> tuple[dict[str, Any], bytes | None]:
    """What became of an image, as columns of RESULTS without the key, and its JPEG or None."""
    try:
        image = resize(encoded)
    except UndecodableImage as error:
        return {"status": "failed_to_resize", "error_message": str(error)}, None
    return {"status": SUCCESS, **image.about, "sha256": hashlib.sha256(encoded).hexdigest()}, image.jpeg


def add(archive: tarfile.TarFile, pair: dict[str, Any], result: dict[str, Any], jpeg: bytes) -> None:
    """Write KEY.jpg, KEY.txt and KEY.json; `pair` is a row with its key and caption."""
    about = json.dumps({**pair, **result, "error_message": None}, indent=4).encode()
    for suffix, content in (("jpg", jpeg), ("txt", pair["caption"].encode()), ("json", about)):
        info = tarfile.TarInfo(f"{pair['key']}.{suffix}")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
