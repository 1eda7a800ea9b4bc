"""The pool as a benchmark of itself: crops, mirror images, tilts, frames and screenshots of what stays are found as
`overlap` finds those of a benchmark, in the same views and by the same local features.

Memory and time grow with the pool's views, about 75 codes an image: for pools of up to some 100,000 images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.benchmark import TEMPLATES, Benchmark, BenchmarkSample
from curate.dataset import Dataset
from curate.dedup import overlap
from curate.dedup.codes import Comparison
from curate.dedup.groups import Alike
from curate.dedup.likeness import told_apart
from curate.dedup.measured import prepare
from curate.dedup.pool import Pool
from curate.errors import BadShard
from curate.files import Folder
from curate.measure import measure
from curate.work import Engine

NAME = "pool"
CONFIRMED = "orb"  # the signal of pairs that local features tell


@dataclass(frozen=True)
class Views:
    """How the pool is compared with itself. folder: for a copy of the images that are compared, and what is measured of
    it; compared, candidates, device: as for `overlap.find`."""

    folder: Folder
    compared: Sequence[Comparison]
    candidates: int
    engine: str | Engine
    device: str

    def alike(self, pool: Pool, rows: np.ndarray) -> tuple[np.ndarray, list[Alike]]:
        """(int64: those of `rows`, ascending, that match another of them; what each signal says of these). Raises
        BadShard, CurateError."""
        compared, engine = self.compared, self.engine
        places = pool.places(rows)
        by_place = np.argsort(places)
        rows, places = rows[by_place], places[by_place]
        benchmark = Benchmark(NAME, None, TEMPLATES, lambda: _images(pool, places))
        held = prepare(benchmark, self.folder, compared, engine)
        copy = measure(Dataset.open(held.folder.url), overlap.measured_by(compared), engine)
        found = overlap.find(copy, copy.shards, held, compared, len(rows), self.candidates, engine, self.device,
                             everywhere=True)  # fmt: skip
        a = found.matches["benchmark_key"].cast(pa.int64()).to_numpy()
        a, b = (rows[np.searchsorted(places, at)] for at in (a, _places_of(copy, found.matches)))
        other = (a != b) & ~told_apart(pool.ranking, pool.moving, pool.colours, a, b)
        a, b, signals = a[other], b[other], found.matches["signal"].to_numpy()[other]
        distance = found.matches["distance"].to_numpy()[other]
        near = np.unique(np.concatenate([a, b]))
        names = [*(each.signal for each in compared), CONFIRMED]
        return near, [_alike(name, near, a[own], b[own], distance[own]) for name in names for own in [signals == name]]


def _images(pool: Pool, places: np.ndarray) -> Iterator[BenchmarkSample]:
    """The images at some places among the rows of all shards, ascending; their key is the place."""
    for at, own, held in pool.in_shards(places):
        shard = pool.shards[at]
        keys = shard.rows(["key"])["key"].take(pa.array(held)).to_pylist()
        with shard.images() as images:
            for place, key in zip(places[own].tolist(), keys, strict=True):
                if key not in images:
                    raise BadShard(f"{shard}: its tar lacks the image of key {key}")
                yield BenchmarkSample(str(place), images[key])


def _places_of(copy: Dataset, matches: pa.Table) -> np.ndarray:
    """int64: the place that each match (shard, uid) of the copy stands for."""
    tables = {shard.name: shard.rows(["uid", "url"]) for shard in copy.shards}
    row = {(name, uid): int(url) for name, table in tables.items()
           for uid, url in zip(table["uid"].to_pylist(), table["url"].to_pylist(), strict=True)}  # fmt: skip
    places = zip(matches["shard"].to_pylist(), matches["uid"].to_pylist(), strict=True)
    return np.array([row[place] for place in places], np.int64)


def _alike(signal: str, near: np.ndarray, a: np.ndarray, b: np.ndarray, distance: np.ndarray) -> Alike:
    """Each pair once, with its smallest distance, or the most features that agree."""
    first, second = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((-distance if signal == CONFIRMED else distance, second, first))
    first, second, distance = first[order], second[order], distance[order]
    new = np.ones(len(order), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    i, j = (np.searchsorted(near, rows[new]) for rows in (first, second))
    return Alike(signal, np.arange(len(near)), i, j, distance[new])
