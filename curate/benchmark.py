"""A benchmark set, whatever its layout: an image folder, CLIP_benchmark's webdataset tars, or a curate dataset."""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from curate import tar
from curate.dataset import MANIFEST, Dataset, fingerprint
from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.shard import image_member
from curate.tar import IMAGE_EXTENSIONS
from curate.words import counted

TEMPLATES = ("a photo of a {c}.", "a picture of a {c}.", "{c}")
SPLITS = ("test", "val", "validation", "")  # the first that is there is what a model is tested on
PARTS = ("train", "test", "val", "validation")  # folders of these names are splits, not classes
TYPES = ("classification", "retrieval", "multilabel")  # of dataset_type.txt

Templates = Sequence[str] | Mapping[str, Sequence[str]]  # sentences with {c}, or of each class its own (CuPL)


@dataclass(frozen=True)
class BenchmarkSample:
    """One test image, still encoded, with its class (or, in a multilabel set, its classes) and its captions where the
    set has them."""

    key: str
    image: bytes
    label: int | None = None
    texts: tuple[str, ...] = ()
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Benchmark:
    """Images with labels for zero-shot classification, texts for retrieval, or both."""

    name: str
    classnames: list[str] | None
    templates: Templates
    samples: Callable[[], Iterator[BenchmarkSample]] = field(repr=False)
    fingerprint: Callable[[], str] = field(repr=False, default=lambda: "")  # changes when a file of it does


def open_benchmark(path: str, split: str | None = None) -> Benchmark:
    """Tell the layout of a folder and open its test split, or the one asked for (see `has_split`). Raises CurateError
    where it is none of the three layouts or holds no image."""
    folder = Folder(path.rstrip("/"))
    if not folder.exists():
        raise CurateError(f"no such benchmark: {path}")
    if folder.exists(MANIFEST) or folder.names("shards/*.tar"):
        return _of_dataset(Dataset.open(path))
    for part in SPLITS if split is None else (split,):
        tars = folder.names(f"{part}/*.tar" if part else "*.tar")
        if tars:
            return _of_tars(folder, part, sorted(tars, key=_number))
    return _of_images(folder, split)


def has_split(path: str, split: str) -> bool:
    """Whether a benchmark has a split of its own of this name: train, val ..."""
    folder = Folder(path.rstrip("/"))
    if folder.exists(MANIFEST) or not folder.exists(split):
        return False
    return bool(folder.names(f"{split}/*.tar") or _image_names(folder, split))


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
    return Benchmark(_name(dataset.url), None, list(TEMPLATES), samples, dataset.shards_fingerprint)


def _of_tars(folder: Folder, split: str, names: list[str]) -> Benchmark:
    _check_complete(folder, split, names)
    kind = _type(folder)

    def samples() -> Iterator[BenchmarkSample]:
        for name in names:
            with folder.local(name) as path, tar.opened(path) as view:
                for sample in tar.samples(view, f"{folder.url}/{name}"):
                    member = image_member(sample)
                    if member:
                        yield _tar_sample(view, sample, member, f"{folder.url}/{name}", kind)

    if next(samples(), None) is None:
        raise CurateError(f"benchmark {folder.url} holds no image: its tars have no .jpg, .png or .webp members")
    classnames = None if kind == "retrieval" else _lines(folder, "classnames.txt")
    return Benchmark(_name(folder.url), classnames, _templates(folder), samples, lambda: _fingerprint(folder, names))


def _check_complete(folder: Folder, split: str, names: list[str]) -> None:
    """Raises CurateError where nshards.txt tells of more tars than there are: half a download is no benchmark."""
    told = f"{split}/nshards.txt" if split else "nshards.txt"
    if not folder.exists(told):
        return
    text = folder.read_bytes(told).decode("utf-8", "replace").strip()
    if not text.isdecimal():
        raise CurateError(f"{folder.url}/{told} holds '{text[:20]}', not a number of tars")
    if int(text) > len(names):
        raise CurateError(f"{folder.url}/{told} tells of {text} tars, found {len(names)}; fetch the others")


def _type(folder: Folder) -> str:
    """The word in dataset_type.txt; by default classification, which takes labels and texts as they come."""
    if not folder.exists("dataset_type.txt"):
        return "classification"
    word = folder.read_bytes("dataset_type.txt").decode("utf-8", "replace").strip().lower()
    if word not in TYPES:
        raise CurateError(f"{folder.url}/dataset_type.txt says '{word}'; known are: {', '.join(TYPES)}")
    return word


def _tar_sample(view: memoryview, sample: tar.Sample, image: tar.Member, where: str, kind: str) -> BenchmarkSample:
    def read(member: tar.Member) -> bytes:
        return bytes(view[member.data : member.data + member.size])

    label: int | None = None
    labels: tuple[int, ...] | None = None
    texts: tuple[str, ...] = ()
    try:
        if kind == "multilabel" and "npy" in sample.members:
            labels = _multi_hot(read(sample.members["npy"]))
        elif kind != "retrieval" and "cls" in sample.members:
            label = int(read(sample.members["cls"]))
        if "txt" in sample.members:
            texts = tuple(line for line in read(sample.members["txt"]).decode().splitlines() if line.strip())
    except ValueError as error:
        raise CurateError(f"{where}: sample {sample.key}: {error}") from error
    return BenchmarkSample(sample.key, read(image), label, texts, labels)


