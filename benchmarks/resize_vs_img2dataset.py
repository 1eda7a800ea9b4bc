"""One encoded image to a small JPEG: curate's three ways of decoding against img2dataset's resizer, time and pixels.

    pip install img2dataset==1.47.0 scikit-image scikit-learn     # on Python 3.11 or 3.12
    python benchmarks/resize_vs_img2dataset.py [--photos FOLDER]

Images are those of download_vs_img2dataset.py; a folder of other photographs may be given beside them. Times are CPU
time, in turn in one process, and each contestant in a process of its own: there img2dataset pays for page faults that
curate avoids (curate/memory.py), which in one process serves both. Pixels are compared as decoded from
the JPEG that is stored. Two changes that nobody minds are measured alike: quality 90 in place of 95, and Pillow's
bicubic reduction in place of averaging by area.
"""

import argparse
import datetime
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import download_vs_img2dataset as download
import numpy as np
from PIL import Image

from curate.harvest.pixels.resize import MARGIN, Resizer
from curate.images import UndecodableImage

RESULTS = Path(__file__).parent / "results"
SIZE, QUALITY = 256, 95
STOCK = "img2dataset"
SETS = {"uni": "JPEG 1024 x 768", "mix": "mixed"}
PACKAGES = ("img2dataset", "albumentations", "opencv-python-headless", "simplejpeg", "pillow",
            "efficientnet-lite-pytorch")  # fmt: skip


def stock(quality: int = QUALITY) -> Callable[[bytes], bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resizer = importlib.import_module("img2dataset.resizer").Resizer(
            SIZE, "keep_ratio", True, encode_quality=quality
        )
    return lambda encoded: resizer(io.BytesIO(encoded))[0]


def bicubic(encoded: bytes) -> bytes:
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    scale = min(1, SIZE / min(image.size))
    buffer = io.BytesIO()
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    small.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def contestant(name: str) -> Callable[[bytes], bytes]:
    if name == STOCK:
        return stock()
    resizer = Resizer(SIZE, QUALITY, 0, name)
    return lambda encoded: resizer(encoded).jpeg


def milliseconds(resize: Callable[[bytes], bytes], images: list[bytes]) -> float:
    start = time.process_time()
    for image in images:
        resize(image)
    return 1000 * (time.process_time() - start) / len(images)


def in_turn(sets: dict[str, list[bytes]], rounds: int) -> dict[str, dict[str, float]]:
    """CPU ms an image, the best round; all in one process."""
    peers = {name: contestant(name) for name in (STOCK, *MARGIN)}
    found: dict[str, dict[str, list[float]]] = {label: {name: [] for name in peers} for label in sets}
    for _ in range(rounds):
        for label, images in sets.items():
            for name, resize in peers.items():
                found[label][name].append(milliseconds(resize, images))
    return {label: {name: round(min(times), 2) for name, times in row.items()} for label, row in found.items()}


def alone(folder: str, rounds: int) -> dict[str, dict[str, float]]:
    """The same, each contestant in a process of its own."""
    found: dict[str, dict[str, float]] = {label: {} for label in SETS}
    for label in SETS:
        for name in (STOCK, *MARGIN):
            command = [sys.executable, __file__, "--rounds", str(rounds), "--alone", name, f"{folder}/{label}"]
            found[label][name] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def differences(images: list[bytes]) -> dict[str, dict[str, float]]:
    """Each way of resizing against img2dataset's, over the JPEG files among `images`."""
    import imagehash  # not by the processes that only take the time

    from curate.signals import embedding

    ways = {name: contestant(name) for name in MARGIN} | {"quality 90": stock(90), "bicubic": bicubic}
    usable = [image for image in images if _sound(image)]
    wanted = [pixels(stock()(image)) for image in usable]
    network = embedding.Signal().encoder
    vectors = directions(network, wanted)
    table = {}
    for name, resize in ways.items():
        found = [pixels(resize(image)) for image in usable]
        drift = 1 - (directions(network, found) * vectors).sum(axis=1)
        pairs = list(zip(found, wanted))
        bits = [imagehash.phash(Image.fromarray(one)) - imagehash.phash(Image.fromarray(two)) for one, two in pairs]
        levels = [np.abs(one.astype(int) - two).mean() for one, two in pairs]
        table[name] = {
            "images": len(pairs), "equal": sum(np.array_equal(one, two) for one, two in pairs),
            "mean_difference": statistics.mean(levels), "most_mean_difference": max(levels),
            "psnr": statistics.median(psnr(one, two) for one, two in pairs),
            "phash_bits": float(np.mean(bits)), "most_phash_bits": max(bits),
            "cosine_distance": float(drift.mean()), "most_cosine_distance": float(drift.max()),
        }  # fmt: skip
    return {name: {key: round(float(value), 5) for key, value in row.items()} for name, row in table.items()}


def _sound(image: bytes) -> bool:
    try:
        return image[:2] == b"\xff\xd8" and Resizer(SIZE, QUALITY, 32)(image).jpeg is not None and _upright(image)
    except UndecodableImage:
        return False


def _upright(image: bytes) -> bool:
    return Image.open(io.BytesIO(image)).getexif().get(0x0112, 1) in (0, 1)  # img2dataset leaves the others lying


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    error = np.square(one.astype(float) - two).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def directions(network: Callable[[list[np.ndarray]], np.ndarray], images: list[np.ndarray]) -> np.ndarray:
    found = np.concatenate([network(images[at : at + 4]) for at in range(0, len(images), 4)]).astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", help="a folder of JPEG files to compare the pixels of, too")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        name, folder = options.alone
        images = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        resize = contestant(name)
        print(round(min(milliseconds(resize, images) for _ in range(options.rounds)), 2))
        return
    with tempfile.TemporaryDirectory() as folder:
        names = download.draw(Path(folder), options.images, 0)
        sets = {label: [(Path(folder) / name).read_bytes() for name in sorted(names[label])] for label in SETS}
        times = {"in one process": in_turn(sets, options.rounds), "each alone": alone(folder, options.rounds)}
    pictures = {SETS[label]: images for label, images in sets.items()}
    if options.photos:
        paths = sorted(path for path in Path(options.photos).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        pictures["other photographs"] = [path.read_bytes() for path in paths]
    result = {
        "what": "an encoded image to a JPEG of 256 pixels on the short side, quality 95; CPU ms an image, best round",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": download.processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                    "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
        "images": {SETS[label]: {"count": len(images), "mean_kb": round(sum(map(len, images)) / len(images) / 1e3, 1)}
                   for label, images in sets.items()},
        "milliseconds": {how: {SETS[label]: row for label, row in rows.items()} for how, rows in times.items()},
        "difference": {label: differences(images) for label, images in pictures.items()},
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "resize_vs_img2dataset.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
