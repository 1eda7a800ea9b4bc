"""How many photographs each rule removes from a folder of photographs that are nearly all different.

    OMP_NUM_THREADS=1 python benchmarks/dedup_real_photos.py [--embedding] [--thorough] FOLDER [FOLDER ...]

The result in results/ is of 5,286 photographs: BSDS500 (github.com/BIDS/BSDS500), one of each ImageNet class
(github.com/EliSchwartz/imagenet-sample-images) and garments (github.com/alexeygrigorev/clothing-dataset-small), of
which five stand there twice and one more in two classes. Pictures are stored with a short side of 256 pixels,
as harvest would. "imagededup's rule": phash of at most 10 bits, and all that a chain of matches connects is one group.
Of a rule that removes few the pairs are listed, for a look at them.
"""

import argparse
import datetime
import io
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
from PIL import Image, ImageOps

from curate import shard as shards
from curate.dataset import Dataset
from curate.dedup import calibrate
from curate.dedup import run as dedup
from curate.files import Folder

RESULTS = Path(__file__).parent / "results" / "dedup_real_photos.json"
PER_SHARD = 500
SHORT = 256
FEW = 40  # removed photographs whose pairs are listed
RULES: dict[str, dict] = {
    "curate's default: exact, pdq at 31 bits": {},
    "exact alone": {"signals": ("exact",)},
    "exact, phash at 4 bits": {"signals": ("exact", "phash")},
    "phash at 8 bits": {"signals": ("phash",), "thresholds": {"phash": 8}},
    "phash at 8 bits, closure": {"signals": ("phash",), "thresholds": {"phash": 8}, "closure": True},
    "phash at 10 bits": {"signals": ("phash",), "thresholds": {"phash": 10}},
    "phash at 10 bits, closure: imagededup's rule": {
        "signals": ("phash",),
        "thresholds": {"phash": 10},
        "closure": True,
    },
}
BY_EMBEDDING: dict[str, dict] = {
    "exact, pdq, embedding (whitened, at 0.8)": {"signals": ("exact", "pdq", "embedding"), "whiten": True},
    "exact, pdq, embedding (as they are, at 0.95)": {"signals": ("exact", "pdq", "embedding"), "whiten": False},
}
THOROUGH: dict[str, dict] = {
    "curate's default, --thorough": {"thorough": True},
    "the same, --no-verify": {"thorough": True, "verify": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--embedding", action="store_true", help="The packaged network too: minutes of CPU.")
    parser.add_argument("--thorough", action="store_true", help="Also compare views and local features: minutes too.")
    options = parser.parse_args()
    files = sorted(path for folder in options.folders for path in Path(folder).rglob("*") if is_photo(path))
    rules = {**RULES, **(BY_EMBEDDING if options.embedding else {}), **(THOROUGH if options.thorough else {})}
    signals = ("pdq", "phash", *(["embedding"] if options.embedding else []))
    with tempfile.TemporaryDirectory() as place:
        dataset = stored(files, Folder(place))
        removed = {name: told(dataset, rule) for name, rule in rules.items()}
        rates = calibrate(dataset, signals, engine=f"local(workers={os.cpu_count()})")
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "photographs": len(files),
        "rules": removed,
        "thresholds for 0.01 false partners": {
            name: {key: of[key] for key in ("threshold", "extrapolated")}
            for name, of in rates.history[-1]["counts"]["calibration"].items()
        },
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def is_photo(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg") and path.is_file()


def stored(files: list[Path], folder: Folder) -> Dataset:
    for start in range(0, len(files), PER_SHARD):
        rows, members = [], []
        for number, path in enumerate(files[start : start + PER_SHARD], start):
            key, (jpeg, width, height) = f"{number:09d}", reduced(path)
            members.append((f"{key}.jpg", jpeg))
            rows.append({"uid": shards.uid_of(str(path), key), "key": key, "url": "/".join(path.parts[-2:]),
                         "caption": path.stem, "status": "success", "width": width, "height": height})  # fmt: skip
        name = f"{start // PER_SHARD:05d}"
        shards.write(folder, name, shards.tar_bytes(members), pa.Table.from_pylist(rows), {})
    return Dataset.open(folder.url)


def reduced(path: Path) -> tuple[bytes, int, int]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    scale = SHORT / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue(), *image.size


def told(dataset: Dataset, rule: dict) -> dict:
    done = dedup(dataset, start="all", engine=f"local(workers={os.cpu_count()})", **rule)
    counts = done.history[-1]["counts"]
    groups = done.folder.read_table(f"reports/duplicates-{done.selection}.parquet").to_pylist()
    removed = counts["of"] - counts["kept"]
    found = {"removed": removed, "by": counts["duplicates"],
             "largest group": max((group["size"] for group in groups), default=1)}  # fmt: skip
    return {**found, **({"pairs": listed(done, groups)} if removed <= FEW else {})}


def listed(dataset: Dataset, groups: list[dict]) -> list[list]:
    """[photograph that stays, one that goes, signal, distance], by name."""
    tables = [shard.rows().select(["uid", "url"]) for shard in dataset.shards]
    name = {row["uid"]: row["url"] for table in tables for row in table.to_pylist()}
    return sorted([name[group["keeper"]], name[uid], signal, distance] for group in groups
                  for uid, signal, distance in zip(group["uids"], group["signals"], group["distances"]))  # fmt: skip


if __name__ == "__main__":
    main()
