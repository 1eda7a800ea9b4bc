"""Small WebP pictures as data URIs, read in one pass over the shards that hold them; which of them are veiled."""

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
from curate.shard import Shard

SIDE = 128
QUALITY = 72
BUDGET = 3_600_000  # characters of all data URIs: the page stays under 5 MB
UNSAFE = ("nsfw", "punsafe")  # columns that hold a chance of being unsafe: our signal's, LAION's
SAFE = 0.2  # below this open_nsfw's authors call an image safe with high probability (github.com/yahoo/open_nsfw)


@dataclass
class Picture:
    """One thumbnail and the words under it."""

    uid: str
    image: str  # data URI, "" where the picture cannot be shown
    caption: str
    note: str = ""
    veiled: bool = False
    kept: bool | None = None  # None: not a row of the dataset


@dataclass
class Thumbnails:
    """uid -> data URI, caption and fate of the pictures that could be read."""

    images: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    kept: dict[str, bool] = field(default_factory=dict)
    veiled: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)  # shard -> why it cannot be read
    everything_veiled: bool = False
    size: int = 0
    left_out: int = 0

    @classmethod
    def read(cls, dataset: Dataset, rows: pa.Table, uids: Iterable[str], blur: str = "nsfw") -> "Thumbnails":
        """Thumbnails of `uids`, found by the column "shard" of `rows`."""
        wanted = rows.filter(pc.is_in(rows["uid"], pa.array(sorted(uids), pa.string())))
        found = cls(everything_veiled=blur == "all")
        found.kept = dict(zip(wanted["uid"].to_pylist(), wanted["kept"].to_pylist(), strict=True))
        if blur == "nsfw":
            found.veiled = _unsafe(wanted)
        shards = dataset.shards
        for index in sorted(set(wanted["shard"].to_pylist())):
            here = set(wanted.filter(pc.equal(wanted["shard"], index))["uid"].to_pylist())
            try:
                found._read_shard(shards[index], here)
            except BadShard as error:
                found.failures[str(shards[index])] = str(error)
        return found

    def picture(self, uid: str, note: str) -> Picture:
        veiled = self.everything_veiled or uid in self.veiled
        words = self.captions.get(uid, "")
        return Picture(uid, self.images.get(uid, ""), words, note, veiled, self.kept.get(uid))

    def foreign(self, key: str, image: str, note: str) -> Picture:
        """A picture that lies outside the dataset; nobody measured how safe it is."""
        return Picture(key, self._within_budget(image), key, note, self.everything_veiled)

    def _read_shard(self, shard: Shard, uids: set[str]) -> None:
        table = shard.rows(["uid", "key", "caption"])
        with shard.images() as encoded:
            for row in table.filter(pc.is_in(table["uid"], pa.array(sorted(uids)))).to_pylist():
                self.captions[row["uid"]] = row["caption"]
                if row["key"] in encoded:
                    self.images[row["uid"]] = self._within_budget(thumbnail(encoded[row["key"]]))

    def _within_budget(self, image: str) -> str:
        if self.size + len(image) > BUDGET:
            self.left_out += 1
            return ""
        self.size += len(image)
        return image


def _unsafe(rows: pa.Table) -> set[str]:
    """uids that a column of UNSAFE says, or does not deny, to be unsafe."""
    found: set[str] = set()
    for name in UNSAFE:
        if name in rows.column_names and pa.types.is_floating(rows[name].type):
            unsafe = pc.invert(pc.fill_null(pc.less(rows[name], SAFE), False))
            found |= set(rows.filter(unsafe)["uid"].to_pylist())
    return found


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
