"""Near pairs of more vectors than are compared with each other: k-means, two clusters for each vector, a task for each
run of shards to place them and one for each group of clusters to compare them.

With one cluster each, as in SemDeDup, 3 to 11 % of the pairs are lost; with two, none of a million vectors of 512
dimensions. The driver holds the means and the vectors of the sample that they are fitted on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from curate import ranges
from curate.dataset import Dataset, fingerprint
from curate.dedup.by_number import ByNumber
from curate.dedup.codes import Comparison
from curate.dedup.equal import LeftOut
from curate.dedup.faiss_install import load_search
from curate.dedup.firsts import Firsts, sampled
from curate.dedup.hamming import Capped, Pairs, in_order
from curate.dedup.pairs import Near, pairs_of, write_pairs, written_pairs
from curate.dedup.pool import Column, Pool, vectors_of
from curate.dedup.ranking import Group, Part, neighbours
from curate.dedup.whiten import Whitening, read
from curate.files import Folder
from curate.work import Engine, Report, run_all

EXACT = 50_000  # vectors that are all compared with each other, by the driver
CLUSTERS_OF = 2  # nearest clusters that each vector joins
MOST_CLUSTERS = 16_384
TRAINED_ON = 64  # vectors for each cluster
GROUP = 50_000  # vectors that a task places, or compares cluster by cluster; of a cluster that has more ...
FIRST = 2_000  # ... with the first of them
MEANS = "means.npy"


@dataclass(frozen=True)
class Place:
    """Write the vectors of a run of shards that are compared in the order of their clusters, and where each cluster
    begins, unless they are there already."""

    dataset: Dataset
    source: str  # folder of what was read of each shard
    folder: Folder
    comparison: Comparison
    compared: ByNumber  # PLACES of the rows that are compared
    whitening: str | None

    def __call__(self, run: Group) -> Report:
        if self.folder.exists(bounds_of(run.number)):
            return Report(str(run), skipped=True)
        numbers, vectors = self._members(run)
        means = np.asarray(self.folder.read_array(MEANS))
        clusters = load_search().nearest_means(vectors, means, CLUSTERS_OF)[1]
        numbers = np.repeat(numbers, clusters.shape[1])
        order = np.lexsort((numbers, clusters.ravel()))
        kept = np.float16 if self.whitening else np.float32
        held = np.empty(len(order), [("number", np.int64), ("vector", kept, vectors.shape[1:])])
        held["number"], held["vector"] = numbers[order], vectors[order // clusters.shape[1]]
        self.folder.write_array(placed_of(run.number), held)
        bounds = np.cumsum(np.bincount(clusters.ravel() + 1, minlength=len(means) + 1))
        self.folder.write_array(bounds_of(run.number), bounds)
        return Report(str(run), len(vectors))

    def _members(self, run: Group) -> tuple[np.ndarray, np.ndarray]:
        """The rows in the pool of those of a run that are compared, and their vectors."""
        own = [self._own(part) for part in run.parts]
        last = run.parts[-1]
        held = self.compared.between(run.parts[0].first, last.first + len(own[-1])).sort_by("place")
        at, found = held["place"].to_numpy().astype(np.int64), []
        whitening = _whitening(self.dataset.folder, self.whitening) if self.whitening else None
        for part, rows in zip(run.parts, own, strict=True):
            start, stop = np.searchsorted(at, [part.first, part.first + len(rows)])
            rows = rows[at[start:stop] - part.first]
            found.append(vectors_of(self.dataset, part.shard, self.comparison, rows, whitening))
        return held["row"].to_numpy().astype(np.int64), np.concatenate(found)

    def _own(self, part: Part) -> np.ndarray:
        """int64: of each row of a shard that is in the pool which of `shard.rows()` it is."""
        held = self.dataset.folder.read_table(f"{self.source}/{part.shard.name}.parquet", ["place"])
        return held["place"].to_numpy()


@dataclass(frozen=True)
class Clusters:
    """Those from `start` up to `stop`; members: how many vectors they have, of more than GROUP all in one cluster."""

    start: int
    stop: int
    members: int

    def __str__(self) -> str:
        return f"{self.start:06d}-{self.stop:06d}"


@dataclass(frozen=True)
class JoinVectors:
    """Write the near pairs of a few clusters, unless they are there already."""

    folder: Folder
    runs: int
    threshold: float

    def __call__(self, few: Clusters) -> Report:
        if (done := ranges.count(self.folder, pairs_of(str(few)))) is not None:
            return Report(str(few), done, skipped=True)
        capped: Capped = []
        pairs = in_order(list(self._with_first(few, capped) if few.members > GROUP else self._every(few)))
        write_pairs(self.folder, str(few), pairs, capped)
        return Report(str(few), 2 * len(pairs[0]))

    def _every(self, few: Clusters) -> Iterator[Pairs]:
        """The pairs of each cluster."""
        clusters, held = (np.concatenate(part) for part in zip(*self._held(few), strict=True))
        order = np.lexsort((held["number"], clusters))
        clusters, held = clusters[order], held[order]
        for start, stop in pairwise(np.searchsorted(clusters, np.arange(few.start, few.stop + 1)).tolist()):
            yield self._near(held[start:stop])

    def _with_first(self, few: Clusters, capped: Capped) -> Iterator[Pairs]:
        """The pairs of the FIRST vectors of one cluster with all of its vectors, a block at a time."""
        blocks = self._blocks(few)
        first = next(blocks)
        for block in blocks:
            first = np.concatenate([first[np.argsort(first["number"])[:FIRST]], block])
        first = first[np.argsort(first["number"])[:FIRST]]
        capped.append((int(first["number"][0]), few.members))
        yield self._near(first)
        for block in self._blocks(few):
            later = block[block["number"] > first["number"][-1]]
            i, j, distance = self._near(np.concatenate([first, later]), len(first))
            new = j > first["number"][-1]
            yield i[new], j[new], distance[new]

    def _near(self, held: np.ndarray, first: int | None = None) -> Pairs:
        vectors, numbers = held["vector"].astype(np.float32), held["number"]
        i, j, distance = load_search().cosine_pairs(vectors, self.threshold, first)
        return numbers[i], numbers[j], distance

    def _blocks(self, few: Clusters) -> Iterator[np.ndarray]:
        """The members of a cluster, about GROUP at a time."""
        blocks: list[np.ndarray] = []
        for _, held in self._held(few):
            blocks.append(held)
            if sum(map(len, blocks)) >= GROUP:
                yield np.concatenate(blocks)
                blocks = []
        if blocks:
            yield np.concatenate(blocks)

    def _held(self, few: Clusters) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cluster, int64, and record of each member, as Place wrote them."""
        for run in range(self.runs):
            bounds = self.folder.read_rows(bounds_of(run), few.start, few.stop + 1)
            clusters = np.repeat(np.arange(few.start, few.stop), np.diff(bounds))
            yield clusters, self.folder.read_rows(placed_of(run), int(bounds[0]), int(bounds[-1]))


