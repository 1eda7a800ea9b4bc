"""Training and loading beside open_clip_train 3.3.0 (webdataset 0.2.86): the same tiny model, shards, batch, crop and
one thread, in turn, each run in a process of its own.

    pip install scikit-image scikit-learn 'webdataset==0.2.86'
    OMP_NUM_THREADS=1 python benchmarks/train_vs_open_clip.py [--samples 512] [--rounds 3]

Shards hold 256 px JPEGs (quality 95, crops of the photographs that scikit-image and scikit-learn carry) and captions of
4 to 30 words. CPU time is process_time around the loop alone; the first batch counts on both sides.

- loader: open_clip's get_wds_dataset with its image_transform, and curate's Loader with --crop random-resized.
- batch: a step a batch. accumulated: the same batch in 4 parts, open_clip's --accum-freq 4 and curate's --chunk.
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import open_clip
import open_clip_train.main
import torch
from hashing_vs_peers import PHOTOS, processor
from open_clip_train.data import get_wds_dataset
from PIL import Image
from train_gpu_vs_open_clip import PACKAGES, caption

from curate import shard as shards
from curate.clip import models
from curate.files import Folder
from curate.train import index, loop, run, sources
from curate.train.crops import CROPS
from curate.train.loader import Loader

RESULTS = Path(__file__).parent / "results"
CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "layers": 3, "width": 192},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3},
}
BATCH, PARTS, SIDE = 64, 4, 256


def draw(folder: Path, samples: int) -> None:
    """Four shards as img2dataset names them."""
    rng = np.random.default_rng(0)
    photos = [photo for path in PHOTOS if min((photo := Image.open(path).convert("RGB")).size) >= SIDE]
    folder.mkdir()
    for number in range(4):
        files = []
        for at in range(number, samples, 4):
            photo = photos[at % len(photos)]
            x, y = rng.integers(0, photo.width - SIDE + 1), rng.integers(0, photo.height - SIDE + 1)
            path = folder / "one.jpg"
            photo.crop((x, y, x + SIDE, y + SIDE)).save(path, quality=95)
            files += [(f"{at:06d}.jpg", path.read_bytes()), (f"{at:06d}.txt", caption(rng))]
            path.unlink()
        (folder / f"{number:05d}.tar").write_bytes(shards.tar_bytes(files))


def load_theirs(data: str, samples: int) -> float:
    """CPU seconds of one epoch."""
    args = argparse.Namespace(
        train_data=f"{data}/{{00000..00003}}.tar", train_num_samples=samples, dataset_resampled=False, seed=0,
        train_data_upsampling_factors=None, batch_size=BATCH, workers=0, world_size=1,
    )  # fmt: skip
    transform = open_clip.image_transform(224, is_train=True)
    loader = get_wds_dataset(args, transform, True, tokenizer=open_clip.SimpleTokenizer()).dataloader
    start = time.process_time()
    assert sum(len(pixels) for pixels, _ in loader) == samples
    return time.process_time() - start


def load_ours(data: str, samples: int, work: str) -> float:
    pairs = index.build(sources.of([data], None), Folder(f"{work}/cache"))
    tokenizer = models.tokenizer_of(CONFIG)
    loader = Loader(pairs, tokenizer, 224, BATCH, 0, 1, CROPS["random-resized"])
    start = time.process_time()
    assert sum(len(batch.pixels) for batch in loader.batches(0, samples // BATCH)) == samples
    return time.process_time() - start


def train_theirs(data: str, samples: int, work: str, parts: int) -> tuple[float, list[float]]:
    """(CPU seconds of one epoch, the loss of each step)."""
    seconds = []
    inner = open_clip_train.main.train_one_epoch

    def timed(*args, **options):
        start = time.process_time()
        inner(*args, **options)
        seconds.append(time.process_time() - start)

    open_clip_train.main.train_one_epoch = timed
    Path(work, "bench-tiny.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(Path(work, "bench-tiny.json"))
    open_clip_train.main.main([
        "--train-data", f"{data}/{{00000..00003}}.tar", "--train-num-samples", str(samples),
        "--dataset-type", "webdataset",
        "--model", "bench-tiny", "--batch-size", str(BATCH // parts), "--accum-freq", str(parts), "--epochs", "1",
        "--warmup", "2", "--lr", "5e-4", "--wd", "0.2", "--workers", "0", "--precision", "fp32", "--device", "cpu",
        "--logs", work, "--name", "peer", "--log-every-n-steps", "1",
    ])  # fmt: skip
    found = re.findall(r"Contrastive_loss: ([0-9.]+)", Path(work, "peer/out.log").read_text())
    return seconds[0], [float(loss) for loss in found]


def train_ours(data: str, samples: int, work: str, parts: int) -> tuple[float, list[float]]:
    seconds = []
    inner = loop.Trainer.train

    def timed(self):
        start = time.process_time()
        state = inner(self)
        seconds.append(time.process_time() - start)
        return state

    loop.Trainer.train = timed  # type: ignore[method-assign]
    Path(work, "bench-tiny.json").write_text(json.dumps(CONFIG))
    options = {"batch_size": BATCH, "epochs": 1, "lr": 5e-4, "warmup": 2, "workers": 1, "device": "cpu"}
    chunk = BATCH // parts if parts > 1 else None
    run([data], f"{work}/run", model=f"{work}/bench-tiny.json", crop="random-resized", chunk=chunk, **options)
    lines = Path(work, "run/log.jsonl").read_text().splitlines()
    return seconds[0], [json.loads(line)["loss"] for line in lines]


def child(what: str, side: str, data: str, samples: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        if what == "loader":
            seconds, losses = (
                (load_theirs(data, samples) if side == "open_clip" else load_ours(data, samples, work)),
                [],
            )
        else:
            train = train_theirs if side == "open_clip" else train_ours
            seconds, losses = train(data, samples, work, PARTS if what == "accumulated" else 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "losses": losses, "peak_mb": peak}))


def measured(what: str, side: str, data: Path, samples: int) -> dict:
    done = subprocess.run([sys.executable, __file__, "--child", what, side, str(data), str(samples)],
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compared(what: str, data: Path, samples: int, rounds: int) -> dict:
    """Both sides in turn."""
    found: dict[str, list[dict]] = {"open_clip": [], "curate": []}
    for _ in range(rounds):
        for side, runs in found.items():
            runs.append(measured(what, side, data, samples))
    ratios = [theirs["seconds"] / ours["seconds"] for theirs, ours in zip(*found.values(), strict=True)]
    sides = {
        side: {
            "samples_per_cpu_second": round(samples / statistics.median(each["seconds"] for each in runs), 1),
            "peak_mb": round(statistics.median(each["peak_mb"] for each in runs)),
            "losses": [round(loss, 3) for loss in runs[0]["losses"]],
        }
        for side, runs in found.items()
    }
    return {**sides, "times": round(statistics.median(ratios), 2), "least": round(min(ratios), 2),
            "most": round(max(ratios), 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        child(*options.child[:3], int(options.child[3]))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "shards-of-benchmark")
        draw(data, options.samples)
        rows = {
            what: compared(what, data, options.samples, options.rounds) for what in ("loader", "batch", "accumulated")
        }
    result = {
        "what": f"CPU time of one epoch, one thread: {SIDE} px JPEGs to batches of {BATCH} (loader), and steps of a "
                "tiny ViT/32 on them; times: open_clip's CPU seconds over curate's, in turn",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                    "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
        "samples": options.samples, "rounds": options.rounds, "rows": rows,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "train_vs_open_clip.json").write_text(json.dumps(result, indent=1) + "\n")
    for what, row in rows.items():
        print(f"{what:12} x{row['times']} ({row['least']} to {row['most']}), samples per CPU second: "
              f"open_clip {row['open_clip']['samples_per_cpu_second']}, "
              f"curate {row['curate']['samples_per_cpu_second']}")  # fmt: skip


if __name__ == "__main__":
    main()
