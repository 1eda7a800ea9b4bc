"""The hashes of dedup against imagehash, pdqhash and imagededup: images for each CPU second, one process, interleaved.

    pip install pdqhash scikit-image scikit-learn
    pip install --no-deps --target peers imagededup matplotlib contourpy cycler fonttools kiwisolver   # if wanted
    PYTHONPATH=peers OMP_NUM_THREADS=1 python benchmarks/hashing_vs_peers.py

Pictures: random crops of the photographs that scikit-image and scikit-learn carry, as JPEGs of quality 95, once with a
short side of 256 pixels and once as large as they are. Everyone starts from the bytes of a file. Ours are the signals
as `curate measure` runs them; the SHA-256, the hash of the pixels, the thumbprint and PDQ's quality come on top. All
bits are compared before anything is timed; a difference ends the run.
"""

import argparse
import datetime
import importlib
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import imagehash
import numpy as np
import pdqhash
import pyarrow as pa
import skimage
import sklearn
from PIL import Image

from curate import named
from curate.rows import Rows

RESULTS = Path(__file__).parent / "results"
SKIMAGE, SKLEARN = (Path(package.__file__).parent for package in (skimage, sklearn))
PHOTOS = [
    *(SKIMAGE / "data" / name for name in (
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
        "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg",
        "rocket.jpg")),
    *(SKLEARN / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg")),
]  # fmt: skip
SHAPES = (1, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9)
EVERYTHING = ("exact", "phash", "dhash", "whash", "pdq", "thumbprint")
HASHES = ("phash", "dhash", "whash")
CHUNK = 34  # images
Method = Callable[[list[bytes]], object]


def crops(count: int, short_side: int | None, seed: int = 0) -> list[bytes]:
    """JPEGs of random parts of the photographs, half of the side to all of it."""
    rng = np.random.default_rng(seed)
    photos = [Image.open(path).convert("RGB") for path in PHOTOS]
    files = []
    for number in range(count):
        photo, shape = photos[number % len(photos)], rng.choice(SHAPES)
        width = int(rng.uniform(0.5, 1) * min(photo.width, photo.height * shape))
        height = min(photo.height, int(width / shape))
        x, y = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
        part = photo.crop((x, y, x + width, y + height))
        if short_side:
            scale = short_side / min(part.size)
            part = part.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        part.save(buffer, "JPEG", quality=95)
        files.append(buffer.getvalue())
    return files


def curate(names: tuple[str, ...]) -> Method:
    signals = [named.load("signals", name) for name in names]

    def run(files: list[bytes]) -> dict[str, pa.Array]:
        rows = Rows(None, files)
        return {name: values for signal in signals for name, values in signal.measure(rows).items()}

    return run


def by_imagehash(name: str) -> Callable[[Image.Image], object]:
    return lambda image: getattr(imagehash, name)(image)


def by_pdqhash(image: Image.Image) -> tuple[np.ndarray, int]:
    return pdqhash.compute(np.asarray(image.convert("RGB")))


def peers(functions: list[Callable[[Image.Image], object]], once: bool) -> Method:
    """Every function on every file, which is opened for each of them, or once for all."""

    def run(files: list[bytes]) -> None:
        for file in files:
            shared = Image.open(io.BytesIO(file)).convert("RGB") if once else None
            for function in functions:
                function(shared or Image.open(io.BytesIO(file)))

    return run


def by_imagededup(folder: Path, files: list[bytes]) -> Method | str:
    """imagededup's three hashes from files, its documented use, or why it cannot be asked."""
    try:
        methods = importlib.import_module("imagededup.methods")
    except ImportError as error:
        return f"left out, it does not import here: {error}"
    encoders = [getattr(methods, name)(verbose=False) for name in ("PHash", "DHash", "WHash")]
    paths = {file: str(folder / f"{number}.jpg") for number, file in enumerate(files)}
    for file, path in paths.items():
        Path(path).write_bytes(file)

    def run(some: list[bytes]) -> None:
        for file in some:
            for encoder in encoders:
                encoder.encode_image(image_file=paths[file])

    return run


def check(files: list[bytes]) -> None:
    """End the run where a bit differs from imagehash or pdqhash."""
    ours = {name: values.to_pylist() for name, values in curate(EVERYTHING)(files).items()}
    for number, file in enumerate(files):
        image = Image.open(io.BytesIO(file)).convert("RGB")
        for name in HASHES:
            if ours[name][number].hex() != str(getattr(imagehash, name)(image)):
                raise SystemExit(f"{name} of picture {number} is not imagehash's")
        bits, quality = by_pdqhash(image)
        if (ours["pdq"][number], ours["pdq_quality"][number]) != (np.packbits(bits).tobytes(), quality):
            raise SystemExit(f"pdq of picture {number} is not pdqhash's")


def compare(files: list[bytes], rounds: int, folder: Path) -> dict:
    singles = {name: [by_imagehash(name)] for name in HASHES} | {"pdq": [by_pdqhash]}
    everything = [function for functions in singles.values() for function in functions]
    methods: dict[str, Method] = {
        "curate, all": curate(EVERYTHING),
        "imagehash and pdqhash, each from the file": peers(everything, once=False),
        "imagehash and pdqhash, decoded once": peers(everything, once=True),
    }
    pairs = {"all, peers each from the file": tuple(methods)[:2], "all, peers decoded once": tuple(methods)[::2]}
    for name, functions in singles.items():
        methods |= {f"curate, {name}": curate((name,)), f"peer, {name}": peers(functions, once=False)}
        pairs[f"{name} alone"] = (f"curate, {name}", f"peer, {name}")
    dedup = by_imagededup(folder, files)
    if not isinstance(dedup, str):
        methods |= {"curate, three hashes": curate(HASHES), "imagededup, three hashes": dedup}
        pairs["phash, dhash, whash, against imagededup"] = ("curate, three hashes", "imagededup, three hashes")
    seconds = {name: [0.0] * rounds for name in methods}
    for number in range(-1, rounds):  # the first warms up
        for at in range(0, len(files), CHUNK):  # chunk by chunk, since the speed of a busy machine drifts
            for name, method in methods.items():
                start = time.process_time()
                method(files[at : at + CHUNK])
                if number >= 0:
                    seconds[name][number] += time.process_time() - start
    return {
        "images": len(files),
        "mean_kb": round(sum(map(len, files)) / len(files) / 1e3, 1),
        "images_per_cpu_second": {name: round(len(files) / statistics.median(s)) for name, s in seconds.items()},
        "times_as_many": {
            name: {
                "median": round(statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs])), 2),
                "range": [
                    round(limit(b / a for a, b in zip(seconds[ours], seconds[theirs])), 2) for limit in (min, max)
                ],
            }
            for name, (ours, theirs) in pairs.items()
        },
        "imagededup": dedup if isinstance(dedup, str) else "measured; its hashes are others than imagehash's",
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=340)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    sets = {"256 pixels": crops(options.images, 256), "as large as they are": crops(options.images // 4, None)}
    results = {}
    for name, files in sets.items():
        check(files)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = compare(files, options.rounds, Path(folder))
    packages = ("imagehash", "pdqhash", "pillow", "simplejpeg", "numpy", "scipy", "opencv-python-headless")
    result = {
        "what": "hashes of JPEGs in memory, one process, CPU time (process_time), interleaved; all bits equal",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                    "python": platform.python_version()},
        "versions": {name: version(name) for name in packages},
        "sets": results,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "hashing_vs_peers.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
