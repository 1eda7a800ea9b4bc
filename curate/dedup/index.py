"""A measured benchmark as an index: every image in its views, found by equal values, near bits or near vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from curate.dataset import Dataset
from curate.dedup.codes import Codes, Comparison, joined, read
from curate.dedup.faiss_install import load_search
from curate.dedup.view_codes import output
from curate.dedup.views import WHOLE
from curate.errors import BadShard

QUERIES = 1024  # pool rows looked up at a time: what they are near to is held at once
NEAREST = 8  # vectors that each pool row is compared with beyond the threshold


class Near(NamedTuple):
    """Parallel arrays: pool row, benchmark row, distance, view (index into the names of the views)."""

    row: np.ndarray
    image: np.ndarray
    distance: np.ndarray
    view: np.ndarray


@dataclass(frozen=True)
class Index:
    """sides: one for each column of codes. views: the names that `Near.view` counts. compared: images that can match.
    count: images."""

    sides: list["Side"]
    views: list[str]
    compared: int
    count: int


class Equal:
    """Images by equal values, as they are."""

    def __init__(self, codes: Codes):
        self.where: dict[Any, list[int]] = {}
        for row in np.flatnonzero(codes.comparable & ~codes.flat).tolist():
            self.where.setdefault(codes.values[row].as_py(), []).append(row)

    def near(self, codes: Codes, reach: float | None) -> Near:
        rows = np.flatnonzero(codes.comparable & ~codes.flat)
        values = codes.values.take(pa.array(rows)).to_pylist()
        pairs = [(row, image) for row, value in zip(rows.tolist(), values) for image in self.where.get(value, ())]
        found = np.array(pairs, np.int64).reshape(-1, 2)
        return Near(found[:, 0], found[:, 1], np.zeros(len(found)), np.zeros(len(found), np.int64))


class Bits:
    """Images by the bits of their views: all within `reach` bits, or within the threshold where that is None."""

    def __init__(self, codes: np.ndarray, image: np.ndarray, view: np.ndarray, device: str):
        self.image, self.view = image, view
        self.index = load_search().HammingIndex(codes, device)

    def near(self, codes: Codes, reach: float | None) -> Near:
        rows = np.flatnonzero(codes.comparable & ~codes.flat)
        limit = codes.comparison.threshold if reach is None else reach
        parts = [_nothing()]
        for start in range(0, len(rows), QUERIES):
            own = rows[start : start + QUERIES]
            query, code, distance = self.index.near(codes.values[own], limit)
            parts.append(_nearest_view(Near(own[query], self.image[code], distance, self.view[code])))
        return _together(parts)


class Vectors:
    """Images by the vectors of their views: all within the threshold, and the NEAREST to each row that have at least
    the similarity `reach`."""

    def __init__(self, vectors: np.ndarray, image: np.ndarray, view: np.ndarray, device: str):
        self.image, self.view = image, view
        self.index = load_search().CosineIndex(vectors, device)

    def near(self, codes: Codes, reach: float | None) -> Near:
        rows = np.flatnonzero(codes.comparable & ~codes.flat)
        found = [self.index.near(codes.values[rows], codes.comparison.threshold)]
        if reach is not None:
            found.append(self.index.nearest(codes.values[rows], NEAREST, reach))
        query, code, distance = (np.concatenate(column) for column in zip(*found, strict=True))
        return _nearest_view(Near(rows[query], self.image[code], distance, self.view[code]))


Side = Equal | Bits | Vectors


@lru_cache(maxsize=4)
def load(url: str, comparisons: tuple[Comparison, ...], device: str) -> Index:
    """The measured benchmark at `url`, indexed; once for each process."""
    copy = Dataset.open(url)
    names: dict[str, int] = {WHOLE: 0}
    sides: list[Side] = []
    usable = np.zeros(sum(len(shard.rows()) for shard in copy.shards), bool)
    for comparison in comparisons:
        columns = [read(copy, shard, comparison) for shard in copy.shards]
        for codes in map(joined, zip(*columns, strict=True)):
            usable |= codes.comparable & ~codes.flat
            sides.append(Equal(codes) if comparison.kind == "equal" else _seen(copy, codes, names, device))
    return Index(sides, list(names), int(usable.sum()), len(usable))


def _seen(copy: Dataset, codes: Codes, names: dict[str, int], device: str) -> Side:
    """The pictures as they are, and their views; the names of the views are added to `names`."""
    bits = codes.comparison.kind == "hamming"
    rows = np.flatnonzero(codes.comparable & ~codes.flat)
    values, image, view = [codes.values[rows]], [rows], [np.zeros(len(rows), np.int64)]
    first = 0
    for shard in copy.shards:
        table = copy.folder.read_table(output(shard, codes.comparison))
        values.append(_values(table["code"], codes.values.shape[1], bits, f"{shard}"))
        image.append(table["row"].to_numpy().astype(np.int64) + first)
        words = table["view"].combine_chunks().dictionary_encode()
        ids = np.array([names.setdefault(word, len(names)) for word in words.dictionary.to_pylist()], np.int64)
        view.append(ids[words.indices.to_numpy()])
        first += len(shard.rows())
    side = Bits if bits else Vectors
    return side(np.concatenate(values), np.concatenate(image), np.concatenate(view), device)


def _values(column: pa.ChunkedArray, width: int, bits: bool, where: str) -> np.ndarray:
    """uint8 [n, width], or float32 unit vectors [n, width]."""
    stored = np.frombuffer(b"".join(column.to_pylist()), np.uint8 if bits else np.float16)
    if len(stored) != width * len(column):
        raise BadShard(f"{where}: its views have codes of another width; delete its folder and run dedup again")
    values = stored.reshape(-1, width)
    if bits:
        return values
    vectors = values.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _nearest_view(near: Near) -> Near:
    """Of each pool row and benchmark row only the nearest view, the first of equally near ones."""
    order = np.lexsort((near.view, near.distance, near.image, near.row))
    row, image = near.row[order], near.image[order]
    first = np.ones(len(order), bool)
    first[1:] = (row[1:] != row[:-1]) | (image[1:] != image[:-1])
    return Near(*(column[order[first]] for column in near))


def _together(parts: Sequence[Near]) -> Near:
    return Near(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _nothing() -> Near:
    return Near(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
