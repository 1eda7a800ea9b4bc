"""What the signals measured, read back as codes that can be compared: equal values, bits, or unit vectors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate import named
from curate.dataset import Dataset
from curate.errors import BadShard, CurateError
from curate.measure import embedding_name
from curate.rows import FROM_IMAGE
from curate.shard import Shard


@dataclass(frozen=True)
class Comparison:
    """How one signal tells duplicates. threshold: the largest distance for "hamming", the smallest similarity for
    "cosine", both inclusive; 0 for "equal"."""

    spec: str
    signal: str
    kind: str
    threshold: float

    @property
    def text(self) -> str:
        """The spec with its alias, as `measure` wants it."""
        spec = named.parse(self.spec)
        alias = f"{', ' if spec.options else '('}as={self.signal})"
        return self.spec if spec.slug == self.signal else self.spec.removesuffix(")") + alias

    def __str__(self) -> str:
        return self.spec if self.kind == "equal" else f"{self.spec} at {self.threshold:g}"


@dataclass(frozen=True)
class Codes:
    """One column of one signal. values: an Arrow array ("equal"), uint8 [rows, bytes] ("hamming", and once packed) or
    float32 unit vectors [rows, dimensions] ("cosine"). comparable: which rows have a code. flat: rows whose picture is
    near-blank or tiny (or unreadable): equal codes still say that the files are equal, not that the pictures are."""

    comparison: Comparison
    values: Any
    comparable: np.ndarray
    flat: np.ndarray

    def __len__(self) -> int:
        return len(self.comparable)

    def usable(self) -> np.ndarray:
        """bool: which rows have a code that says something of another row's."""
        return self.comparable if self.comparison.kind == "equal" else self.comparable & ~self.flat

    def without(self, rows: np.ndarray) -> "Codes":
        """The same rows, of which those where the boolean array `rows` is true match nothing."""
        return replace(self, comparable=self.comparable & ~rows)


def comparisons(signals: Sequence[str], thresholds: Mapping[str, float],
                option: str = "--threshold") -> list[Comparison]:  # fmt: skip
    """How each signal compares, with the user's thresholds, of `option`, over its own. Raises CurateError."""
    found = []
    for text in signals:
        spec = named.parse(text)
        signal = named.load("signals", spec)
        kind = getattr(signal, "distance", None)
        if kind not in ("equal", "hamming", "cosine"):
            raise CurateError(f"'{spec.name}' tells no duplicates: it has no distance; use exact, phash or embedding")
        threshold = thresholds.get(spec.slug, getattr(signal, "threshold", 0))
        if kind == "equal" and spec.slug in thresholds:
            raise CurateError(
                f"{option} {spec.slug}={threshold:g}: {spec.slug} tells equal images, without a threshold"
            )
        if (kind == "cosine" and not -1 < threshold <= 1) or (kind == "hamming" and (threshold < 0 or threshold % 1)):
            wanted = "a similarity up to 1" if kind == "cosine" else "a whole number of bits, 0 or more"
            raise CurateError(f"{option} {spec.slug}={threshold:g}: it is {wanted}")
        found.append(Comparison(str(spec), spec.slug, kind, float(threshold)))
    for name in thresholds:
        if name not in {comparison.signal for comparison in found}:
            chosen = ", ".join(comparison.signal for comparison in found)
            raise CurateError(f"{option} {name}: no such signal here; this run compares by {chosen}")
    return found


def check_images_only(comparisons: Iterable[Comparison]) -> None:
    """Raises CurateError for a signal that needs more than the picture, which is all that a benchmark shows."""
    for comparison in comparisons:
        more = set(named.load("signals", comparison.spec).reads) - FROM_IMAGE
        if more:
            raise CurateError(f"'{comparison.spec}' reads {', '.join(sorted(more))}: it cannot be measured --against")


def read(dataset: Dataset, shard: Shard, comparison: Comparison) -> list[Codes]:
    """The codes of every row of a shard, in the order of `shard.rows()`. Raises BadShard, CurateError."""
    table = dataset.measured(shard, comparison.signal)
    flat_name = f"{comparison.signal}_flat"
    flat = np.zeros(len(table), bool)
    if flat_name in table.column_names:
        flat = pc.fill_null(table[flat_name], True).to_numpy()
    if comparison.kind == "cosine":
        return [_vectors(shard, comparison, flat)]
    if comparison.kind == "hamming":
        return [_bits(shard, comparison, table, flat)]
    names = [name for name in table.column_names if name not in ("uid", flat_name)]
    columns = [table[name].combine_chunks() for name in names]
    return [Codes(comparison, column, column.is_valid().to_numpy(zero_copy_only=False), flat) for column in columns]


