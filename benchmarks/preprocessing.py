"""From the bytes of a JPEG to the 224 x 224 pixels that CLIP sees: time and pixels of several ways against open_clip's.

    pip install scikit-image scikit-learn
    OMP_NUM_THREADS=1 python benchmarks/preprocessing.py [--photos FOLDER]

Images: random crops of the photographs that scikit-image and scikit-learn carry, 512 x 512 and 256 x 256 at quality 95,
1024 x 768 at quality 90; a folder of other JPEG files may be given beside them. Every way ends with uint8 RGB pixels,
which a model normalises on its device (open_clip's ends with normalised floats: their making counts, since its loop
makes them; for the comparison they are turned back). CPU time, one thread, in turn, the best of the rounds. Differences
are in levels of 255, over all images: the mean, the largest, and the mean of the worst image.
"""

import argparse
import datetime
import io
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import open_clip
import simplejpeg
import torch
from hashing_vs_peers import PHOTOS, processor
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as TF

from curate import images
from curate.clip.encoders import resized

RESULTS = Path(__file__).parent / "results"
SIDE = 224
SETS = {"256 x 256": (256, 256, 95), "512 x 512": (512, 512, 95), "1024 x 768": (1024, 768, 90)}
PACKAGES = ("open_clip_torch", "torch", "torchvision", "pillow", "simplejpeg", "opencv-python-headless")
TRANSFORM = open_clip.image_transform(SIDE, is_train=False)
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
Way = Callable[[bytes], torch.Tensor]  # -> [3, 224, 224]


def by_open_clip(encoded: bytes) -> torch.Tensor:
    return TRANSFORM(Image.open(io.BytesIO(encoded)))


def by_curate(encoded: bytes) -> torch.Tensor:
    return resized(images.decode(encoded), SIDE)


def by_torchvision(encoded: bytes) -> torch.Tensor:
    pixels = decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), ImageReadMode.RGB)
    return TF.center_crop(TF.resize(pixels, [SIDE], TF.InterpolationMode.BICUBIC, antialias=True), [SIDE, SIDE])


def by_pillow_uint8(encoded: bytes) -> torch.Tensor:
    """The crop as the box of one resize: Pillow reads no pixel that will be cut off."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def by_pillow_draft(encoded: bytes) -> torch.Tensor:
    """JPEG decoded at a half, a quarter or an eighth, then as open_clip."""
    image = Image.open(io.BytesIO(encoded))
    image.draft("RGB", (SIDE, SIDE))
    return TRANSFORM(image)


def by_cv2(interpolation: int) -> Way:
    def way(encoded: bytes) -> torch.Tensor:
        pixels = simplejpeg.decode_jpeg(encoded, "RGB")
        scale = SIDE / min(pixels.shape[:2])  # whole pixels are cut, not rounded, as torchvision does
        size = [int(side * scale) for side in pixels.shape[1::-1]]
        small = cv2.resize(pixels, size, interpolation=interpolation)
        top, left = (small.shape[0] - SIDE) // 2, (small.shape[1] - SIDE) // 2
        return torch.from_numpy(small[top : top + SIDE, left : left + SIDE].copy()).permute(2, 0, 1)

    return way


WAYS: dict[str, Way] = {
    "open_clip's transform (Pillow, float)": by_open_clip,
    "curate (simplejpeg, torchvision uint8)": by_curate,
    "torchvision (decode_jpeg, uint8)": by_torchvision,
    "Pillow, crop as a box, uint8": by_pillow_uint8,
    "Pillow, JPEG decoded smaller (draft)": by_pillow_draft,
    "cv2 INTER_AREA": by_cv2(cv2.INTER_AREA),
    "cv2 INTER_CUBIC (no antialias)": by_cv2(cv2.INTER_CUBIC),
}


def crops(count: int, width: int, height: int, quality: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    photos = [photo for path in PHOTOS if (photo := Image.open(path).convert("RGB")).width >= 400]
    files = []
    for number in range(count):
        photo = photos[number % len(photos)]
        scale = max(1.0, width / photo.width, height / photo.height)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
        x, y = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
        buffer = io.BytesIO()
        photo.crop((x, y, x + width, y + height)).save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """float [3, 224, 224] in levels of 255, of uint8 or of normalised pixels."""
    return pixels.float() if pixels.dtype == torch.uint8 else ((pixels * STD + MEAN) * 255).round()


def compare(files: list[bytes], rounds: int) -> dict[str, dict[str, float]]:
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for name, way in WAYS.items():
            start = time.process_time()
            for file in files:
                way(file)
            best[name] = min(best[name], time.process_time() - start)
    wanted = [levels(by_open_clip(file)) for file in files]
    table = {}
    for name, way in WAYS.items():
        far = torch.stack([(levels(way(file)) - one).abs() for file, one in zip(files, wanted)])
        table[name] = {
            "cpu_ms": round(1000 * best[name] / len(files), 2),
            "mean_difference": round(float(far.mean()), 4),
            "largest_difference": int(far.max()),
            "mean_of_worst_image": round(float(far.mean(dim=(1, 2, 3)).max()), 4),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", help="a folder of JPEG files to take beside")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sets = {name: crops(options.images, *shape) for name, shape in SETS.items()}
    if options.photos:
        paths = sorted(path for path in Path(options.photos).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        sets["other photographs"] = [path.read_bytes() for path in paths[: options.images]]
    tables = {name: compare(files, options.rounds) for name, files in sets.items()}
    for name, table in tables.items():
        print(name)
        for way, row in table.items():
            print(f"  {way:40}" + "".join(f"  {key} {value:<7}" for key, value in row.items()))
    result = {
        "what": "a JPEG in memory to 224 x 224 pixels; CPU ms an image (process_time, one thread, best round); "
        "differences from open_clip's transform in levels of 255",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                    "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
        "images": {name: {"count": len(files), "mean_kb": round(sum(map(len, files)) / len(files) / 1e3, 1)}
                   for name, files in sets.items()},
        "ways": tables,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "preprocessing.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
