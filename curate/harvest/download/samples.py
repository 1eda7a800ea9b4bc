"""One downloaded pair as members of a shard's tar: the image, its text, and all that is known of it as JSON."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa

from curate import tar
from curate.errors import UndecodableImage
from curate.harvest.pixels.results import Resized
from curate.shard import SUCCESS


def result_of(encoded: bytes, resize: Callable[[bytes], Resized]) -> tuple[dict[str, Any], bytes | None]:
    """What became of an image, as columns of RESULTS without the key, and its JPEG or None."""
    try:
        image = resize(encoded)
    except UndecodableImage as error:
        return {"status": "failed_to_resize", "error_message": str(error)}, None
    return {"status": SUCCESS, **image.about, "sha256": hashlib.sha256(encoded).hexdigest()}, image.jpeg


def sayable(rows: pa.Table) -> pa.Table:
    """The rows with columns that JSON cannot hold as text: times as ISO 8601, bytes as base64."""
    for index, field in enumerate(rows.schema):
        if not _in_json(field.type):
            values = json.loads(json.dumps(rows[index].to_pylist(), default=_said))
            rows = rows.set_column(index, field.name, pa.array(values))
    return rows


def _in_json(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return all(_in_json(kind.field(number).type) for number in range(kind.num_fields))
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating,
             pa.types.is_boolean, pa.types.is_null)  # fmt: skip
    return any(test(kind) for test in tests)


def _said(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


@contextmanager
def archive(path: str) -> Iterator[IO[bytes]]:
    """A tar to `add` to."""
    with open(path, "wb") as file:
        yield file
        file.write(bytes(2 * tar.BLOCK))


def add(archive: IO[bytes], pair: dict[str, Any], result: dict[str, Any], jpeg: bytes) -> None:
    """Write KEY.jpg, KEY.txt and KEY.json; `pair` is a row with its key and caption."""
    about = json.dumps({**pair, **result, "error_message": None}).encode()
    for suffix, content in (("jpg", jpeg), ("txt", pair["caption"].encode()), ("json", about)):
        archive.write(tar.header(f"{pair['key']}.{suffix}", len(content)) + content + tar.padding(len(content)))
