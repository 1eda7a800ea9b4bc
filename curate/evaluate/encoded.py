"""A benchmark as features: every image goes through the model once, and what comes out is kept for the next task."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from curate import images, work
from curate.benchmark import Benchmark, BenchmarkSample
from curate.clip.encoders import embed_dim
from curate.clip.models import ClipModel
from curate.dataset import fingerprint
from curate.evaluate.judge import Judge
from curate.files import Folder

VERSION = 1  # of the features; counts up when decoding or resizing changes them
AHEAD = 2  # batches decoded before they are asked for
NONE = -1  # the label of an image without one


@dataclass
class Encoded:
    """The images of a benchmark that could be decoded, in its order, all arrays by image unless said otherwise."""

    features: np.ndarray  # float32 [n, d], L2-normalised
    keys: list[str] = field(default_factory=list)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # int64 [n]; NONE: it has no class
    multilabels: list[list[int] | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # of all images
    owner: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # int64: of each text its image
    undecodable: list[str] = field(default_factory=list)  # keys


class Change(Protocol):
    """Makes other pixels of a sample's, and says what decides them."""

    @property
    def made_by(self) -> list[Any]: ...

    def __call__(self, sample: BenchmarkSample, pixels: np.ndarray) -> np.ndarray: ...


def encode(model: ClipModel, benchmark: Benchmark, batch_size: int = 256, cache: Folder | None = None,
           split: str = "test", change: Change | None = None) -> Encoded:  # fmt: skip
    """The features of a split, from `cache` where the same weights have seen the same files before.

    Raises BadShard for a damaged tar.
    """
    place = cache.within(_name(model, benchmark, split, change)) if cache else None
    if place and place.exists("rows.parquet"):
        return _restored(place)
    found = _encoded(model, benchmark, batch_size, change)
    if place:
        _keep(place, found)
    return found


def text_features(model: ClipModel, found: Encoded, benchmark: Benchmark, cache: Folder | None = None,
                  split: str = "test") -> np.ndarray:  # fmt: skip
    """float32 [texts, d], L2-normalised, kept beside the images; a text that occurs several times is encoded once."""
    place = cache.within(_name(model, benchmark, split)) if cache else None
    if place and place.exists("texts.npy"):
        return np.array(place.read_array("texts.npy"))
    unique, at = np.unique(np.array(found.texts, object), return_inverse=True)
    features = model.encode_texts([str(text) for text in unique])[at]
    if place:
        place.write_array("texts.npy", features)
    return features


def class_scores(judge: Judge, benchmark: Benchmark, sentences: Sequence[Sequence[str]], batch_size: int,
                 cache: Folder | None, split: str, change: Change | None) -> np.ndarray:  # fmt: skip
    """float32 [images that can be decoded, classes], in the order of `encode`, by the judge of a run; kept beside the
    features."""
    place = cache.within(_name(judge.model, benchmark, split, change)) if cache else None
    name = f"scores-{fingerprint([judge.made_by, [list(some) for some in sentences]])}.npy"
    if place and place.exists(name):
        return np.array(place.read_array(name))
    parts = [np.zeros((0, len(sentences)), np.float32)]
    with tqdm(desc=f"eval {benchmark.name}: {judge.name}", unit="image", disable=work.QUIET) as bar:
        for group in groups(benchmark.samples(), batch_size):
            whole = [(sample, pixels) for sample, pixels in group if pixels is not None]
            parts.append(judge.scores([change(*each) if change else each[1] for each in whole], sentences))
            bar.update(len(group))
    found = np.concatenate(parts)
    if place:
        place.write_array(name, found)
    return found


