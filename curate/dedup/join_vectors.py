"""Near pairs of more vectors than are compared with each other: k-means, two clusters for each vector, a task for each
shard to place them and one for each group of clusters to compare them.

With one cluster each, as in SemDeDup, 3 to 11 % of the pairs are lost; with two, none of a million vectors of 512
dimensions. The driver holds the means and the vectors of the sample that they are fitted on.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa

from curate.dataset import Dataset, fingerprint
from curate.dedup.ascending import find
from curate.dedup.equal import Listed, listed
from curate.dedup.faiss_install import load_search
from curate.dedup.firsts import sampled
from curate.dedup.hamming import Capped, Pairs
from curate.dedup.join_bits import read_pairs, write_pairs
from curate.dedup.pool import Column, Pool, vectors_of
from curate.dedup.ranking import SORTED_BY, Part, Ranking, keys_of
from curate.dedup.whiten import Whitening, read
from curate.files import Folder
from curate.work import Engine, Report, run_all

EXACT = 50_000  # vectors that are all compared with each other, by the driver
CLUSTERS_OF = 2  # nearest clusters that each vector joins
MOST_CLUSTERS = 16_384
TRAINED_ON = 64  # vectors for each cluster
GROUP = 50_000  # vectors that a task compares, cluster by cluster
LARGEST = 50_000  # vectors of a cluster that are compared with each other; more are compared with the first of them
FIRST = 2_000
MEANS = "means.npy"


@dataclass(frozen=True)
class Place:
    """Write the vectors of a shard in the order of their clusters, unless they are there already: of those rows that
    have one and are not left out."""

    dataset: Dataset
    source: str  # folder of what was read of each shard
    folder: Folder
    ranking: Ranking
    column: Column
    out: Listed
    whitening: str | None

    def __call__(self, part: Part) -> Report:
        name = part.shard.name
        if self.folder.exists(f"placed/{name}.parquet"):
            return Report(str(part), skipped=True)
        places, numbers = self._members(part)
        whitening = _whitening(self.dataset.folder, self.whitening) if self.whitening else None
        vectors = vectors_of(self.dataset, part.shard, self.column.comparison, places, whitening)
        clusters = load_search().nearest_means(vectors, np.asarray(self.folder.read_array(MEANS)), CLUSTERS_OF)[1]
        numbers = np.repeat(numbers, clusters.shape[1])
        order = np.lexsort((numbers, clusters.ravel()))
        held = vectors[order // clusters.shape[1]]
        self.folder.write_array(f"placed/{name}.npy", held.astype(np.float16) if whitening else held)
        columns = {"cluster": clusters.ravel()[order].astype(np.int32), "number": numbers[order]}
        self.folder.write_table(f"placed/{name}.parquet", pa.table(columns))
        return Report(str(part), len(vectors))

    def _members(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Which rows of the shard are compared, and their rows in the pool."""
        held = self.dataset.folder.read_table(f"{self.source}/{part.shard.name}.parquet",
                                              [*SORTED_BY, "place", self.column.usable])  # fmt: skip
        held = held.filter(held[self.column.usable])
        rows = self.ranking.find(keys_of(held, part.first, self.ranking.like["keys"].shape[0]))
        own = ~find(self.out.rows(), rows)[1]
        return held["place"].to_numpy()[own], rows[own]


@dataclass(frozen=True)
class Group:
    """Clusters from `start` up to `stop`."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.start:06d}-{self.stop:06d}"


@dataclass(frozen=True)
class JoinVectors:
    """Write the near pairs of a few clusters, unless they are there already."""

    folder: Folder
    shards: tuple[str, ...]
    threshold: float

    def __call__(self, group: Group) -> Report:
        if self.folder.exists(f"pairs/{group}.parquet"):
            return Report(str(group), skipped=True)
        clusters, numbers, vectors = self._read(group)
        search, capped = load_search(), []
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        for cluster in np.unique(clusters).tolist():
            own = np.flatnonzero(clusters == cluster)
            own = own[np.argsort(numbers[own])]
            crowded = len(own) > LARGEST
            i, j, distance = search.cosine_pairs(vectors[own], self.threshold, FIRST if crowded else None)
            parts.append((numbers[own[i]], numbers[own[j]], distance))
            capped += [(int(numbers[own[0]]), len(own))] * crowded
        i, j, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((j, i))
        write_pairs(self.folder, str(group), (i[order], j[order], distance[order]), capped)
        return Report(str(group), len(vectors))

    def _read(self, group: Group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cluster int32, number int64 and float32 vector of every member."""
        found = []
        for name in self.shards:
            table = self.folder.read_table(f"placed/{name}.parquet")
            clusters, numbers = table["cluster"].to_numpy(), table["number"].to_numpy()
            start, stop = np.searchsorted(clusters, [group.start, group.stop])
            if start < stop:
                vectors = self.folder.read_array(f"placed/{name}.npy")[start:stop].astype(np.float32)
                found.append((clusters[start:stop], numbers[start:stop], vectors))
        clusters, numbers, vectors = (np.concatenate(column) for column in zip(*found, strict=True))
        return clusters, numbers, vectors


def vector_pairs(pool: Pool, folder: Folder, column: Column, out: np.ndarray, count: int, whitening: Whitening | None,
                 engine: str | Engine, capped: Capped) -> Pairs:  # fmt: skip
    """cosine_pairs of the vectors of the `count` usable rows that are not among the ascending `out`, by tasks; their
    files stand below `folder`. Raises CurateError."""
    comparison, rows = column.comparison, listed(folder, out)
    clusters = min(MOST_CLUSTERS, max(1, int(4 * np.sqrt(count))))
    said = fingerprint(whitening.name if whitening else None)
    own = folder.within(f"{pool.ranking.name}-{rows.digest}-{said}-{comparison.threshold:g}-{clusters}")
    if not own.exists(MEANS):
        drawn = sampled(pool, column, out, clusters * TRAINED_ON, folder, engine)
        own.write_array(MEANS, load_search().means(pool.vectors(comparison, drawn, whitening), clusters))
    name = whitening.name if whitening else None
    place = Place(pool.dataset, pool.source, own, pool.ranking, column, rows, name)
    run_all(place, pool.parts(), engine, "place vectors").whole("run it again")
    names = tuple(shard.name for shard in pool.shards)
    groups = _groups(own, names, clusters)
    run_all(JoinVectors(own, names, comparison.threshold), groups, engine, "join vectors").whole("run it again")
    return read_pairs(own, [str(group) for group in groups], capped)


def _groups(folder: Folder, shards: tuple[str, ...], clusters: int) -> list[Group]:
    """Neighbouring clusters, of which no group but that of one large cluster has more than GROUP vectors."""
    sizes = np.zeros(clusters, np.int64)
    for name in shards:
        held = folder.read_table(f"placed/{name}.parquet", ["cluster"])["cluster"].to_numpy()
        sizes += np.bincount(held, minlength=clusters)
    bounds, held = [0], 0
    for cluster, size in enumerate(sizes.tolist()):
        if held and held + size > GROUP:
            bounds.append(cluster)
            held = 0
        held += size
    bounds.append(clusters)
    return [Group(start, stop) for start, stop in pairwise(bounds) if sizes[start:stop].any()]


@lru_cache(maxsize=2)
def _whitening(folder: Folder, name: str) -> Whitening:
    return read(folder, name)
