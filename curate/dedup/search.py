"""Nearest images by FAISS: pairs of near vectors inside a pool, and what of a pool lies near a benchmark.

Candidates come from FAISS with a small margin; their similarity is then summed again in float64 and rounded, so that
neither threads nor batch sizes decide what lies on the threshold.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from curate.errors import CurateError

QUERIES, COLUMNS = 4096, 8192  # vectors searched at a time, and those that they are compared with
MARGIN = 1e-3  # of cosine similarity: more than float32 sums can differ
DIGITS = 5  # similarities are rounded: fp16 vectors carry no more
SEED = 0
TEMPORARY = 1 << 28  # bytes of a GPU for FAISS to work in, in each process: it would take 1.5 GB
Matches = tuple[np.ndarray, np.ndarray, np.ndarray]


def cosine_pairs(vectors: np.ndarray, threshold: float, first: int | None = None) -> Matches:
    """(i, j, distance) of all pairs i < j of float32 unit vectors [n, d] with cosine similarity >= threshold, sorted.

    distance is 1 - similarity. Every vector is compared with every other, or with the `first` of them.
    """
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for top in range(0, len(vectors) if first is None else first, QUERIES):
        block = vectors[top : top + QUERIES][: None if first is None else first - top]
        for left in range(top, len(vectors), COLUMNS):
            i, j = np.nonzero(block @ vectors[left : left + COLUMNS].T >= threshold - MARGIN)
            i, j = i + top, j + left
            parts.append((i[i < j], j[i < j]))
    i, j = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((j, i))
    return _checked(vectors, vectors, i[order], j[order], threshold)


class CosineIndex:
    """Unit vectors float32 [n, d] to search near; on the GPU where device is "auto" or "cuda" and FAISS has one."""

    def __init__(self, vectors: np.ndarray, device: str = "auto"):
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self.index = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(self.vectors)
        self.gpu = _on_gpu(self.index, device)

    def near(self, queries: np.ndarray, threshold: float) -> Matches:
        """(query, vector, distance) of every pair with similarity >= threshold, sorted."""
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for start in range(0, len(queries), QUERIES):
            block = np.ascontiguousarray(queries[start : start + QUERIES], np.float32)
            query, found = self._range(block, threshold - MARGIN)
            parts.append((query + start, found))
        query, found = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((found, query))
        return _checked(queries, self.vectors, query[order], found[order], threshold)

    def nearest(self, queries: np.ndarray, k: int, least: float) -> Matches:
        """(query, vector, distance) of the k vectors nearest to each query that have similarity >= least, sorted."""
        k = min(k, len(self.vectors))
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for start in range(0, len(queries) if k else 0, QUERIES):
            block = np.ascontiguousarray(queries[start : start + QUERIES], np.float32)
            similarity, found = (self.index if self.gpu is None else self.gpu).search(block, k)
            query, at = np.nonzero(similarity >= least - MARGIN)
            parts.append((query + start, found[query, at].astype(np.int64)))
        query, found = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((found, query))
        return _checked(queries, self.vectors, query[order], found[order], least)

    def _range(self, queries: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
        if self.gpu is None:
            return _ranges(*self.index.range_search(queries, least)[::2])
        # FAISS has no range search on the GPU: take the nearest few, and ask the CPU where they are not enough
        k = min(len(self.vectors), 64)
        similarity, found = self.gpu.search(queries, k)
        full = similarity[:, -1] >= least if k < len(self.vectors) else np.zeros(len(queries), bool)
        query, at = np.nonzero((similarity >= least) & ~full[:, None])
        more, many = _ranges(*self.index.range_search(queries[full], least)[::2])
        return (
            np.concatenate([query, np.flatnonzero(full)[more]]),
            np.concatenate([found[query, at].astype(np.int64), many]),
        )


class HammingIndex:
    """Bit codes uint8 [n, bytes] to search near; on the GPU where device is "auto" or "cuda" and FAISS has one."""

    def __init__(self, codes: np.ndarray, device: str = "cpu"):
        self.index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
        self.index.add(np.ascontiguousarray(codes))
        self.gpu = _on_gpu(self.index, device)

    def near(self, queries: np.ndarray, threshold: float) -> Matches:
        """(query, code, distance) of every pair that differs in at most `threshold` bits, sorted."""
        queries = np.ascontiguousarray(queries)
        if self.gpu is None or not len(queries):
            return self._range(queries, np.arange(len(queries)), int(threshold))
        # no range search on the GPU: take the nearest few, and ask the CPU where they are not enough
        k = min(self.index.ntotal, 64)
        gaps, found = self.gpu.search(queries, k)
        full = gaps[:, -1] <= threshold if k < self.index.ntotal else np.zeros(len(queries), bool)
        query, at = np.nonzero((gaps <= threshold) & ~full[:, None])
        more = self._range(queries[full], np.flatnonzero(full), int(threshold))
        few = (query, found[query, at].astype(np.int64), gaps[query, at].astype(np.float64))
        query, found, gaps = (np.concatenate(column) for column in zip(few, more, strict=True))
        order = np.lexsort((found, query))
        return query[order], found[order], gaps[order]

    def _range(self, queries: np.ndarray, numbers: np.ndarray, threshold: int) -> Matches:
        # FAISS's radius is exclusive
        limits, gaps, found = self.index.range_search(queries, threshold + 1)
        query, found = _ranges(limits, found)
        order = np.lexsort((found, query))
        return numbers[query[order]], found[order], gaps[order].astype(np.float64)


def two_nearest(queries: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each query the distances to the two nearest of at least two codes, int32 [n, 2], and which is the nearest,
    int64 [n]; both uint8 [n, bytes]."""
    index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    index.add(np.ascontiguousarray(codes))
    gaps, found = index.search(np.ascontiguousarray(queries), 2)
    return gaps, found[:, 0].astype(np.int64)