def groups(samples: Iterator[BenchmarkSample], size: int) -> Iterator[list[tuple[BenchmarkSample, np.ndarray | None]]]:
    """The samples in groups of `size` with their pixels (RGB uint8 [h, w, 3]; None where they cannot be decoded), the
    next groups decoded meanwhile by threads."""
    with ThreadPoolExecutor(os.cpu_count(), "decode") as pool:
        ahead: deque[tuple[list[BenchmarkSample], list[Future[np.ndarray | None]]]] = deque()
        try:
            while True:
                while len(ahead) <= AHEAD and (group := list(islice(samples, size))):
                    ahead.append((group, [pool.submit(_decoded, sample) for sample in group]))
                if not ahead:
                    return
                group, pixels = ahead.popleft()
                yield [(sample, future.result()) for sample, future in zip(group, pixels, strict=True)]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _encoded(model: ClipModel, benchmark: Benchmark, batch_size: int, change: Change | None) -> Encoded:
    parts = [np.zeros((0, embed_dim(model.model)), np.float32)]
    kept: list[BenchmarkSample] = []
    undecodable = []
    with tqdm(desc=f"eval {benchmark.name}", unit="image", disable=work.QUIET) as bar:
        for group in groups(benchmark.samples(), batch_size):
            whole = [(sample, pixels) for sample, pixels in group if pixels is not None]
            parts.append(model.encode_images([change(*each) if change else each[1] for each in whole]))
            undecodable += [sample.key for sample, pixels in group if pixels is None]
            kept += [replace(sample, image=b"") for sample, _ in whole]
            bar.update(len(group))
    return Encoded(
        features=np.concatenate(parts),
        keys=[sample.key for sample in kept],
        labels=np.array([NONE if sample.label is None else sample.label for sample in kept], np.int64),
        multilabels=[None if sample.labels is None else list(sample.labels) for sample in kept],
        texts=[text for sample in kept for text in sample.texts],
        owner=np.repeat(np.arange(len(kept)), [len(sample.texts) for sample in kept]).astype(np.int64),
        undecodable=undecodable,
    )


def _decoded(sample: BenchmarkSample) -> np.ndarray | None:
    try:
        return images.decode(sample.image)
    except images.UndecodableImage:
        return None


def _name(model: ClipModel, benchmark: Benchmark, split: str, change: Change | None = None) -> str:
    """Changes with the weights, the precision, the decoder and the files of the benchmark."""
    seen = [VERSION, images.DECODER, model.made_by, model.precision, model.device.type, benchmark.fingerprint()]
    return f"{benchmark.name}-{split}-{fingerprint([*seen, change.made_by if change else None])}"


def _keep(place: Folder, found: Encoded) -> None:
    """images.npy, then rows.parquet, which says that both are whole."""
    place.write_array("images.npy", found.features)
    owned = np.bincount(found.owner, minlength=len(found.keys)).cumsum()
    texts = [found.texts[end - count : end] for end, count in zip(owned, np.diff(owned, prepend=0), strict=True)]
    rows = {
        "key": pa.array([_plain(key) for key in found.keys], pa.string()),
        "label": pa.array(found.labels, pa.int64()),
        "labels": pa.array(found.multilabels, pa.list_(pa.int64())),
        "texts": pa.array([[_plain(text) for text in some] for some in texts], pa.list_(pa.string())),
    }
    place.write_table("rows.parquet", pa.table(rows), {"undecodable": [_plain(key) for key in found.undecodable]})


def _restored(place: Folder) -> Encoded:
    rows = place.read_table("rows.parquet")
    texts = rows["texts"].to_pylist()
    return Encoded(
        features=np.array(place.read_array("images.npy")),
        keys=rows["key"].to_pylist(),
        labels=rows["label"].to_numpy(),
        multilabels=rows["labels"].to_pylist(),
        texts=[text for some in texts for text in some],
        owner=np.repeat(np.arange(len(texts)), [len(some) for some in texts]).astype(np.int64),
        undecodable=(place.made_by("rows.parquet") or {})["undecodable"],
    )


def _plain(text: str) -> str:
    """Without the lone surrogates of file names that are not UTF-8, which parquet cannot hold."""
    return text.encode("utf-8", "replace").decode()
