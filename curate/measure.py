"""Measure several signals over every shard in one pass over its tar; what is measured already is left alone."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from curate import images, named
from curate.dataset import Dataset
from curate.errors import BadShard, CurateError
from curate.named import Spec
from curate.shard import Shard
from curate.work import Engine, Report, run_all

BATCH = 128  # images decoded at a time: 25 MB of pixels at 256 x 256
MOST_PIXELS = 1 << 25  # of all images of a batch: 100 MB, unless a single one has more
DECODED = frozenset(
    {"pixels", "grey", "small", "flat"}
)  # what is derived from the image, once for all signals of a pass
FROM_IMAGE = DECODED | {"image"}


class Rows:
    """A batch of rows of a shard as signals see it: any sidecar column as Arrow data, "image" as encoded bytes, and,
    derived when first asked for and None where the image cannot be decoded, "pixels" (RGB uint8 [height, width, 3]),
    "grey" (uint8 [height, width], Pillow's convert("L")), "small" (uint8 [32, 32], Pillow's Lanczos reduction of it)
    and "flat" (whether the picture is near-blank or tiny). What a signal puts into `shard` is there in the next batch.
    """

    def __init__(self, table: pa.Table, encoded: list[bytes] | None = None, shard: dict[Any, Any] | None = None):
        self.table, self._encoded, self.shard = table, encoded, {} if shard is None else shard
        self._decoding: list[Future[np.ndarray | None]] | None = None

    @classmethod
    def of(cls, pictures: Sequence[np.ndarray]) -> "Rows":
        """Rows of nothing but pictures that are decoded already, RGB uint8 [height, width, 3] each."""
        rows = cls(pa.table({"uid": [str(number) for number in range(len(pictures))]}))
        rows.pixels = list(pictures)
        return rows

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, name: str) -> Any:
        if name in DECODED:
            return getattr(self, name)
        if name == "image":
            return self.encoded
        return self.table[name].combine_chunks()

    @property
    def encoded(self) -> list[bytes]:
        if self._encoded is None:
            raise RuntimeError("a signal that uses images must say so: reads = ('image',) or ('pixels',)")
        return self._encoded

    @cached_property
    def pixels(self) -> list[np.ndarray | None]:
        if self._decoding is not None:
            return [image.result() for image in self._decoding]
        return [_pixels(encoded) for encoded in self.encoded]

    def decode_in(self, pool: Executor) -> "Rows":
        """Begin to decode the images in threads, before anyone asks for them."""
        self._decoding = [pool.submit(_pixels, encoded) for encoded in self.encoded]
        return self

    @cached_property
    def grey(self) -> list[np.ndarray | None]:
        return [None if pixels is None else images.grey(pixels) for pixels in self.pixels]

    @cached_property
    def small(self) -> list[np.ndarray | None]:
        return [None if grey is None else images.lanczos(grey, images.SMALL, images.SMALL) for grey in self.grey]

    @cached_property
    def flat(self) -> list[bool | None]:
        pairs = zip(self.grey, self.small, strict=True)
        return [None if grey is None or small is None else images.is_flat(grey, small) for grey, small in pairs]


def measure(dataset: Dataset, specs: Sequence[str], engine: str | Engine = "local") -> Dataset:
    """Write signals/<name>/<shard>.parquet (+ .npy for an embedding) for every shard that lacks them.

    Raises CurateError for a signal that cannot be built, or that was measured with other options under this name.
    """
    parsed = tuple(named.parse(spec) for spec in specs)
    if not parsed:
        raise CurateError(f"no signal named; choose from: {', '.join(named.available('signals'))}")
    for spec in parsed:
        _build(spec)
        before = dataset.signals.get(spec.slug)
        if before is not None and before != str(spec):
            raise CurateError(
                f"{dataset.url}/signals/{spec.slug} was measured as {before}, not {spec}; "
                f"give the new one a name of its own: {_aliased(spec)}"
            )
    dataset.folder.sweep()
    task = Measure(parsed)
    outcome = run_all(task, dataset.shards, engine, f"measure {', '.join(spec.slug for spec in parsed)}")
    signals = {**dataset.signals, **{spec.slug: str(spec) for spec in parsed}}
    undecodable = int(outcome.total("undecodable"))
    trouble = f", {undecodable:,} images could not be decoded" if undecodable else ""
    summary = (
        f"measure: {', '.join(map(str, parsed))} on {outcome.rows:,} pairs in {len(outcome.reports):,} shards{trouble}"
    )
    counts = {"rows": outcome.rows, "undecodable": undecodable, "skipped": sum(r.skipped for r in outcome.reports)}
    options = {"signals": [str(spec) for spec in parsed]}
    return dataset.after("measure", options, summary, counts, outcome.failures, signals=signals).save()


@dataclass(frozen=True)
class Measure:
    """Write what each signal measures of one shard, unless the file is there already."""

    specs: tuple[Spec, ...]

    def __call__(self, shard: Shard) -> Report:
        size = shard.folder.size(shard.tar) if shard.folder.exists(shard.tar) else 0
        made_by = {spec.slug: _made_by(spec, size) for spec in self.specs}
        todo = [spec for spec in self.specs if not _done(shard, spec, made_by[spec.slug])]
        table = shard.rows()
        if not todo:
            return Report(str(shard), len(table), skipped=True)
        parts: dict[str, list[dict[str, Any]]] = {spec.slug: [] for spec in todo}
        undecodable = 0
        wanted = {name for spec in todo for name in _build(spec).reads}
        threads = max(getattr(_build(spec), "decode_threads", 0) for spec in todo) if wanted & DECODED else 0
        batches = _batches(shard, table, wanted)
        for rows in _ahead(batches, threads) if threads else batches:
            for spec in todo:
                parts[spec.slug].append(_checked(spec, _build(spec).measure(rows), len(rows)))
            if wanted & DECODED:
                undecodable += sum(pixels is None for pixels in rows.pixels)
        for spec in todo:
            _write(shard, spec, table["uid"], parts[spec.slug], made_by[spec.slug])
        return Report(str(shard), len(table), {"undecodable": undecodable})


def embedding_name(signal: str, shard: Shard) -> str:
    """Where the embeddings of a signal lie: fp16 [rows, dimensions], in the order of its parquet file."""
    return f"signals/{signal}/{shard.name}.npy"


@lru_cache(maxsize=16)
def _build(spec: Spec) -> Any:
    return named.load("signals", spec)


def _made_by(spec: Spec, tar_bytes: int) -> dict[str, Any]:
    extra = getattr(_build(spec), "made_by", {})
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in spec.options}  # as in JSON
    return {"signal": spec.name, "options": options, "tar_bytes": tar_bytes, **extra}


def _done(shard: Shard, spec: Spec, made_by: dict[str, Any]) -> bool:
    name = f"signals/{spec.slug}/{shard.name}.parquet"
    before = shard.folder.made_by(name)
    if before is None or before == made_by:
        return before is not None
    changed = ", ".join(key for key in made_by if before.get(key) != made_by[key])
    raise BadShard(
        f"{shard.folder.url}/{name} was measured with another {changed}; "
        f"delete signals/{spec.slug} or measure under another name: {_aliased(spec)}"
    )


def _aliased(spec: Spec) -> str:
    return f"{str(spec).removesuffix(')')}{', ' if spec.options else '('}as={spec.slug}2)"


def _batches(shard: Shard, table: pa.Table, wanted: set[str]) -> Iterator[Rows]:
    if not wanted & FROM_IMAGE:
        yield Rows(table)
        return
    keys = table["key"].to_pylist()
    remembered: dict[Any, Any] = {}
    with shard.images() as encoded:
        missing = [key for key in keys if key not in encoded]
        if missing:
            raise BadShard(f"{shard}: its tar lacks {len(missing)} images of its parquet, the first is {missing[0]}")
        start = 0
        for files in _chunks((encoded[key] for key in keys), bool(wanted & DECODED)):
            yield Rows(table.slice(start, len(files)), files, remembered)
            start += len(files)


def _ahead(batches: Iterable[Rows], threads: int) -> Iterator[Rows]:
    """The same batches; while one is measured (by a GPU) threads decode the next."""
    with ThreadPoolExecutor(threads) as pool:
        before: Rows | None = None
        for rows in batches:
            rows.decode_in(pool)
            if before is not None:
                yield before
            before = rows
        if before is not None:
            yield before


def _chunks(files: Iterable[bytes], decoded: bool) -> Iterator[list[bytes]]:
    """At most BATCH files at a time, and at most MOST_PIXELS pixels where they will be decoded; at least one list."""
    chunk: list[bytes] = []
    pixels = 0
    for file in files:
        size = images.pixel_count(file) if decoded else 0
        if chunk and (len(chunk) == BATCH or pixels + size > MOST_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(file)
        pixels += size
    yield chunk


def _pixels(encoded: bytes) -> np.ndarray | None:
    try:
        return images.decode(encoded)
    except images.UndecodableImage:
        return None


def _checked(spec: Spec, columns: dict[str, Any], rows: int) -> dict[str, Any]:
    for name, values in columns.items():
        if len(values) != rows:
            raise RuntimeError(f"signal {spec} gave {len(values)} values of '{name}' for {rows} rows")
    return {_column(spec, name): values for name, values in columns.items()}


def _column(spec: Spec, name: str) -> str:
    """Columns carry the alias, so that two measurements of one signal can stand in one query."""
    if not spec.alias:
        return name
    plain = Spec(spec.name).slug
    return spec.alias + name.removeprefix(plain) if name.startswith(plain) else f"{spec.alias}_{name}"


def _write(
    shard: Shard, spec: Spec, uids: pa.ChunkedArray, parts: list[dict[str, Any]], made_by: dict[str, Any]
) -> None:
    columns = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if isinstance(values[0], np.ndarray) and values[0].ndim == 2:
            shard.folder.write_array(embedding_name(spec.slug, shard), np.concatenate(values).astype(np.float16))
        else:
            columns[name] = pa.chunked_array([pa.array(value) for value in values]).combine_chunks()
    table = pa.table({"uid": uids.combine_chunks(), **columns})
    shard.folder.write_table(f"signals/{spec.slug}/{shard.name}.parquet", table, made_by)
