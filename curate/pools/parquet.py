"""Parquet files: DataComp's, LAION's or any other with a url and a text column, or with the images themselves."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import pools
from curate.errors import BadShard, CurateError
from curate.shard import SUCCESS
from curate.storage import streams

ROWS = 65_536  # rows in a batch
IMAGES = 64  # images in a batch
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")  # as Hugging Face, img2dataset and webdataset call them
BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


class Pool:
    """`path`: a file, a glob, a folder or a URL; `url`, `caption`: the columns. A list of captions is several pairs.

    `image`: the column that holds the images, which are then not downloaded: binary, or a struct with bytes in it, as
    Hugging Face writes them. By itself `image` or `jpg` is taken where it has such a type; None: only the urls count.
    `name` stands for the pool in the place of an image that has no url.
    """

    def __init__(self, path: str, url: str | None = "url", caption: str = "caption", image: str | None = "image",
                 name: str | None = None):  # fmt: skip
        self.path, self.url, self.caption, self.image = str(path), url, caption, image
        self.name = None if name is None else str(name)

    @property
    def places(self) -> pools.Places | None:
        """None where the pool holds urls only, as its first file tells."""
        try:
            with opened(self.parts()[0]) as file:
                inside = self._image(file.schema_arrow, self.path)
        except streams.DAMAGE:
            return None
        return pools.Places(self.path, self.name) if inside else None

    def parts(self) -> list[str]:
        return pools.files_of(self.path, "parquet")

    def columns(self, part: str) -> list[str]:
        try:
            with opened(part) as file:
                return file.schema_arrow.names
        except streams.DAMAGE as error:
            raise pools.damaged(part, 0, error) from error

    def read(self, part: str) -> Iterator[pa.Table]:
        rows = 0
        try:
            with opened(part) as file:
                image = self._image(file.schema_arrow, part)
                batches = self._stored(file, image, part) if image else self._linked(file, part)
                for table in batches:
                    yield table
                    rows += len(table)
        except streams.DAMAGE as error:
            raise pools.damaged(part, rows, error) from error

    def images(self, part: str, rows: list[int]) -> Iterator[tuple[int, bytes]]:
        """Reads the row groups that hold any of the rows, of them the images only."""
        try:
            with opened(part) as file:
                image = self._image(file.schema_arrow, part)
                if image is None:
                    raise BadShard(f"{part} no longer holds images")
                yield from _images(file, image, np.array(rows))
        except OSError as error:
            if not streams.is_local(part):
                raise BadShard(f"{part} cannot be read: {error}") from error
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return  # damaged from here on

    def _linked(self, file: pq.ParquetFile, part: str) -> Iterator[pa.Table]:
        columns = file.schema_arrow.names
        if self.url is None:
            raise CurateError(f"{part} needs a url or an image column; its columns: {', '.join(columns)}")
        url, caption = pools.chosen(columns, self.url, self.caption, part, "parquet")
        _check_urls(file, url, part)
        for batch in _batches(file, [url, caption]):
            parent, texts = _texts(batch[caption], f"{part}: column '{caption}'")
            yield pools.pairs(batch[url] if parent is None else batch[url].take(parent), texts)

    def _stored(self, file: pq.ParquetFile, image: str, part: str) -> Iterator[pa.Table]:
        columns = file.schema_arrow.names
        url, caption = pools.chosen(columns, self.url, self.caption, part, "parquet", needs_url=False)
        _check_urls(file, url, part)
        _check_bytes(file, image, part)
        places = pools.Places(self.path, self.name)
        read, first = [name for name in (url, caption, "status") if name in columns], 0
        for batch in _batches(file, read):
            parent, texts = _texts(batch[caption], f"{part}: column '{caption}'")
            parent = pa.array(np.arange(len(batch))) if parent is None else parent
            rows = parent.to_numpy() + first
            there = pa.array(places.of(part, map(str, rows.tolist())))
            if url:
                given = pools.pairs(batch[url].take(parent), texts)["url"]
                there = pc.if_else(pc.equal(given, ""), there, given)
            if "status" in read:  # img2dataset keeps the rows it could not download
                good = pc.fill_null(pc.equal(batch["status"].cast(pa.string()), SUCCESS), False)
                there = pc.if_else(good.take(parent), there, "")
            yield pools.pairs(there, texts).append_column("row", pa.array(rows, pa.int64()))
            first += len(batch)

    def _image(self, schema: pa.Schema, part: str) -> str | None:
        """The column with the images; None where there is none. Raises CurateError where the one asked for is none."""
        if self.image is None:
            return None
        if self.image == "image":
            found = next((n for n in IMAGE_COLUMNS if n in schema.names and _holds_bytes(schema.field(n).type)), None)
            if found or "image" not in schema.names or self._has_url(schema.names):
                return found
        elif self.image not in schema.names:
            raise CurateError(
                f"{part} has no column '{self.image}'; its columns: {', '.join(schema.names)}. "
                "Say which one holds the images: parquet(path=..., image=COLUMN)"
            )
        elif _holds_bytes(schema.field(self.image).type):
            return self.image
        kind = str(schema.field(self.image).type)
        raise CurateError(
            f"{part}: column '{self.image}' is {kind[:60]}; images are encoded files: "
            "binary, or struct<bytes: binary, ...>"
        )

    def _has_url(self, columns: list[str]) -> bool:
        return pools.column_of(columns, "url", self.url) is not None


@contextlib.contextmanager
def opened(part: str) -> Iterator[pq.ParquetFile]:
    """A parquet file of a pool. Raises CurateError where it is missing, one of streams.DAMAGE where it is none."""
    with contextlib.ExitStack() as stack:
        source: Any = stack.enter_context(streams.opened(part))
        # Arrow's threads must not hold a Python file: as the process ends they abort it; pre_buffer has such threads,
        # and takes the memory of a whole row group of images
        if streams.is_local(part):
            source = stack.enter_context(pa.OSFile(streams.path_of(part)))
        yield pq.ParquetFile(source, buffer_size=streams.BLOCK, pre_buffer=False)


def _batches(file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return file.iter_batches(ROWS, columns=list(dict.fromkeys(columns)), use_threads=False)


def _texts(column: pa.Array, where: str) -> tuple[pa.Array | None, pa.Array]:
    """The texts and the row of each, None where every row has one; a row with an empty list has an empty one.

    Raises CurateError for other types.
    """
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    inner = kind.value_type if is_list else kind
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    if pa.types.is_nested(inner):
        raise CurateError(f"{where} is {kind}; texts are strings or lists of strings")
    if not is_list:
        return None, column
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    places = np.arange(len(column)).repeat(np.maximum(lengths, 1))
    filled = lengths.repeat(np.maximum(lengths, 1)) > 0
    taken = np.where(filled, np.cumsum(filled) - 1, -1)
    return pa.array(places), pc.list_flatten(column).take(pa.array(taken, mask=taken < 0))


def _check_urls(file: pq.ParquetFile, url: str | None, part: str) -> None:
    if url and pa.types.is_nested(file.schema_arrow.field(url).type):
        raise CurateError(f"{part}: column '{url}' is {file.schema_arrow.field(url).type}; urls are strings")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return any(is_bytes(kind) for is_bytes in BYTES)


def _check_bytes(file: pq.ParquetFile, image: str, part: str) -> None:
    """Raises BadShard where every image is null, which the file's footer tells."""
    leaves = [file.schema.column(at).path for at in range(file.metadata.num_columns)]
    at = next(n for n, path in enumerate(leaves) if path in (image, f"{image}.bytes"))
    groups = [file.metadata.row_group(number).column(at) for number in range(file.metadata.num_row_groups)]
    counts = [group.statistics and group.statistics.null_count for group in groups]
    if groups and counts == [group.num_values for group in groups]:
        raise BadShard(f"{part}: column '{image}' holds no bytes, only paths at most; save it with its images embedded")


def _images(file: pq.ParquetFile, image: str, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
    ends = list(itertools.accumulate(file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)))
    nested = pa.types.is_struct(file.schema_arrow.field(image).type)
    for group in np.unique(np.searchsorted(ends, rows, "right")):
        first = ends[group - 1] if group else 0
        leaf = [f"{image}.bytes" if nested else image]
        for batch in file.iter_batches(IMAGES, row_groups=[int(group)], columns=leaf, use_threads=False):
            column: Any = pc.struct_field(batch.column(0), "bytes") if nested else batch.column(0)
            for row in rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(batch))]:
                encoded = column[int(row) - first].as_py()
                if encoded is not None:
                    yield int(row), encoded
            first += len(batch)
