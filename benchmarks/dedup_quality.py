"""How many altered copies of photographs each way of telling duplicates finds, at the same rate of false matches.

    OMP_NUM_THREADS=1 python benchmarks/dedup_quality.py [--sources DIR ...] [--distractors DIR ...] [--count 200]

Some of the photographs are sources, and 32 copies of each are made: compressed, shrunk, cropped, turned, written on,
framed. All pictures are stored as harvest would, with a short side of 256 pixels, and measured by `curate measure`.

Inside a pool: a signal's threshold is the loosest at which at most one in a million pairs of different photographs
match; its recall is the share of copies that match their source at that threshold. `phash`, `dhash` and `whash` are
bit for bit those of imagehash, `pdq` that of pdqhash (tests/test_signals_dedup.py). curate's own rows are at its own
default thresholds, whose rate of false matches is measured beside. Whitening is fitted on the photographs themselves.

Against a benchmark: the sources are one, and `curate dedup --against` runs once for each of the 32 transformations, on
a pool of that copy of each source and of all photographs that are no sources. False matches are pairs of a source and
another photograph; as there are too few of these pairs to tell one in a million, false matches are counted again with
1,500 drawn from all photographs, garments too, as the benchmark and all photographs as the pool.

Inside a pool with --thorough: all photographs and one copy of each source, the transformations in turn; a copy is found
where it or its source is dropped for the other, a false match is an unlike picture dropped.

The result in results/ is of BSDS500 (github.com/BIDS/BSDS500), one image of each ImageNet class
(github.com/EliSchwartz/imagenet-sample-images) and garments (github.com/alexeygrigorev/clothing-dataset-small), which
look like each other; sources are drawn from the first two. By default these three are looked for in photos/.
--detector RUN: a run of `curate train-clip --objective copy-detection`, as a part of its own.
--fastdup: the Python of an environment that holds fastdup; imagededup is measured where it can be imported.
"""

import argparse
import datetime
import importlib
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from curate import shard as shards
from curate.dataset import Dataset
from curate.dedup import run as dedup
from curate.dedup.whiten_fit import fit
from curate.dedup.whitened import THRESHOLD
from curate.files import Folder
from curate.measure import measure

RESULTS = Path(__file__).parent / "results" / "dedup_quality.json"
SOURCES = ["photos/BSDS500", "photos/imagenet-sample-images"]
DISTRACTORS = ["photos/clothing-dataset-small"]
RATE = 1e-6
ASKED = 1_500  # photographs that false matches are counted on
PER_SHARD = 500
SHORT = 256
TRUE_COPY = 20  # bits of PDQ: photographs of the folders that are this near are one photograph
SIGNALS = ("exact", "phash", "dhash", "whash", "pdq", "trimmed", "embedding")
AGAINST: dict[str, dict] = {
    "curate dedup --against (default: pdq in many views, ORB)": {},
    "... --no-verify": {"verify": False},
    "... --against-signal pdq --against-signal embedding": {"against_signals": ("exact", "pdq", "embedding")},
}
THOROUGH: dict[str, dict] = {
    "curate dedup --thorough (default: pdq in many views, ORB)": {},
    "... --signal exact --signal pdq --signal embedding": {"signals": ("exact", "pdq", "embedding")},
}
THOROUGHLY = "inside a pool, --thorough"
PARTS = ("inside a pool", THOROUGHLY, "against a benchmark", "false matches")
DETECTOR = "a detector of one's own"
Picture = Image.Image


# the transformations


def at_quality(image: Picture, quality: int, form: str = "JPEG") -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def with_short_side(image: Picture, side: int) -> Picture:
    scale = side / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def without(image: Picture, share: float, rng: random.Random) -> Picture:
    """A crop that lacks this share of the area, of the same shape, somewhere."""
    side = (1 - share) ** 0.5
    width, height = round(image.width * side), round(image.height * side)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def square(image: Picture) -> Picture:
    side = min(image.size)
    return ImageOps.fit(image, (side, side))


def letterbox(image: Picture) -> Picture:
    side = max(image.size)
    return ImageOps.pad(image, (side, side), color="white")


def turned(image: Picture, degrees: float) -> Picture:
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(0, 0, 0))