def joined(parts: Sequence[Codes]) -> Codes:
    """The codes of several shards in one. Raises CurateError where they have different widths."""
    values = [part.values for part in parts]
    if parts[0].comparison.kind == "equal":
        together = pa.chunked_array(values).combine_chunks()
    else:
        widths = {value.shape[1] for value in values}
        if len(widths) > 1:
            signal = parts[0].comparison.signal
            raise CurateError(f"signals/{signal} holds codes of {sorted(widths)} columns; delete it and measure again")
        together = np.concatenate(values)
    return Codes(
        parts[0].comparison,
        together,
        np.concatenate([part.comparable for part in parts]),
        np.concatenate([part.flat for part in parts]),
    )


def classes(codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """(class of each row, one row of each class): rows with equal codes share a class, -1 has nothing to compare."""
    rows = np.flatnonzero(codes.usable())
    ids = np.full(len(codes), -1, np.int64)
    ids[rows] = _keys(codes, rows).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    found, first = np.unique(ids[rows], return_index=True)
    assert np.array_equal(found, np.arange(len(found)))
    return ids, rows[first]


def packed(codes: Codes) -> Codes:
    """Codes as bytes of one width, uint8 [rows, bytes], all that equality needs: bits and digests as they are, vectors
    (which stay in their files) and anything else as xxh3-128. Rows without a code hold zeros."""
    if codes.comparison.kind == "hamming":
        return codes
    if codes.comparison.kind == "cosine":
        digests = b"".join(xxhash.xxh3_128_digest(row) for row in codes.values)
        return replace(codes, values=np.frombuffer(digests, np.uint8).reshape(-1, 16))
    if pa.types.is_fixed_size_binary(codes.values.type):
        return replace(codes, values=_fixed(codes.values))
    said = (repr(value).encode() for value in codes.values.to_pylist())
    digests = b"".join(xxhash.xxh3_128_digest(value) for value in said)
    return replace(codes, values=np.frombuffer(digests, np.uint8).reshape(-1, 16))


def binary(held: np.ndarray) -> pa.Array:
    """uint8 [n, width] -> binary(width)."""
    return pa.Array.from_buffers(pa.binary(held.shape[1]), len(held), [None, pa.py_buffer(held)])


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column without nulls: binary(width) as uint8 [n, width]."""
    held = column.combine_chunks()
    return _fixed(held) if pa.types.is_fixed_size_binary(held.type) else held.to_numpy(zero_copy_only=False)


def _fixed(column: pa.Array) -> np.ndarray:
    """binary(width) -> uint8 [n, width], zeros where it is null."""
    width = column.type.byte_width
    filled = pc.fill_null(column, bytes(width))
    held = np.frombuffer(filled.buffers()[1], np.uint8, len(filled) * width, filled.offset * width)
    return held.reshape(len(filled), width)


def _keys(codes: Codes, rows: np.ndarray) -> pa.Array:
    if isinstance(codes.values, pa.Array):
        return codes.values.take(pa.array(rows))
    return binary(np.ascontiguousarray(codes.values[rows]).view(np.uint8))


def _bits(shard: Shard, comparison: Comparison, table: pa.Table, flat: np.ndarray) -> Codes:
    column = table[comparison.signal].combine_chunks()
    if not pa.types.is_fixed_size_binary(column.type):
        raise BadShard(f"{shard}: signals/{comparison.signal} holds {column.type}, not bits of one width")
    bits = 8 * column.type.byte_width
    if comparison.threshold >= bits:
        raise CurateError(f"{comparison.signal} at {comparison.threshold:g}: it has {bits} bits, with so large a "
                          "threshold all images are alike")  # fmt: skip
    return Codes(comparison, _fixed(column), column.is_valid().to_numpy(zero_copy_only=False), flat)


def _vectors(shard: Shard, comparison: Comparison, flat: np.ndarray) -> Codes:
    name = embedding_name(comparison.signal, shard)
    if not shard.folder.exists(name):
        raise BadShard(f"{shard.folder.url}/{name} is missing; delete signals/{comparison.signal} and measure again")
    vectors = np.asarray(shard.folder.read_array(name), np.float32)
    if len(vectors) != len(flat) or not np.isfinite(vectors).all():
        wrong = "has another number of rows than its table" if len(vectors) != len(flat) else "holds NaN or infinity"
        raise BadShard(f"{shard.folder.url}/{name} {wrong}; delete signals/{comparison.signal} and measure again")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Codes(comparison, vectors / np.where(lengths > 0, lengths, 1), lengths[:, 0] > 0, flat)
