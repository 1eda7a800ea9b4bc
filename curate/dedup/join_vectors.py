"""Near pairs of more vectors than are compared with each other: k-means, two clusters for each vector, a task for each
shard to place them and one for each group of clusters to compare them.

With one cluster each, as in SemDeDup, 3 to 11 % of the pairs are lost; with two, none of a million vectors of 512
dimensions. The driver holds the means and which rows are compared, never the vectors.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
import xxhash

from curate.dataset import Dataset
from curate.dedup.codes import Comparison
from curate.dedup.faiss_install import load_search
from curate.dedup.hamming import Capped, Pairs
from curate.dedup.join_bits import read_pairs, write_pairs
from curate.dedup.order import places
from curate.dedup.pool import Pool, vectors_of
from curate.dedup.spill import blocks
from curate.dedup.whiten import Whitening, read
from curate.dedup.whitened import sampled
from curate.files import Folder
from curate.shard import Shard
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
    """Write the vectors of a shard in the order of their clusters, unless they are there already."""

    dataset: Dataset
    folder: Folder
    comparison: Comparison
    whitening: str | None

    def __call__(self, shard: Shard) -> Report:
        if self.folder.exists(f"placed/{shard.name}.parquet"):
            return Report(str(shard), skipped=True)
        members = self.folder.read_table(f"members/{shard.name}.parquet")
        whitening = _whitening(self.dataset.folder, self.whitening) if self.whitening else None
        vectors = vectors_of(self.dataset, shard, self.comparison, members["row"].to_numpy(), whitening)
        clusters = load_search().nearest_means(vectors, np.asarray(self.folder.read_array(MEANS)), CLUSTERS_OF)[1]
        numbers = np.repeat(members["number"].to_numpy(), clusters.shape[1])
        order = np.lexsort((numbers, clusters.ravel()))
        held = vectors[order // clusters.shape[1]]
        self.folder.write_array(f"placed/{shard.name}.npy", held.astype(np.float16) if whitening else held)
        columns = {"cluster": clusters.ravel()[order].astype(np.int32), "number": numbers[order]}
        self.folder.write_table(f"placed/{shard.name}.parquet", pa.table(columns))
        return Report(str(shard), len(vectors))


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


def vector_pairs(pool: Pool, folder: Folder, comparison: Comparison, rows: np.ndarray, whitening: Whitening | None,
                 engine: str | Engine, capped: Capped) -> Pairs:  # fmt: skip
    """cosine_pairs of the vectors of some rows by tasks; their files stand below `folder`. Raises CurateError."""
    codes = next(codes for codes in pool.codes if codes.comparison.signal == comparison.signal)
    said = xxhash.xxh3_64(repr([pool.bounds.tolist(), whitening.name if whitening else ""]).encode())
    for part in blocks(len(rows)):
        said.update(codes.values[rows[part]].tobytes() + rows[part].tobytes())
    digest = said.hexdigest()[:12]
    clusters = min(MOST_CLUSTERS, max(1, int(4 * np.sqrt(len(rows)))))
    own = folder.within(f"{digest}-{comparison.threshold:g}-{clusters}")
    if not own.exists(MEANS):
        sample = pool.vectors(comparison, sampled(pool, rows, clusters * TRAINED_ON), whitening)
        own.write_array(MEANS, load_search().means(sample, clusters))
    shards = _write_members(pool, own, rows)
    place = Place(pool.dataset, own, comparison, whitening.name if whitening else None)
    run_all(place, shards, engine, "place vectors").whole("run it again")
    names = tuple(shard.name for shard in shards)
    groups = _groups(own, names, clusters)
    run_all(JoinVectors(own, names, comparison.threshold), groups, engine, "join vectors").whole("run it again")
    return read_pairs(own, [str(group) for group in groups], capped)


def _write_members(pool: Pool, folder: Folder, rows: np.ndarray) -> list[Shard]:
    """For each shard that holds some of the rows: which of its rows they are, and their numbers."""
    numbers, shards = places(rows, len(pool)), []
    for at, shard in enumerate(pool.shards):
        start, stop = pool.bounds[at : at + 2].tolist()
        own = np.flatnonzero(numbers[start:stop] >= 0)
        if len(own):
            shards.append(shard)
            columns = {"row": pool.place[start + own], "number": numbers[start + own]}
            if not folder.exists(f"members/{shard.name}.parquet"):
                folder.write_table(f"members/{shard.name}.parquet", pa.table(columns))
    return shards


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