def text(image: Picture, rng: random.Random) -> Picture:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    at = (image.width // 12, round(image.height * rng.uniform(0.1, 0.8)))
    draw.text(at, "SALE 50% OFF", "white", font_size=image.width // 10, stroke_width=2, stroke_fill="black")
    return image


def logo(image: Picture) -> Picture:
    image = image.copy()
    side = min(image.size) // 6
    place = (image.width - side - side // 4, image.height - side - side // 4)
    draw = ImageDraw.Draw(image)
    draw.ellipse((*place, place[0] + side, place[1] + side), "white", "red", max(2, side // 12))
    draw.text((place[0] + side // 4, place[1] + side // 4), "tv", "red", font_size=side // 2)
    return image


def jitter(image: Picture, rng: random.Random) -> Picture:
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(rng.uniform(0.7, 1.3))
    return image


def screenshot(image: Picture) -> Picture:
    """In a window with a bar of tools and lines of text below."""
    width, height = round(image.width * 1.25), round(image.height * 1.5)
    screen = Image.new("RGB", (width, height), (245, 246, 248))
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, width, height // 12), (60, 63, 65))
    for at in range(3):
        draw.ellipse((10 + 22 * at, 8, 24 + 22 * at, 22), ("red", "orange", "green")[at])
    left, top = (width - image.width) // 2, height // 8
    screen.paste(image, (left, top))
    for line in range(4):
        y = top + image.height + 14 + line * height // 24
        draw.rectangle((left, y, left + image.width * (9 - 2 * line) // 10, y + height // 60), (150, 150, 155))
    return screen


def noisy(image: Picture, rng: random.Random) -> Picture:
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 15, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def combined(image: Picture, rng: random.Random) -> Picture:
    return at_quality(with_short_side(jitter(without(image, 0.05, rng), rng), 128), 50)


TRANSFORMATIONS: dict[str, Callable[[Picture, random.Random], Picture]] = {
    "compressed again, quality 75": lambda image, rng: at_quality(image, 75),
    "JPEG quality 30": lambda image, rng: at_quality(image, 30),
    "JPEG quality 10": lambda image, rng: at_quality(image, 10),
    "WebP quality 40": lambda image, rng: at_quality(image, 40, "WEBP"),
    "short side 256": lambda image, rng: with_short_side(image, 256),
    "short side 128": lambda image, rng: with_short_side(image, 128),
    "thumbnail of 64": lambda image, rng: with_short_side(image, 64),
    "1.2 times as wide": lambda image, rng: image.resize((round(image.width * 1.2), image.height)),
    "cropped by 5 %": lambda image, rng: without(image, 0.05, rng),
    "cropped by 10 %": lambda image, rng: without(image, 0.1, rng),
    "cropped by 25 %": lambda image, rng: without(image, 0.25, rng),
    "cropped by 50 %": lambda image, rng: without(image, 0.5, rng),
    "square from the centre": lambda image, rng: square(image),
    "letterbox": lambda image, rng: letterbox(image),
    "border of 5 %": lambda image, rng: ImageOps.expand(image, round(0.05 * min(image.size)), "black"),
    "screenshot": lambda image, rng: screenshot(image),
    "blur, radius 2": lambda image, rng: image.filter(ImageFilter.GaussianBlur(2)),
    "blur, radius 5": lambda image, rng: image.filter(ImageFilter.GaussianBlur(5)),
    "sharpened": lambda image, rng: image.filter(ImageFilter.UnsharpMask(3, 200)),
    "noise, sigma 15": lambda image, rng: noisy(image, rng),
    "text": text,
    "logo": lambda image, rng: logo(image),
    "colours jittered": jitter,
    "brighter, x 1.5": lambda image, rng: ImageEnhance.Brightness(image).enhance(1.5),
    "contrast x 1.6": lambda image, rng: ImageEnhance.Contrast(image).enhance(1.6),
    "grey": lambda image, rng: ImageOps.grayscale(image).convert("RGB"),
    "mirrored": lambda image, rng: ImageOps.mirror(image),
    "turned by 90 degrees": lambda image, rng: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": lambda image, rng: image.transpose(Image.Transpose.ROTATE_180),
    "turned by 2 degrees": lambda image, rng: turned(image, 2),
    "turned by 5 degrees": lambda image, rng: turned(image, 5),
    "cropped, shrunk, jittered, quality 50": combined,
}


# the pictures as datasets


def stored(folder: Path, parts: dict[str, list[tuple[str, Picture]]]) -> Dataset:
    """Shards named after their part; the uid of a row is told by its name."""
    dataset = Folder(str(folder))
    for part, pictures in parts.items():
        members, rows = [], []
        for number, (name, image) in enumerate(pictures):
            key, (jpeg, width, height) = f"{number:09d}", as_harvested(image)
            members.append((f"{key}.jpg", jpeg))
            rows.append({"uid": shards.uid_of(f"{part} {name}", key), "key": key, "url": name, "caption": "",
                         "status": "success", "width": width, "height": height})  # fmt: skip
        shards.write(dataset, part, shards.tar_bytes(members), pa.Table.from_pylist(rows), {})
    return Dataset.open(dataset.url)


def as_harvested(image: Picture) -> tuple[bytes, int, int]:
    if min(image.size) > SHORT:
        image = with_short_side(image, SHORT)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue(), *image.size


def opened(path: Path) -> Picture:
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def drawn(sources: list[Path], name: str) -> list[tuple[str, Picture]]:
    transform = TRANSFORMATIONS[name]
    return [(path.name, transform(opened(path), random.Random(f"{name} {path.name}"))) for path in sources]


def only(dataset: Dataset, parts: list[str], folder: Path) -> Dataset:
    """A dataset of some of the shards and what was measured of them, without a copy of their bytes."""
    root = Path(dataset.url)
    for path in root.rglob("*"):
        if path.is_file() and path.name.split(".")[0] in parts:
            linked = folder / path.relative_to(root)
            linked.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, linked)
    return Dataset.open(str(folder))


# recall inside a pool


def in_order(shard: shards.Shard) -> pa.Table:
    """As the pictures were given: row by row of a transformation, the copies of the sources."""
    return shard.rows().sort_by("key")


def columns(dataset: Dataset, parts: list[str], signal: str) -> np.ndarray:
    """uint8 [n, bytes] of a hash, float32 [n, d] of an embedding, in the order of the pictures."""
    found = []
    for shard in dataset.shards:
        if shard.name in parts:
            uids = in_order(shard)["uid"].to_pylist()
            table = dataset.measured(shard, signal)
            place = {uid: at for at, uid in enumerate(table["uid"].to_pylist())}
            order = [place[uid] for uid in uids]
            if (vectors := Path(f"{dataset.url}/signals/{signal}/{shard.name}.npy")).exists():
                values = np.load(vectors).astype(np.float32)
            else:
                width = table.schema.field(signal).type.byte_width
                values = np.frombuffer(b"".join(code or bytes(width) for code in table[signal].to_pylist()), np.uint8)
                values = values.reshape(-1, width)
            found.append(values[order])
    return np.concatenate(found)


def gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 [len(a), len(b)]: bits that differ, or 1 - cosine similarity."""
    if a.dtype != np.uint8:
        return 1 - a @ b.T
    bits_a, bits_b = (np.unpackbits(codes, axis=1).astype(np.float32) for codes in (a, b))
    return bits_a.sum(1)[:, None] + bits_b.sum(1)[None] - 2 * bits_a @ bits_b.T


def blocks(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Distances of all pairs, each once."""
    for start in range(0, len(codes), 512):
        block = gaps(codes[start : start + 512], codes[start:])
        yield block[np.triu_indices(len(block), 1, block.shape[1])]


def threshold_at(codes: np.ndarray, rate: float) -> tuple[float, float]:
    """The loosest distance at which at most this share of pairs match, and the share that does; -1 where none is."""
    nearest = np.sort(np.concatenate([np.sort(block)[:20_000] for block in blocks(codes)]))
    pairs = len(codes) * (len(codes) - 1) // 2
    allowed = int(rate * pairs)
    if codes.dtype != np.uint8:
        return float(nearest[allowed - 1]), allowed / pairs
    limit = nearest[allowed] - 1  # the next one is one too many, with all that lie as far
    return float(limit), float((nearest <= limit).sum() / pairs)


def rate_of(codes: np.ndarray, limit: float) -> float:
    pairs = len(codes) * (len(codes) - 1) // 2
    return float(sum((block <= limit + 1e-9).sum() for block in blocks(codes)) / pairs)


def recalls(own: np.ndarray, copies: dict[str, np.ndarray], limit: float) -> dict[str, np.ndarray]:
    """bool [sources] of each transformation: whether the copy matches its source."""

    def distance(codes: np.ndarray) -> np.ndarray:
        if own.dtype != np.uint8:
            return 1 - (own * codes).sum(1)
        return np.bitwise_count(own ^ codes).sum(1)

    return {name: distance(codes) <= limit + 1e-9 for name, codes in copies.items()}


def in_a_pool(dataset: Dataset, originals: list[str], parts: dict[str, str], more: dict) -> dict:
    found: dict[str, dict] = {}
    hits: dict[str, dict[str, np.ndarray]] = {}
    measured = {signal: (columns(dataset, originals, signal), columns(dataset, ["sources"], signal),
                         {name: columns(dataset, [part], signal) for name, part in parts.items()})
                for signal in SIGNALS if signal not in ("exact", "trimmed")}  # fmt: skip
    whitening = fit(measured["embedding"][0])
    own, sources, copies = measured["embedding"]
    measured["embedding, whitened"] = (whitening.apply(own), whitening.apply(sources),
                                       {name: whitening.apply(codes) for name, codes in copies.items()})  # fmt: skip
    measured |= more
    for signal, (own, sources, copies) in measured.items():
        limit, rate = threshold_at(own, RATE)
        found[signal] = {"threshold": round(limit, 4), "false match rate": rate,
                         **shares(recalls(sources, copies, limit))}  # fmt: skip
    for signal, limit in (("pdq", 31), ("embedding, whitened", 1 - THRESHOLD)):
        own, sources, copies = measured[signal]
        hits[signal] = recalls(sources, copies, limit)
        found[f"curate, {signal} at its default"] = {
            "threshold": limit, "false match rate": rate_of(own, limit), **shares(hits[signal])}  # fmt: skip
    either = {name: hits["pdq"][name] | hits["embedding, whitened"][name] for name in parts}
    rate = found["curate, pdq at its default"]["false match rate"]
    rate += found["curate, embedding, whitened at its default"]["false match rate"]
    found["curate --signal pdq --signal embedding"] = {"false match rate": rate, **shares(either)}
    return found


def with_detector(dataset: Dataset, originals: list[str], parts: dict[str, str], run: str) -> dict:
    """A run of `train-clip --objective copy-detection` for the packaged network: alone, whitened, with PDQ."""
    dataset = measure(dataset, ["pdq", f"embedding(pretrained={run}, as=detector)"], "local(workers=1)")
    found, hits, rates = {}, {}, {}
    pdq, *copied = (columns(dataset, part, "pdq") for part in (originals, ["sources"]))
    own, sources = (columns(dataset, part, "detector") for part in (originals, ["sources"]))
    copies = {name: columns(dataset, [part], "detector") for name, part in parts.items()}
    whitening = fit(own)
    white = (whitening.apply(own), whitening.apply(sources), {n: whitening.apply(c) for n, c in copies.items()})
    for name, (every, asked, seen) in (("detector", (own, sources, copies)), ("detector, whitened", white)):
        limit, rates[name] = threshold_at(every, RATE)
        hits[name] = recalls(asked, seen, limit)
        found[name] = {"threshold": round(limit, 4), "false match rate": rates[name], **shares(hits[name])}
    limit, rate = threshold_at(pdq, RATE)
    hits["pdq"] = recalls(copied[0], {n: columns(dataset, [part], "pdq") for n, part in parts.items()}, limit)
    found["pdq"] = {"threshold": limit, "false match rate": rate, **shares(hits["pdq"])}
    either = {name: hits["pdq"][name] | hits["detector, whitened"][name] for name in parts}
    found["pdq or detector, whitened"] = {"false match rate": rate + rates["detector, whitened"], **shares(either)}
    return found


def shares(hits: dict[str, np.ndarray]) -> dict:
    each = {name: round(100 * float(hit.mean()), 1) for name, hit in hits.items()}
    return {"mean": round(sum(each.values()) / len(each), 2), "recall": each}


def thorough(dataset: Dataset, originals: list[str], sources: list[Path], folder: Path) -> dict:
    names = list(TRANSFORMATIONS)
    used = [names[at % len(names)] for at in range(len(sources))]
    only(dataset, originals, folder)
    pool = stored(folder, {"copies": [drawn([path], name)[0] for path, name in zip(sources, used, strict=True)]})
    rows = {row["uid"]: (shard.name, row["url"]) for shard in pool.shards for row in shard.rows().to_pylist()}
    found = {}
    for label, options in THOROUGH.items():
        start = time.process_time()
        done = dedup(pool, thorough=True, start="all", engine="local(workers=1)", **options)
        spent = time.process_time() - start
        groups = pq.read_table(folder / f"reports/duplicates-{done.selection}.parquet").to_pylist()
        matched = {frozenset([rows[group["keeper"]], rows[uid]]) for group in groups for uid in group["uids"]}
        hits: dict[str, list[bool]] = {name: [] for name in names}
        for path, name in zip(sources, used, strict=True):
            hits[name].append(frozenset([("sources", path.name), ("copies", path.name)]) in matched)
        false = sorted(sorted(f"{where}/{url}" for where, url in pair) for pair in matched
                       if len({url for _, url in pair}) == 2)  # fmt: skip
        pairs = len(rows) * (len(rows) - 1) // 2
        each = shares({name: np.array(hit) for name, hit in hits.items()})
        copies = sum(map(sum, hits.values())) / len(sources)
        found[label] = {**each, "mean": round(100 * copies, 2), "copies": len(sources), "false pairs": len(false),
                        "they are": false, "pairs": pairs, "false match rate": len(false) / pairs,
                        "cpu_s": round(spent, 1)}  # fmt: skip
    return found


# recall against a benchmark


def against(dataset: Dataset, others: list[str], parts: dict[str, str], benchmark: Path, folder: Path) -> dict:
    found = {}
    count = sum(len(shard.rows()) for shard in dataset.shards if shard.name in others)
    for label, options in AGAINST.items():
        each, false, start = {}, set(), time.process_time()
        images = len(list(benchmark.iterdir()))
        for name, part in parts.items():
            place = folder / part
            pool = only(dataset, [*others, part], place)
            if (kept := folder / f"work{len(found)}").exists():  # what was measured of the benchmark serves every run
                kept.rename(place / "work")
            dedup(pool, signals=("exact",), against=[str(benchmark)], engine="local(workers=1)", start="all", **options)
            matches = pq.read_table(place / f"reports/overlap-{benchmark.name}.parquet")
            urls = {uid: (shard.name, url) for shard in pool.shards for uid, url in
                    zip(shard.rows()["uid"].to_pylist(), shard.rows()["url"].to_pylist())}  # fmt: skip
            pairs = {(key, *urls[uid]) for key, uid in zip(matches["benchmark_key"].to_pylist(),
                                                          matches["uid"].to_pylist())}  # fmt: skip
            each[name] = len({url for key, where, url in pairs if where == part and Path(key).name == url}) / images
            false |= {pair for pair in pairs if pair[1] != part}
            wrong = {pair for pair in pairs if pair[1] == part and Path(pair[0]).name != pair[2]}
            (place / "work").rename(kept)
            shutil.rmtree(place)
            sys.stderr.write(f"{label}: {name}: {100 * each[name]:.1f} % (false {len(false)}, copies of others "
                             f"{len(wrong)})\n")  # fmt: skip
        found[label] = {"mean": round(100 * sum(each.values()) / len(each), 2),
                        "recall": {name: round(100 * share, 1) for name, share in each.items()},
                        "false pairs": len(false), "pairs": images * count,
                        "false match rate": len(false) / (images * count),
                        "cpu_s": round(time.process_time() - start, 1)}  # fmt: skip
    return found


def false_matches(dataset: Dataset, originals: list[str], held: list[Path], folder: Path) -> dict:
    """One run with some of all photographs as the benchmark, and all as the pool: garments against garments, too."""
    benchmark = folder / "held"
    benchmark.mkdir(parents=True)
    for path in held:
        opened(path).save(benchmark / path.name, "JPEG", quality=95)
    found = {}
    for label, options in AGAINST.items():
        place = folder / f"false{len(found)}"
        pool = only(dataset, originals, place)
        dedup(pool, signals=("exact",), against=[str(benchmark)], start="all", **options)
        urls = {uid: url for shard in pool.shards for uid, url in
                zip(shard.rows()["uid"].to_pylist(), shard.rows()["url"].to_pylist())}  # fmt: skip
        matches = pq.read_table(place / "reports/overlap-held.parquet").to_pylist()
        seen = {(Path(row["benchmark_key"]).name, urls[row["uid"]]): (row["signal"], row["distance"])
                for row in matches}  # fmt: skip
        unlike = {frozenset(pair): how for pair, how in seen.items() if len(set(pair)) == 2}
        pairs = len(held) * (len(urls) - len(held)) + len(held) * (len(held) - 1) // 2
        found[label] = {
            "own picture found": sum(len(set(pair)) == 1 for pair in seen) / len(held),
            "false pairs": len(unlike), "pairs": pairs, "false match rate": len(unlike) / pairs,
            "they are": [[*sorted(pair), *how] for pair, how in list(unlike.items())[:30]]}  # fmt: skip
        shutil.rmtree(place)
        sys.stderr.write(f"{label}: {len(unlike)} false of {pairs:,}\n")
    return found


# other tools


def imagededup_codes(files: dict[str, list[bytes]]) -> dict[str, np.ndarray] | None:
    """imagededup's own pHash (of another resizing than imagehash's), where it imports."""
    try:
        method = importlib.import_module("imagededup.methods").PHash(verbose=False)
    except ImportError:
        return None
    return {part: np.array([list(bytes.fromhex(method.encode_image(
        image_array=np.asarray(Image.open(io.BytesIO(data)))))) for data in images], np.uint8)
        for part, images in files.items()}  # fmt: skip


FASTDUP = """
import sys, fastdup, numpy
fastdup.run(sys.argv[1], sys.argv[2], run_mode=1, verbose=False)
names, features = fastdup.load_binary_feature(sys.argv[2] + "/atrain_features.dat", d=576)
numpy.savez(sys.argv[3], names=numpy.array(names), features=features)
"""


def fastdup_codes(python: str | None, files: dict[str, list[bytes]], folder: Path) -> dict[str, np.ndarray] | None:
    if not python:
        return None
    for part, images in files.items():
        (folder / "in" / part).mkdir(parents=True)
        for at, data in enumerate(images):
            (folder / "in" / part / f"{at:06d}.jpg").write_bytes(data)
    command = [python, "-c", FASTDUP, f"{folder}/in", f"{folder}/work", f"{folder}/features.npz"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"fastdup: {done.stderr[-2000:]}")
    held = np.load(f"{folder}/features.npz")
    vectors = held["features"] / np.linalg.norm(held["features"], axis=1, keepdims=True)
    place = {"/".join(name.split("/")[-2:]): vectors[at] for at, name in enumerate(held["names"].tolist())}
    return {part: np.array([place[f"{part}/{at:06d}.jpg"] for at in range(len(images))], np.float32)
            for part, images in files.items()}  # fmt: skip


def others_codes(dataset: Dataset, originals: list[str], parts: dict[str, str], python: str | None,
                 folder: Path) -> dict:  # fmt: skip
    files = {}
    for shard in dataset.shards:
        with shard.images() as encoded:
            files[shard.name] = [encoded[key] for key in in_order(shard)["key"].to_pylist()]
    found = {}
    for label, codes in (("imagededup PHash", imagededup_codes(files)),
                         ("fastdup", fastdup_codes(python, files, folder))):  # fmt: skip
        if codes is not None:
            found[label] = (np.concatenate([codes[part] for part in originals]), codes["sources"],
                            {name: codes[part] for name, part in parts.items()})  # fmt: skip
    return found


# the run


def photographs(folders: list[str]) -> list[Path]:
    """Without the second of each true copy that the folders hold."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*")
                   if path.suffix.lower() in (".jpg", ".jpeg") and path.stat().st_size > 1000)  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        pictures = [(str(path), opened(path)) for path in files]
        dataset = measure(stored(Path(place), {"all": pictures}), ["pdq"], "local")
        codes = columns(dataset, ["all"], "pdq")
    copies = set()
    for start in range(0, len(codes), 512):
        near = np.argwhere(gaps(codes[start : start + 512], codes) <= TRUE_COPY)
        copies |= {int(b) for a, b in near if b > a + start}
    return [path for at, path in enumerate(files) if at not in copies]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", default=SOURCES, help="folders; what is not drawn is a distractor")
    parser.add_argument("--distractors", nargs="+", default=DISTRACTORS, help="folders")
    parser.add_argument("--count", type=int, default=200, help="of the sources")
    parser.add_argument("--detector", help="a run of train-clip; only its part is measured")
    parser.add_argument("--fastdup", help="the Python of an environment with fastdup")
    parser.add_argument("--part", choices=PARTS, help="only this one, beside what the result holds already")
    parser.add_argument("--result", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.part = DETECTOR if options.detector else options.part
    photos = photographs([*options.sources, *options.distractors])
    held = [path for path in photos if any(path.is_relative_to(folder) for folder in options.sources)]
    sources = sorted(random.Random(0).sample(held, options.count))
    rest = [path for path in photos if path not in set(sources)]
    with tempfile.TemporaryDirectory(prefix="curate-benchmark-") as name:
        place = Path(name)
        parts = {name: f"t{at:02d}" for at, name in enumerate(TRANSFORMATIONS)}
        pictures = {"sources": [(path.name, opened(path)) for path in sources]}
        for at in range(0, len(rest), PER_SHARD):
            pictures[f"o{at // PER_SHARD:02d}"] = [(path.name, opened(path)) for path in rest[at : at + PER_SHARD]]
        others = [part for part in pictures if part != "sources"]
        stored(place / "all", pictures)
        alone = options.part in (THOROUGHLY, "false matches")  # needs no other copies, nothing measured
        for name, part in parts.items() if not alone else ():
            stored(place / "all", {part: drawn(sources, name)})
        benchmark = place / "sources"
        benchmark.mkdir()
        for path in sources:
            opened(path).save(benchmark / path.name, "JPEG", quality=95)
        dataset = Dataset.open(str(place / "all"))
        if not alone and options.part != DETECTOR:
            dataset = measure(dataset, SIGNALS, "local")
        originals = ["sources", *others]
        asked = random.Random(1).sample(photos, min(ASKED, len(photos)))
        run: dict[str, Callable[[], dict]] = {
            "inside a pool": lambda: in_a_pool(dataset, originals, parts, others_codes(
                dataset, originals, parts, options.fastdup, place / "fastdup")),
            THOROUGHLY: lambda: thorough(dataset, originals, sources, place / "thorough"),
            "against a benchmark": lambda: against(dataset, others, parts, benchmark, place / "pools"),
            "false matches": lambda: false_matches(dataset, originals, asked, place / "false"),
            DETECTOR: lambda: with_detector(dataset, originals, parts, options.detector),
        }  # fmt: skip
        before = json.loads(options.result.read_text()) if options.part else {}
        result = before | {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "versions": {package: version(package) for package in ("imagehash", "pdqhash", "faiss-cpu", "pillow")},
            "photographs": len(photos), "sources": len(sources), "distractors": len(rest),
            "transformations": len(TRANSFORMATIONS),
            **{part: run[part]() for part in ([options.part] if options.part else PARTS)},
        }  # fmt: skip
    print(table(result))
    options.result.write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict) -> str:
    lines = ["| | threshold | false match rate | mean recall |", "|---|---|---|---|"]
    for setting in (*PARTS, DETECTOR):
        for name, found in result.get(setting, {}).items():
            limit, mean = found.get("threshold", ""), f"{found['mean']} %" if "mean" in found else ""
            lines.append(f"| {setting}: {name} | {limit} | {found['false match rate']:.1e} | {mean} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