def _ranges(limits: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    query = np.repeat(np.arange(len(limits) - 1), np.diff(np.asarray(limits, np.int64)).tolist())
    return query, found.astype(np.int64)


def _checked(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray, threshold: float) -> Matches:
    """The pairs whose similarity, summed in float64 and rounded, reaches the threshold."""
    similarity = np.zeros(len(i))
    for start in range(0, len(i), QUERIES):
        part = slice(start, start + QUERIES)
        similarity[part] = np.einsum("nd,nd->n", a[i[part]].astype(np.float64), b[j[part]].astype(np.float64))
    similarity = np.round(similarity, DIGITS)
    near = similarity >= threshold
    return i[near], j[near], np.round(np.maximum(1 - similarity[near], 0), DIGITS)


def means(vectors: np.ndarray, clusters: int) -> np.ndarray:
    """float32 unit vectors [clusters, d] by spherical k-means on at most 64 vectors for each.

    On one thread: sums in another order would move the means, and with them which pairs are compared.
    """
    with _one_thread():
        found = faiss.Kmeans(vectors.shape[1], clusters, niter=10, seed=SEED, spherical=True,
                             max_points_per_centroid=64, min_points_per_centroid=1)  # fmt: skip
        found.train(np.ascontiguousarray(vectors, np.float32))
    return np.asarray(found.centroids, np.float32).reshape(clusters, -1)


def nearest_means(vectors: np.ndarray, centroids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(similarity float32 [n, k], cluster int64 [n, k]) of the k nearest clusters of each vector."""
    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    with _one_thread():
        return index.search(np.ascontiguousarray(vectors, np.float32), min(k, len(centroids)))


def hardness(vectors: np.ndarray) -> np.ndarray:
    """float64 [n], rounded: the similarity of each unit vector to the mean of its cluster, clusters of about 250."""
    if not len(vectors):
        return np.zeros(0)
    similarity, _ = nearest_means(vectors, means(vectors, max(1, len(vectors) // 250)), 1)
    return np.round(similarity[:, 0].astype(np.float64), DIGITS)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _on_gpu(index: Any, device: str) -> Any:
    """The index on a GPU, or None where there is none to use: "auto" needs none, an empty index is not asked. Raises
    CurateError where the named one has no room."""
    number = gpu_number(device)
    if number is None or not index.ntotal:
        return None
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(TEMPORARY)
    try:
        if isinstance(index, faiss.IndexBinaryFlat):
            config = faiss.GpuIndexBinaryFlatConfig()
            config.device = number
            return faiss.GpuIndexBinaryFlat(resources, index, config)
        return faiss.index_cpu_to_gpu(resources, number, index)
    except RuntimeError as error:  # FAISS has no type of its own for it
        if device == "auto":
            return None
        raise CurateError(f"--device {device} has no room for an index of {index.ntotal:,}: fewer workers, or "
                          f"--device cpu ({str(error).splitlines()[0][:160]})") from error  # fmt: skip


def gpu_number(device: str) -> int | None:
    """Which GPU is used, or None for the CPU: "auto" takes the first where there is one. Raises CurateError where
    FAISS does not see the one that is named."""
    there = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if device == "cpu" or (device == "auto" and not there):
        return None
    number = int(device.partition(":")[2] or 0)
    if number >= there:
        raise CurateError(f"--device {device}: FAISS sees {there} GPUs here (faiss-gpu in place of faiss-cpu may see "
                          "more); use --device auto")  # fmt: skip
    return number
