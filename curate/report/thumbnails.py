"""Small WebP pictures as data URIs, read in one pass over the shards that hold them."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from curate import images
from curate.dataset import Dataset
from curate.errors import BadShard

SIDE = 128
QUALITY = 72


@dataclass
class Thumbnails:
    """uid -> data URI and caption of the pictures that could be read."""

    images: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # shard -> why it cannot be read

    @classmethod
    def read(cls, dataset: Dataset, rows: pa.Table, uids: Iterable[str]) -> "Thumbnails":
        """Thumbnails of `uids`, found by the column "shard" of `rows`."""
        found = cls()
        wanted = rows.filter(pc.is_in(rows["uid"], pa.array(sorted(uids), pa.string())))
        shards = dataset.shards
        for index in sorted(set(wanted["shard"].to_pylist())):
            here = set(wanted.filter(pc.equal(wanted["shard"], index))["uid"].to_pylist())
            try:
                found._read_shard(shards[index], here)
            except BadShard as error:
                found.failures[str(shards[index])] = str(error)
        return found

    def _read_shard(self, shard, uids: set[str]) -> None:
        table = shard.rows().select(["uid", "key", "caption"])
        with shard.images() as encoded:
            for row in table.filter(pc.is_in(table["uid"], pa.array(sorted(uids)))).to_pylist():
                self.captions[row["uid"]] = row["caption"]
                if row["key"] in encoded:
                    self.images[row["uid"]] = thumbnail(encoded[row["key"]])


def thumbnail(encoded: bytes) -> str:
    """A data URI at most SIDE pixels wide and high, or "" where the image cannot be decoded."""
    try:
        picture = Image.fromarray(images.decode(encoded))
    except images.UndecodableImage:
        return ""
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