def _multi_hot(data: bytes) -> tuple[int, ...]:
    """The places of a multi-hot vector that are not 0. Raises ValueError."""
    found = np.load(io.BytesIO(data), allow_pickle=False)
    if found.ndim != 1:
        raise ValueError(f"its labels have the shape {found.shape}, not one number for each class")
    return tuple(np.flatnonzero(found).tolist())


def _of_images(folder: Folder, split: str | None) -> Benchmark:
    """DIR/<class>/image or DIR/test/<class>/image: the sorted class folders are the classes, those of all splits
    together; images directly in DIR have none."""
    every = _image_names(folder)
    parts = {name.split("/", 1)[0] for name in every}
    within = ""
    if parts and parts <= set(PARTS) and all(name.count("/") > 1 for name in every):
        within = next((part for part in (SPLITS if split is None else (split,)) if part in parts), "train")
    names = [name for name in every if name.startswith(f"{within}/" if within else "")]
    if not names:
        raise CurateError(
            f"{folder.url} is not a benchmark: no images, no webdataset tars (test/0.tar) and no {MANIFEST} in it"
        )
    depth = 1 if within else 0
    labelled = all(name.count("/") > depth for name in names)
    classes = sorted({name.split("/")[depth] for name in every}) if labelled else []
    captions = _captions(folder)

    def samples() -> Iterator[BenchmarkSample]:
        for name in names:
            label = classes.index(name.split("/")[depth]) if labelled else None
            yield BenchmarkSample(name, _read(folder, name), label, captions.get(name, ()))

    classnames = _lines(folder, "classnames.txt") or [name.replace("_", " ") for name in classes]
    if labelled and len(classnames) != len(classes):
        raise CurateError(f"benchmark {folder.url} has {counted(len(classes), 'class folder')} but "
                          f"{counted(len(classnames), 'line')} in classnames.txt")  # fmt: skip
    return Benchmark(_name(folder.url), classnames if labelled else None, _templates(folder), samples,
                     lambda: _fingerprint(folder, names))  # fmt: skip


def _image_names(folder: Folder, within: str = "") -> list[str]:
    names = folder.names(f"{within}/**" if within else "**")
    return [name for name in names if name.rsplit(".", 1)[-1].lower() in IMAGE_EXTENSIONS]


def _fingerprint(folder: Folder, names: Sequence[str]) -> str:
    """Of the names, sizes and dates of these files and of what lies beside them."""
    lists = [name for name in ("classnames.txt", "captions.json") if folder.exists(name)]
    about = folder.fs.find(folder.path(), detail=True)
    dates = ("mtime", "ETag", "LastModified", "updated", "created")
    found = []
    for name in (*names, *lists):
        facts = about.get(folder.path(name), {})
        found.append([name, facts.get("size"), next((str(facts[date]) for date in dates if date in facts), "")])
    return fingerprint(found)


def _templates(folder: Folder) -> Templates:
    """zeroshot_classification_templates.json (a list, or of each class its own sentences, as CuPL has them) or .txt."""
    name = "zeroshot_classification_templates"
    if not folder.exists(f"{name}.json"):
        return _with_places(_lines(folder, f"{name}.txt") or TEMPLATES, f"{folder.url}/{name}.txt")
    found = folder.read_json(f"{name}.json")
    each = list(found.values()) if isinstance(found, dict) else [found]
    if not each or not all(isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
                           for texts in each):  # fmt: skip
        raise CurateError(f"{folder.url}/{name}.json is neither a list of sentences nor a class: sentences object")
    return found if isinstance(found, dict) else _with_places(found, f"{folder.url}/{name}.json")


def _with_places(sentences: Sequence[str], file: str) -> list[str]:
    """Raises CurateError where one says the same of every class."""
    if wrong := [sentence for sentence in sentences if "{c}" not in sentence]:
        raise CurateError(f"{file}: '{wrong[0]}' has no {{c}}, where the name of the class goes")
    return list(sentences)


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
    found = folder.read_json("captions.json")
    if not isinstance(found, dict) or not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts)
                                              for texts in found.values()):  # fmt: skip
        raise CurateError(f'{folder.url}/captions.json is not {{"image name": ["caption", ...], ...}}')
    if found and not any(folder.exists(name) for name in found):
        raise CurateError(f"{folder.url}/captions.json names images that are not there, such as '{next(iter(found))}'")
    return {name: tuple(texts) for name, texts in found.items()}


def _lines(folder: Folder, name: str) -> list[str] | None:
    if not folder.exists(name):
        return None
    try:
        text = folder.read_bytes(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CurateError(f"{folder.url}/{name} is no UTF-8 at byte {error.start:,}; save it as UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"(\d+)\.tar$", name)
    return (int(digits[1]) if digits else 0, name)


def _name(url: str) -> str:
    return url.rstrip("/").rsplit("/", 1)[-1]
