"""Evaluate a CLIP model on benchmark sets: zero-shot accuracy and retrieval recall, always beside chance."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from curate import images, models, work
from curate.benchmark import Benchmark, BenchmarkSample, open_benchmark
from curate.encoders import embed_dim
from curate.errors import BadShard, CurateError
from curate.evaluate.retrieval import AT, recalls
from curate.evaluate.zero_shot import accuracy, classifier, nearest
from curate.files import Folder
from curate.models import ClipModel


def run(model: str, benchmarks: Sequence[str], out: str | None = None, arch: str | None = None,
        batch_size: int = 256, device: str = "auto") -> tuple[str, dict[str, Any], dict[str, str]]:  # fmt: skip
    """Write <out>/<benchmark>.json and, where images are classified, <benchmark>-predictions.parquet (key, label,
    prediction, correct) for each benchmark; comes back with (summary, numbers, failed benchmarks).

    `model` is a run, a checkpoint file or, with `arch`, an open_clip tag. Raises CurateError for a model that does not
    load, and for a folder that is no benchmark.
    """
    sets = [open_benchmark(path) for path in benchmarks]
    names = [benchmark.name for benchmark in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise CurateError(f"two benchmarks are called '{twice}'; evaluate them one by one, with an --out for each")
    clip = models.load(arch, model, device, "auto")
    folder = Folder(out or _beside(model, arch))
    numbers: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for benchmark in sets:
        try:
            found, predictions = evaluate(clip, benchmark, batch_size)
        except BadShard as error:
            failures[benchmark.name] = str(error)
            continue
        made_by = {"model": clip.name, "weights": clip.made_by["weights"]}
        numbers[benchmark.name] = {**made_by, **found}
        if predictions is not None:
            folder.write_table(f"{benchmark.name}-predictions.parquet", predictions, made_by)
        folder.write_json(f"{benchmark.name}.json", numbers[benchmark.name])
    summary = "\n".join(_line(name, found) for name, found in numbers.items())
    return summary or "eval: no benchmark could be read", {"out": folder.url, "benchmarks": numbers}, failures


def evaluate(model: ClipModel, benchmark: Benchmark, batch_size: int = 256) -> tuple[dict[str, Any], pa.Table | None]:
    """The numbers of one benchmark, zero_shot where it has labels and class names, retrieval where it has texts; and
    key, label, prediction, correct of each classified image, None where there are none."""
    found = _encode(model, benchmark, batch_size)
    predictions = None
    numbers: dict[str, Any] = {"images": len(found.features), "undecodable": found.undecodable}
    labelled = np.array([at for at, label in enumerate(found.labels) if label is not None], np.int64)
    if len(labelled) and benchmark.classnames:
        labels = np.array([found.labels[at] for at in labelled])
        if labels.max() >= len(benchmark.classnames) or labels.min() < 0:
            raise CurateError(f"benchmark {benchmark.name} has the label {labels.max()} but only "
                              f"{len(benchmark.classnames)} lines in classnames.txt")  # fmt: skip
        classes = classifier(model, benchmark.classnames, benchmark.templates)
        numbers["zero_shot"] = accuracy(found.features[labelled], labels, classes)
        predicted = nearest(found.features[labelled], classes)
        keys = [found.keys[at].encode("utf-8", "replace").decode() for at in labelled]
        predictions = pa.table({"key": keys, "label": labels, "prediction": predicted, "correct": predicted == labels})
    if found.texts:
        numbers["retrieval"] = recalls(found.features, model.encode_texts(found.texts), np.array(found.owner))
    if "zero_shot" not in numbers and "retrieval" not in numbers:
        missing = "class names (classnames.txt)" if len(labelled) else "labels or texts"
        raise CurateError(f"benchmark {benchmark.name} has images but no {missing}: nothing to compare them with")
    return numbers, predictions


@dataclass
class _Encoded:
    features: np.ndarray  # float32 [n, d]
    keys: list[str] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)  # of each text: its image
    undecodable: list[str] = field(default_factory=list)  # keys


def _encode(model: ClipModel, benchmark: Benchmark, batch_size: int) -> _Encoded:
    found = _Encoded(np.zeros((0, embed_dim(model.model)), np.float32))
    parts = [found.features]
    bar = tqdm(desc=f"eval {benchmark.name}", unit="image", disable=work.QUIET)
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for group in _groups(benchmark.samples(), batch_size):
            pixels = list(pool.map(_decoded, group))
            parts.append(model.encode_images([image for image in pixels if image is not None]))
            for sample, image in zip(group, pixels, strict=True):
                if image is None:
                    found.undecodable.append(sample.key)
                    continue
                found.owner += [len(found.labels)] * len(sample.texts)
                found.texts += sample.texts
                found.keys.append(sample.key)
                found.labels.append(sample.label)
            bar.update(len(group))
    found.features = np.concatenate(parts)
    return found


def _groups(samples: Iterator[BenchmarkSample], size: int) -> Iterator[list[BenchmarkSample]]:
    while group := list(islice(samples, size)):
        yield group


def _decoded(sample: BenchmarkSample) -> np.ndarray | None:
    try:
        return images.decode(sample.image)
    except images.UndecodableImage:
        return None


def _beside(model: str, arch: str | None) -> str:
    """Where the numbers of a model go when nobody says: a run keeps its own."""
    weights = models.weights_file(model)
    return weights[0].within("eval").url if weights else f"eval/{arch}-{model}"


def _line(name: str, found: dict[str, Any]) -> str:
    lost = f", {len(found['undecodable'])} could not be decoded" if found["undecodable"] else ""
    parts = []
    if shot := found.get("zero_shot"):
        chance = f"chance {shot['chance']:.1%} of {shot['classes']} classes"
        parts.append(f"zero-shot top-1 {_share(shot['top1'])} ({chance})")
    if both := found.get("retrieval"):
        parts.append(f"image to text {_recalls(both['image_to_text'])}")
        parts.append(f"text to image {_recalls(both['text_to_image'])}")
    return f"eval: {name}, {found['images']:,} images{lost}: {'; '.join(parts)}"


def _share(found: dict[str, Any]) -> str:
    low, high = found["interval95"]
    return f"{found['value']:.1%} [{low:.1%}, {high:.1%}]"


def _recalls(found: dict[str, Any]) -> str:
    return ", ".join(
        f"R@{k} {found[f'recall@{k}']['value']:.1%} (chance {found['chance'][f'recall@{k}']:.1%})" for k in AT
    )
