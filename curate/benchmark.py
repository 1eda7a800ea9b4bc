"""A benchmark set, whatever its layout: an image folder, CLIP_benchmark's webdataset tars, or a curate dataset."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from curate import tar
from curate.dataset import MANIFEST, Dataset
from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.shard import image_member
from curate.tar import IMAGE_EXTENSIONS

TEMPLATES = ("a photo of a {c}.", "a picture of a {c}.", "{c}")
SPLITS = ("test", "val", "validation", "")


@dataclass(frozen=True)
class BenchmarkSample:
    """One test image, still encoded, with its class and its captions where the set has them."""

    key: str
    image: bytes
    label: int | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """Images with labels for zero-shot classification, texts for retrieval, or both."""

    name: str
    classnames: list[str] | None
    templates: list[str]
    samples: Callable[[], Iterator[BenchmarkSample]] = field(repr=False)


def open_benchmark(path: str) -> Benchmark:
    """Tell the layout of a folder and open it. Raises CurateError where it is none of the three or holds no image."""
    folder = Folder(path.rstrip("/"))
    if not folder.exists():
        raise CurateError(f"no such benchmark: {path}")
    if folder.exists(MANIFEST) or folder.names("shards/*.tar"):
        return _of_dataset(Dataset.open(path))
    for split in SPLITS:
        tars = folder.names(f"{split}/*.tar" if split else "*.tar")
        if tars:
            return _of_tars(folder, sorted(tars, key=_number))
    return _of_images(folder)


def _of_dataset(dataset: Dataset) -> Benchmark:
    def samples() -> Iterator[BenchmarkSample]:
        for shard in dataset.shards:
            rows = shard.rows()
            with shard.images() as images:
                for uid, key, text in zip(*(rows[name].to_pylist() for name in ("uid", "key", "caption")), strict=True):
                    if key not in images:
                        raise BadShard(f"{shard}: its tar lacks the image of key {key}")
                    yield BenchmarkSample(uid, images[key], None, (text,) if text else ())

    if not dataset.shards:
        raise CurateError(f"benchmark {dataset.url} holds no image")
    return Benchmark(_name(dataset.url), None, list(TEMPLATES), samples)


def _of_tars(folder: Folder, names: list[str]) -> Benchmark:
    def samples() -> Iterator[BenchmarkSample]:
        for name in names:
            with folder.local(name) as path, tar.opened(path) as view:
                for sample in tar.samples(view, f"{folder.url}/{name}"):
                    member = image_member(sample)
                    if member:
                        yield _tar_sample(view, sample, member, f"{folder.url}/{name}")

    if next(samples(), None) is None:
        raise CurateError(f"benchmark {folder.url} holds no image: its tars have no .jpg, .png or .webp members")
    classnames = _lines(folder, "classnames.txt")
    templates = _lines(folder, "zeroshot_classification_templates.txt") or list(TEMPLATES)
    return Benchmark(_name(folder.url), classnames, templates, samples)


def _tar_sample(view: memoryview, sample: tar.Sample, image: tar.Member, where: str) -> BenchmarkSample:
    def read(member: tar.Member) -> bytes:
        return bytes(view[member.data : member.data + member.size])

    label: int | None = None
    texts: tuple[str, ...] = ()
    try:
        if "cls" in sample.members:
            label = int(read(sample.members["cls"]))
        if "txt" in sample.members:
            texts = tuple(line for line in read(sample.members["txt"]).decode().split("\n") if line.strip())
    except ValueError as error:
        raise CurateError(f"{where}: sample {sample.key}: {error}") from error
    return BenchmarkSample(sample.key, read(image), label, texts)


def _of_images(folder: Folder) -> Benchmark:
    """DIR/<class>/image: the sorted subfolders are the classes; images directly in DIR have none."""
    names = [name for name in folder.names("**") if name.rsplit(".", 1)[-1].lower() in IMAGE_EXTENSIONS]
    if not names:
        raise CurateError(
            f"{folder.url} is not a benchmark: no images, no webdataset tars (test/0.tar) and no {MANIFEST} in it"
        )
    classes = sorted({name.split("/", 1)[0] for name in names if "/" in name})
    labelled = bool(classes) and all("/" in name for name in names)
    captions = _captions(folder)

    def samples() -> Iterator[BenchmarkSample]:
        for name in names:
            label = classes.index(name.split("/", 1)[0]) if labelled else None
            yield BenchmarkSample(name, _read(folder, name), label, captions.get(name, ()))

    classnames = _lines(folder, "classnames.txt") or [name.replace("_", " ") for name in classes]
    templates = _lines(folder, "zeroshot_classification_templates.txt") or list(TEMPLATES)
    return Benchmark(_name(folder.url), classnames if labelled else None, templates, samples)


def _read(folder: Folder, name: str) -> bytes:
    """The file, or nothing where it may not be read: like damaged files, whoever decodes it names it."""
    try:
        return folder.read_bytes(name)
    except (PermissionError, FileNotFoundError):  # a link to nowhere
        return b""


def _captions(folder: Folder) -> dict[str, tuple[str, ...]]:
    """captions.json, where the folder has one: {image name: [caption, ...]}."""
    if not folder.exists("captions.json"):
        return {}
    return {name: tuple(texts) for name, texts in folder.read_json("captions.json").items()}


def _lines(folder: Folder, name: str) -> list[str] | None:
    if not folder.exists(name):
        return None
    text = folder.read_bytes(name).decode()

    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"(\d+)\.tar$", name)
    return (int(digits[1]) if digits else 0, name)


def _name(url: str) -> str:
    return url.rstrip("/").rsplit("/", 1)[-1]
