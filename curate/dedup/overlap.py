"""What of the pool a benchmark holds: the benchmark is the index, the pool streams past it, a shard at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from curate import shard as shards
from curate.benchmark import Benchmark, BenchmarkSample
from curate.dataset import Dataset, fingerprint
from curate.dedup.codes import Codes, Comparison, joined, read
from curate.dedup.faiss_install import load_search
from curate.errors import CurateError
from curate.files import Folder
from curate.measure import measure
from curate.shard import Shard
from curate.work import Engine, Report, run_all

WORK = "work/dedup"
PER_SHARD = 500  # benchmark images in one shard of its measured copy
SCHEMA = pa.schema(
    [("benchmark_key", pa.string()), ("uid", pa.string()), ("signal", pa.string()), ("distance", pa.float64())]
)
Matches = tuple[np.ndarray, np.ndarray, np.ndarray]  # pool row, benchmark row, distance


@dataclass(frozen=True)
class Measured:
    """A benchmark whose images were measured. compared: how many of them are neither near-blank nor unreadable."""

    name: str
    digest: str
    folder: Folder
    images: int
    compared: int


def prepare(benchmark: Benchmark, folder: Folder, comparisons: Sequence[Comparison], engine: str | Engine) -> Measured:
    """Measure the images of a benchmark with the same signals as the pool.

    They are copied as a dataset of their own below `folder`, in work/dedup, so that measuring is parallel and goes on
    where it was stopped; the copy can be deleted afterwards. Raises CurateError, BadShard where one is damaged.
    """
    digest = _digest(benchmark.samples())
    copy = Dataset.create(folder.within(f"{WORK}/{benchmark.name}-{digest}").url)
    if not copy.history:
        for number, chunk in enumerate(_chunks(benchmark.samples(), PER_SHARD)):
            _write(copy.folder, f"{number:05d}", chunk, number * PER_SHARD)
        copy = copy.after("copy", {"benchmark": benchmark.name}, f"copied {benchmark.name}").save()
    copy = measure(copy, [comparison.spec for comparison in comparisons], engine)
    if copy.failures:
        reasons = "; ".join(copy.failures.values())
        raise CurateError(f"benchmark {benchmark.name} could not be measured: {reasons}")
    compared = _load(copy.folder.url, tuple(comparisons), "cpu").compared
    return Measured(benchmark.name, digest, copy.folder, sum(len(s.rows()) for s in copy.shards), compared)


def find(dataset: Dataset, pool: Sequence[Shard], measured: Measured, comparisons: Sequence[Comparison],
         engine: str | Engine, device: str) -> pa.Table:  # fmt: skip
    """The rows of every pool shard that lie near an image of the benchmark, with the name of their shard, sorted by
    benchmark_key, uid, signal."""
    task = Against(dataset, measured, tuple(comparisons), device)
    outcome = run_all(task, pool, engine, f"against {measured.name}")
    if outcome.failures:  # these very files were read a moment ago
        raise CurateError("; ".join(outcome.failures.values()))
    parts = []
    for shard in pool:
        found = dataset.folder.read_table(task.output(shard)).replace_schema_metadata()
        parts.append(found.append_column("shard", pa.array([shard.name] * len(found), pa.string())))
    empty = SCHEMA.append(pa.field("shard", pa.string())).empty_table()
    order = [(name, "ascending") for name in ("benchmark_key", "uid", "signal", "shard")]
    return pa.concat_tables([empty, *parts]).sort_by(order)


@dataclass(frozen=True)
class Against:
    """Write the matches of one pool shard with a measured benchmark, unless the file is there already."""

    dataset: Dataset
    measured: Measured
    comparisons: tuple[Comparison, ...]
    device: str

    def __call__(self, shard: Shard) -> Report:
        made_by = self._made_by(shard)
        name = self.output(shard)
        if shard.folder.made_by(name) == made_by:
            return Report(str(shard), shard.folder.read_table(name).num_rows, skipped=True)
        index = _load(self.measured.folder.url, self.comparisons, self.device)
        uids = self.dataset.measured(shard, self.comparisons[0].signal)["uid"].combine_chunks()
        parts = [SCHEMA.empty_table()]
        own = [codes for comparison in self.comparisons for codes in read(self.dataset, shard, comparison)]
        for side, codes in zip(index.sides, own, strict=True):
            rows, images, distance = side.near(codes)
            signal = pa.array([codes.comparison.signal] * len(rows), pa.string())
            keys, own_uids = index.keys.take(pa.array(images)), uids.take(pa.array(rows))
            parts.append(pa.table([keys, own_uids, signal, pa.array(distance, pa.float64())], schema=SCHEMA))
        found = pa.concat_tables(parts).group_by(["benchmark_key", "uid", "signal"]).aggregate([("distance", "min")])
        found = found.rename_columns(["benchmark_key", "uid", "signal", "distance"])
        found = found.sort_by([(name, "ascending") for name in ("benchmark_key", "uid", "signal")])
        shard.folder.write_table(name, found, made_by)
        return Report(str(shard), found.num_rows)

    def output(self, shard: Shard) -> str:
        how = fingerprint([str(comparison) for comparison in self.comparisons])
        return f"{WORK}/{self.measured.name}-{self.measured.digest}-{how}/{shard.name}.parquet"

    def _made_by(self, shard: Shard) -> dict[str, Any]:
        signals = [comparison.signal for comparison in self.comparisons]
        return {
            "benchmark": self.measured.digest,
            "comparisons": [str(comparison) for comparison in self.comparisons],
            "signals": {name: shard.folder.made_by(f"signals/{name}/{shard.name}.parquet") for name in signals},
        }


class _Equal:
    """The codes of a benchmark, found by equal values."""

    def __init__(self, codes: Codes):
        self.where: dict[Any, list[int]] = {}
        for row in np.flatnonzero(codes.comparable & ~codes.flat).tolist():
            self.where.setdefault(codes.values[row].as_py(), []).append(row)

    def near(self, codes: Codes) -> Matches:
        rows = np.flatnonzero(codes.comparable & ~codes.flat)
        values = codes.values.take(pa.array(rows)).to_pylist()
        pairs = [(row, image) for row, value in zip(rows.tolist(), values) for image in self.where.get(value, ())]
        found = np.array(pairs, np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1], np.zeros(len(found))


class _Near:
    """The codes of a benchmark, found within a distance through FAISS."""

    def __init__(self, codes: Codes, device: str):
        search = load_search()
        self.rows = np.flatnonzero(codes.comparable & ~codes.flat)
        values = codes.values[self.rows]
        self.index = (
            search.HammingIndex(values) if codes.comparison.kind == "hamming" else search.CosineIndex(values, device)
        )

    def near(self, codes: Codes) -> Matches:
        rows = np.flatnonzero(codes.comparable & ~codes.flat)
        query, image, distance = self.index.near(codes.values[rows], codes.comparison.threshold)
        return rows[query], self.rows[image], distance


@dataclass(frozen=True)
class _Index:
    keys: pa.Array  # benchmark_key of each image
    sides: list[_Equal | _Near]  # one for each column of codes
    compared: int


@lru_cache(maxsize=4)
def _load(url: str, comparisons: tuple[Comparison, ...], device: str) -> _Index:
    """The measured benchmark, indexed; once for each process."""
    copy = Dataset.open(url)
    columns = [[read(copy, shard, comparison) for shard in copy.shards] for comparison in comparisons]
    codes = [joined(parts) for column in columns for parts in zip(*column, strict=True)]
    keys = pa.concat_arrays([shard.rows()["url"].combine_chunks() for shard in copy.shards])
    usable = np.any([c.comparable & ~c.flat for c in codes], axis=0)
    sides = [_Equal(c) if c.comparison.kind == "equal" else _Near(c, device) for c in codes]
    return _Index(keys, sides, int(usable.sum()))


def _digest(samples: Iterable[BenchmarkSample]) -> str:
    """8 hex digits of the keys and the bytes of every image."""
    state = xxhash.xxh3_64()
    for sample in samples:
        state.update(f"{sample.key}\0{len(sample.image)}\0".encode("utf-8", "surrogatepass"))
        state.update(sample.image)
    return state.hexdigest()[:8]


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
