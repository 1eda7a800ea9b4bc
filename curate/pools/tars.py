"""Tars of samples as img2dataset and webdataset write them: the images are there, nothing is downloaded.

Texts and urls come from the parquet file beside a tar, or else from its txt and json members.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from curate import pools, tar
from curate.errors import BadShard
from curate.pools import parquet
from curate.shard import SUCCESS
from curate.storage import streams
from curate.tar import IMAGE_EXTENSIONS
from curate.words import counted

ROWS = 65_536  # rows in a batch
COMPRESSED = (*streams.CODECS, ".zst", ".tgz")


@dataclass
class Sample:
    """What is known of one sample without its image."""

    url: str | None = None
    texts: list[str] = field(default_factory=list)
    has_image: bool = False


class Pool:
    """`path`: a tar (also .tgz .tar.gz .bz2 .xz .zst), a glob, a folder, a curate dataset, or a URL.

    `caption`: the member (txt), the key of the json member or the column of the parquet file beside the tar that holds
    the text; by itself that column, else txt, else the json's caption or text. `url`: the json's key or the column that
    says where an image comes from; None: always its place in the pool, in which `name` stands for the pool.

    A row is a row of the parquet file, or, where there is none, a sample in the order of the tar.
    """

    def __init__(self, path: str, url: str | None = "url", caption: str = "caption", name: str | None = None):
        self.path, self.url, self.caption = str(path), url, caption
        self.places = pools.Places(self.path, None if name is None else str(name))

    def parts(self) -> list[str]:
        return pools.files_of(self.path, "tars")

    def read(self, part: str) -> Iterator[pa.Table]:
        """Reads the parquet file alone, or passes over the images."""
        listed = self._listed(part)
        if listed is None:
            samples, damage, spoilt = self._walked(part)
        else:
            samples, damage, spoilt = listed, self._check_end(part, listed), None
        self._check(part, samples, damage)
        yield from self._tables(part, samples)
        if damage:
            raise pools.damaged(part, len(samples), damage)
        if spoilt:
            raise BadShard(f"{part}: {spoilt}, {counted(len(samples), 'row')} read")

    def images(self, part: str, rows: list[int]) -> Iterator[tuple[int, bytes]]:
        """In the order of the tar, which is read up to the last of them."""
        wanted, listed = set(rows), self._listed(part)
        numbers = {key: number for number, key in enumerate(listed or ())}
        with _opened(part) as (stream, inflated):
            try:
                for member in tar.members(stream, part):
                    key, extension = tar.split(member.name)
                    number = numbers.get(key) if listed is not None else numbers.setdefault(key, len(numbers))
                    if number in wanted and extension in IMAGE_EXTENSIONS:
                        wanted.remove(number)
                        yield number, stream.read(member.data, member.size)
                        if not wanted:
                            return
            except BadShard:  # damaged from here on
                if inflated and inflated.lost:
                    raise BadShard(f"{part} cannot be read: {inflated.damage}") from None
            except OSError as error:
                raise BadShard(f"{part} cannot be read: {error}") from error

    def _listed(self, part: str) -> dict[str, Sample] | None:
        """The samples by key as the parquet file beside the tar has them; None where none has the keys and texts."""
        sidecar = pools.sidecar_of(part)
        if sidecar is None or not streams.exists(sidecar):
            return None
        try:
            with parquet.opened(sidecar) as file:
                columns = file.schema_arrow.names
                url, caption = (pools.column_of(columns, *option) for option in
                                (("url", self.url), ("caption", self.caption)))  # fmt: skip
                if "key" not in columns or caption is None or pa.types.is_nested(file.schema_arrow.field(caption).type):
                    return None
                read = [name for name in ("key", url, caption, "status") if name in columns]
                table = file.read(list(dict.fromkeys(read)), use_threads=False)
        except streams.DAMAGE as error:
            raise pools.damaged(sidecar, 0, error) from error
        found = pools.pairs(table[url or "key"], table[caption])
        good = pc.equal(table["status"].cast(pa.string()), SUCCESS) if "status" in read else pa.repeat(True, len(table))
        columns = (table["key"].cast(pa.string()), found["url"], found["caption"], good)
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        return {key: Sample(address if url else None, [text], bool(there)) for key, address, text, there in rows}

    def _check_end(self, part: str, samples: dict[str, Sample]) -> str | None:
        """Take the images from the samples that a damaged tar lacks; why, or None where its end is there."""
        keys, damage = set(), None
        try:
            if _is_whole(part):
                return None
            with _opened(part) as (stream, _):
                for member in tar.members(stream, part):
                    key, extension = tar.split(member.name)
                    if extension in IMAGE_EXTENSIONS:
                        keys.add(key)
        except (BadShard, OSError) as error:
            damage = str(error).removeprefix(f"{part}: ")
        for key, sample in samples.items():
            sample.has_image = sample.has_image and key in keys
        return damage

    def _walked(self, part: str) -> tuple[dict[str, Sample], str | None, str | None]:
        """The samples by key as the tar itself has them, why it broke, and which json could not be read."""
        samples: dict[str, Sample] = {}
        damage, bad = None, []
        text_member = "txt" if self.caption == "caption" else self.caption.lower()
        with _opened(part) as (stream, inflated):
            try:
                for member in tar.members(stream, part):
                    key, extension = tar.split(member.name)
                    sample = samples.setdefault(key, Sample())
                    if extension in IMAGE_EXTENSIONS:
                        sample.has_image = True
                    elif extension == text_member:
                        text = stream.read(member.data, member.size).decode("utf-8-sig", "replace").strip()
                        sample.texts = [text] if text else sample.texts
                    elif extension == "json" and not self._add(sample, stream.read(member.data, member.size)):
                        bad.append(member.name)
            except (BadShard, OSError) as error:
                damage = str(error).removeprefix(f"{part}: ")
        damage = (inflated and inflated.damage) or damage
        return samples, damage, f"{counted(len(bad), 'json member')} without a JSON object ({bad[0]})" if bad else None

    def _add(self, sample: Sample, stored: bytes) -> bool:
        """Take url and text from a json member; False where it is no object. The text of another member goes first."""
        try:
            about = json.loads(stored.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return False
        if not isinstance(about, dict):
            return False
        url = about.get(pools.column_of(about, "url", self.url) or "")
        text = about.get(pools.column_of(about, "caption", self.caption) or "")
        texts = [pools.valid(t) for t in (text if isinstance(text, list) else [text]) if isinstance(t, str)]
        sample.url = pools.valid(url) if isinstance(url, str) else None
        sample.texts = sample.texts or texts
        return True

    def _check(self, part: str, samples: dict[str, Sample], damage: str | None) -> None:
        """Raises BadShard where no sample is of any use."""
        if damage or not samples:
            return
        if not any(sample.has_image for sample in samples.values()):
            raise BadShard(f"{part} has no images: none of its members is .{', .'.join(IMAGE_EXTENSIONS)}")
        if not any(any(sample.texts) for sample in samples.values()):
            where = "no .txt or .json member" if self.caption == "caption" else f"no '{self.caption}'"
            raise BadShard(
                f"{part} has no texts: {where} holds any; name the member, the json key or the column of the parquet "
                "file beside it: tars(path=..., caption=NAME)"
            )

    def _tables(self, part: str, samples: dict[str, Sample]) -> Iterator[pa.Table]:
        places = self.places.of(part, samples)
        found = [
            (((sample.url or place) if sample.has_image else ""), text, row)
            for row, (sample, place) in enumerate(zip(samples.values(), places, strict=True))
            for text in sample.texts or [""]
        ]
        for start in range(0, len(found), ROWS):
            urls, texts, rows = zip(*found[start : start + ROWS], strict=True)
            yield pa.table({"url": urls, "caption": texts, "row": pa.array(rows, pa.int64())})


@contextmanager
def _opened(part: str) -> Iterator[tuple[tar.Stream, streams.Inflated | None]]:
    if _is_compressed(part):
        inflated = streams.Inflated(part)
        try:
            yield tar.Stream(inflated), inflated  # type: ignore[arg-type]
        finally:
            inflated.close()
        return
    with streams.opened(part) as file:
        try:
            stream = tar.Stream(file)
        except OSError as error:
            raise BadShard(f"{part} cannot be read: {error}") from error
        yield stream, None


def _is_compressed(part: str) -> bool:
    return streams.file_name(part).endswith(COMPRESSED)


def _is_whole(part: str) -> bool:
    """Whether a tar ends as it should, which a look at its last block tells; a compressed one is taken for whole."""
    if _is_compressed(part):
        return True
    with streams.opened(part) as file:
        if not file.seekable():
            return True
        size = file.seek(0, 2)
        file.seek(max(size - tar.BLOCK, 0))
        end = file.read(tar.BLOCK)
    return size % tar.BLOCK == 0 and end == bytes(tar.BLOCK)