def vector_pairs(pool: Pool, folder: Folder, column: Column, out: LeftOut, first: Firsts, whitening: Whitening | None,
                 engine: str | Engine, capped: Capped) -> Near:  # fmt: skip
    """cosine_pairs of the vectors of the usable rows that are not left out, which are `first`, by tasks; their files
    stand below `folder`. Raises CurateError."""
    comparison = column.comparison
    clusters = min(MOST_CLUSTERS, max(1, int(4 * np.sqrt(len(first)))))
    name = whitening.name if whitening else None
    own = folder.within(f"{first.name}-{fingerprint(name)}-{comparison.threshold:g}-{clusters}-{GROUP}")
    if not own.exists(MEANS):
        drawn = sampled(pool, column, out, clusters * TRAINED_ON, folder, engine)
        own.write_array(MEANS, load_search().means(pool.vectors(comparison, drawn, whitening), clusters))
    place = Place(pool.dataset, pool.source, own, comparison, first.by_place(engine), name)
    runs = neighbours(pool.parts(), np.diff(pool.bounds).tolist(), GROUP)
    run_all(place, runs, engine, "place vectors").whole("run it again")
    groups = _groups(own, len(runs), clusters)
    join = JoinVectors(own, len(runs), comparison.threshold)
    done = run_all(join, groups, engine, "join vectors").whole("run it again")
    return written_pairs(own, [str(few) for few in groups], done.rows, first.of, capped, engine)


def _groups(folder: Folder, runs: int, clusters: int) -> list[Clusters]:
    """Neighbouring clusters that have at most GROUP vectors together, and larger ones alone."""
    sizes = np.zeros(clusters, np.int64)
    for run in range(runs):
        sizes += np.diff(folder.read_rows(bounds_of(run)))
    found, start, held = [], 0, 0
    for cluster, size in enumerate([*sizes.tolist(), GROUP]):
        if held and held + size > GROUP:
            found.append(Clusters(start, cluster, held))
            start, held = cluster, 0
        held += size
    return found


def placed_of(run: int) -> str:
    return f"placed/{run:05d}.npy"


def bounds_of(run: int) -> str:
    """int64 [clusters + 1]: where each begins in the file of `placed_of`."""
    return f"placed/{run:05d}-bounds.npy"


@lru_cache(maxsize=2)
def _whitening(folder: Folder, name: str) -> Whitening:
    return read(folder, name)
