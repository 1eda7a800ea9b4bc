"""A benchmark as the pool is compared with it: copied once, measured, its blank and its doubled images named."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate import named
from curate import shard as shards
from curate.benchmark import Benchmark, BenchmarkSample
from curate.dataset import Dataset
from curate.dedup.codes import Comparison, classes, joined, read
from curate.dedup.groups import Alike, stars
from curate.dedup.hamming import hamming_pairs
from curate.dedup.view_codes import MeasureViews
from curate.errors import CurateError
from curate.files import Folder
from curate.measure import measure
from curate.signals.pdq import QUALITY
from curate.words import counted
from curate.work import Engine, run_all

WORK = "work/dedup"
SHARDS, FEWEST, MOST = 16, 32, 500  # of the measured copy: how many at least, with so many benchmark images in each
ALWAYS = ("exact", "pdq", "size")  # what every benchmark image is measured by, whatever the pool is compared by
SMALL_SIDE = 64  # pixels: a set whose shorter sides have a smaller median is of thumbnails
ALIKE = {"exact": 0.0, "pdq": 31.0}  # what tells that a benchmark holds an image twice
UNREADABLE, BLANK, LOW_QUALITY = REASONS = ("unreadable", "blank", "low_quality")
EXCLUDED = pa.schema([("benchmark_key", pa.string()), ("reason", pa.string())])
INSIDE = pa.schema(
    [("benchmark_key", pa.string()), ("first", pa.string()), ("signal", pa.string()), ("distance", pa.float64())]
)


@dataclass(frozen=True)
class Measured:
    """A benchmark whose images were measured. keys: of its images, in the order of the rows of its copy.

    reasons: for each image null, or "unreadable" or "blank" (it is compared with nothing), or "low_quality" (there is
    too little to see for a hash). thumbnails: most images have fewer than SMALL_SIDE pixels on their shorter side.
    """

    name: str
    digest: str
    folder: Folder
    keys: pa.Array
    reasons: pa.Array
    thumbnails: bool

    def __len__(self) -> int:
        return len(self.keys)

    def excluded(self) -> pa.Table:
        """benchmark_key and reason of the images that were left out, by key."""
        table = pa.table([self.keys, self.reasons], schema=EXCLUDED)
        return table.filter(pc.is_valid(table["reason"])).sort_by("benchmark_key")

    def counts(self) -> dict[str, int]:
        found = self.reasons.to_pylist()
        return {reason: found.count(reason) for reason in REASONS}


def prepare(benchmark: Benchmark, folder: Folder, comparisons: Sequence[Comparison],
            engine: str | Engine) -> Measured:  # fmt: skip
    """Measure the images of a benchmark with the same signals as the pool, in many views.

    They are copied as a dataset of their own below `folder`, in work/dedup, so that measuring is parallel and goes on
    where it was stopped; the copy can be deleted afterwards. Raises CurateError where it cannot be measured, BadShard
    where a tar of it is damaged.
    """
    digest, images = _digest(benchmark.samples())
    copy = Dataset.create(folder.within(f"{WORK}/{benchmark.name}-{digest}").url)
    if not copy.history:
        size = min(max(images // SHARDS, FEWEST), MOST)
        for number, chunk in enumerate(_chunks(benchmark.samples(), size)):
            _write(copy.folder, f"{number:05d}", chunk, number * size)
        copy = copy.after("copy", {"benchmark": benchmark.name}, f"copied {benchmark.name}").save()
    wanted = {named.parse(spec).slug: spec for spec in [*ALWAYS, *(each.text for each in comparisons)]}
    copy = measure(copy, list(wanted.values()), engine)
    if copy.failures:
        raise CurateError(f"benchmark {benchmark.name} could not be measured: {'; '.join(copy.failures.values())}")
    tables = [copy.joined(shard, list(ALWAYS)) for shard in copy.shards]
    table = pa.concat_tables(tables, promote_options="permissive")
    sides = table["size_min"].drop_null().to_numpy()
    thumbnails = bool(len(sides)) and float(np.median(sides)) < SMALL_SIDE
    task = MeasureViews(tuple(each for each in comparisons if each.kind != "equal"), thumbnails)
    run_all(task, copy.shards, engine, f"views of {benchmark.name}").whole("run dedup again")
    keys = table["url"].combine_chunks()
    measured = Measured(benchmark.name, digest, copy.folder, keys, _reasons(table), thumbnails)
    if measured.counts()[UNREADABLE] == len(keys):
        raise CurateError(f"benchmark {benchmark.name}: of {counted(len(keys), 'image')} none can be decoded, first "
                          f"{keys[0]}")  # fmt: skip
    return measured


def twins(measured: Measured) -> pa.Table:
    """The images that a benchmark holds more than once: benchmark_key, the first image like it, signal, distance."""
    copy = Dataset.open(measured.folder.url)
    alike = []
    for signal, threshold in ALIKE.items():
        kind = "equal" if signal == "exact" else "hamming"
        comparison = Comparison(signal, signal, kind, threshold)
        for parts in zip(*(read(copy, shard, comparison) for shard in copy.shards), strict=True):
            codes = joined(parts)
            ids, first = classes(codes.without(codes.flat))
            none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
            pairs = none if kind == "equal" else hamming_pairs(codes.values[first], int(threshold))
            alike.append(Alike(signal, ids, *pairs))
    order = pc.sort_indices(measured.keys).to_numpy().astype(np.int64)
    star = stars(order, alike)
    rows = np.flatnonzero(star.keeper >= 0)
    names = pa.array([alike[at].signal for at in star.matched_by[rows]], pa.string())
    columns = [measured.keys.take(pa.array(rows)), measured.keys.take(pa.array(star.keeper[rows])), names,
               pa.array(star.distance[rows])]  # fmt: skip
    return pa.table(columns, schema=INSIDE).sort_by("benchmark_key")


def _reasons(table: pa.Table) -> pa.Array:
    unreadable = pc.is_null(table["exact_pixels"])
    blank = pc.fill_null(table["exact_flat"], False)
    low = pc.less(table["pdq_quality"], QUALITY)
    found = pc.case_when(pc.make_struct(unreadable, blank, pc.fill_null(low, False)), *REASONS)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _digest(samples: Iterable[BenchmarkSample]) -> tuple[str, int]:
    """8 hex digits of the keys and the bytes of every image, and how many there are."""
    state, images = xxhash.xxh3_64(), 0
    for sample in samples:
        state.update(f"{sample.key}\0{len(sample.image)}\0".encode("utf-8", "surrogatepass"))
        state.update(sample.image)
        images += 1
    return state.hexdigest()[:8], images


def _chunks(samples: Iterable[BenchmarkSample], size: int) -> Iterator[list[BenchmarkSample]]:
    chunk: list[BenchmarkSample] = []
    for sample in samples:
        chunk.append(sample)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write(folder: Folder, name: str, chunk: list[BenchmarkSample], first: int) -> None:
    """A shard of the copy; its url column holds the benchmark's own key."""
    keys = [f"{first + at:09d}" for at in range(len(chunk))]
    # .jpg whatever the format: images are told by their bytes
    archive = shards.tar_bytes((f"{key}.jpg", sample.image) for key, sample in zip(keys, chunk, strict=True))
    urls = [sample.key.encode("utf-8", "replace").decode() for sample in chunk]
    table = pa.table({"uid": [shards.uid_of(url, key) for url, key in zip(urls, keys)], "key": keys, "url": urls,
                      "caption": [""] * len(keys)})  # fmt: skip
    shards.write(folder, name, archive, table, {"count": len(keys), "successes": len(keys)})
