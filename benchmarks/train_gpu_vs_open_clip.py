"""CLIP's models trained on one GPU: curate by its defaults and with --compile, beside open_clip_train 3.3.0.

    python benchmarks/train_gpu_vs_open_clip.py [--models ViT-B-32 RN50] [--batches 2048 32768]

`make gpu-check` runs it where there is a GPU. All read the same shards (256 px JPEGs of noise in octaves, which cost as
much to decode as photographs, captions of 4 to 30 words), crop alike, use bf16 and every core, and run in turn
in a process of their own. A batch that does not fit is cut into parts: by curate as it sees fit, by open_clip with
--accum-freq, into the fewest parts (a power of two, of at most 2,048 pairs: each of its loader's workers holds several
of them as fp32) that do not end in out of memory. Samples a second of wall time from the end of the second step to the
end of the last, the GPU waited for after each; peak memory as torch's allocator counts it. A side's numbers are written
as it ends; one that fails is named, and the others go on. `--device cpu` tries the script, not the GPU.
"""

import argparse
import datetime
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from curate import shard
from curate.train import run

RESULTS = Path(__file__).parent / "results" / "train_gpu_vs_open_clip.json"
SIDES = ("open_clip", "curate", "curate --compile")
PACKAGES = ("torch", "torchvision", "open_clip_torch", "webdataset", "pillow", "simplejpeg")
SHARDS, DRAWN = 16, 4  # tars of an epoch, and those of them that are drawn: the others are the same again
SAMPLES = 131_072
PICTURES, SIDE = 256, 256
MOST_PARTS, LARGEST_PART = 256, 2048
SECONDS = 400  # that one side may take
OUT_OF_MEMORY = 3  # exit code of a child
WORDS = """a photo of the with and in on red blue green old new small large dog cat house river mountain street market
sunset portrait wooden table vintage poster detail handmade ceramic free shipping wallpaper 2019""".split()  # noqa: SIM905


def shards(folder: Path, samples: int) -> str:
    """SHARDS tars with so many samples together."""
    data, rng = folder / f"shards-{samples}", np.random.default_rng(0)
    data.mkdir()
    pictures = [picture(rng) for _ in range(PICTURES)]
    for number in range(SHARDS):
        path = data / f"{number:05d}.tar"
        if number >= DRAWN:
            os.link(data / f"{number % DRAWN:05d}.tar", path)
            continue
        files = []
        for at in range(samples // SHARDS):
            files += [(f"{at:06d}.jpg", pictures[at % PICTURES]), (f"{at:06d}.txt", caption(rng))]
        path.write_bytes(shard.tar_bytes(files))
    return str(data)


def caption(rng: np.random.Generator) -> bytes:
    return " ".join(rng.choice(WORDS, rng.integers(4, 31))).encode()


def picture(rng: np.random.Generator) -> bytes:
    """A JPEG of noise, the coarser the stronger."""
    pixels = np.zeros((SIDE, SIDE, 3))
    for octave in (4, 16, 64, 256):
        noise = Image.fromarray(rng.integers(0, 256, (octave, octave, 3), np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        pixels += np.asarray(noise) / octave**0.5
    file = io.BytesIO()
    Image.fromarray((pixels * 255 / pixels.max()).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def train_theirs(data: str, work: str, model: str, batch: int, steps: int, parts: int, device: str) -> list[float]:
    """The losses."""
    import open_clip_train.main  # seconds, of this side alone

    samples, workers = batch * steps, loaders(batch // parts) if device == "cuda" else 0
    open_clip_train.main.main([
        "--train-data", f"{data}/{{00000..{SHARDS - 1:05d}}}.tar", "--train-num-samples", str(samples),
        "--dataset-type", "webdataset", "--dataset-resampled",
        "--model", model, "--batch-size", str(batch // parts), "--accum-freq", str(parts), "--epochs", "1",
        "--warmup", "2", "--lr", "5e-4", "--wd", "0.2", "--workers", str(workers), "--device", device,
        "--precision", "amp_bf16" if device == "cuda" else "fp32",
        "--logs", work, "--name", "peer", "--log-every-n-steps", "1", "--save-frequency", "0",
    ])  # fmt: skip
    return [float(loss) for loss in re.findall(r"Contrastive_loss: ([0-9.]+)", Path(work, "peer/out.log").read_text())]


def loaders(part: int) -> int:
    """Workers that open_clip's loader can have here: each holds about four batches as fp32, two of them in /dev/shm."""
    batch, place = part * 3 * 224 * 224 * 4, os.statvfs("/dev/shm")
    memory, shared = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), place.f_bavail * place.f_frsize
    return max(1, min(os.cpu_count() or 1, SHARDS, memory // 2 // (4 * batch), shared // (2 * batch)))


def train_ours(data: str, work: str, model: str, batch: int, steps: int, device: str, compiled: bool) -> list[float]:
    run([data], f"{work}/run", model=model, batch_size=batch, epochs=1, lr=5e-4, warmup=2, device=device,
        crop="random-resized", compiled=compiled)  # fmt: skip
    lines = Path(work, "run/log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines[:steps]]


def child(side: str, data: str, model: str, batch: int, steps: int, parts: int, device: str) -> None:
    """One side's training; prints what was measured, or ends with OUT_OF_MEMORY."""
    ended = []

    def note(*_: object) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        ended.append(time.perf_counter())

    register_optimizer_step_post_hook(note)
    with tempfile.TemporaryDirectory() as work:
        try:
            if side == "open_clip":
                losses = train_theirs(data, work, model, batch, steps, parts, device)
            else:
                losses = train_ours(data, work, model, batch, steps, device, side.endswith("--compile"))
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):
                sys.exit(OUT_OF_MEMORY)
            raise
    rate = batch * (len(ended) - 2) / (ended[-1] - ended[1])
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    print(json.dumps({"samples_per_s": round(rate, 1), "steps": len(ended), "peak_gb": peak and round(peak, 2),
                      "parts": parts if side == "open_clip" else None, "losses": losses}))  # fmt: skip


def measured(side: str, data: str, model: str, batch: int, steps: int, device: str) -> dict:
    """What a side's process measured, or why it did not."""
    parts = -(-batch // LARGEST_PART) if side == "open_clip" else 1
    while True:
        given = json.dumps([side, data, model, batch, steps, parts, device])
        command = [sys.executable, __file__, "--child", given]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return {"failed": f"took longer than {SECONDS} s"}
        if done.returncode == OUT_OF_MEMORY and side == "open_clip" and parts < MOST_PARTS:
            parts *= 2
        elif done.returncode:
            return {"failed": f"exit code {done.returncode}: {done.stderr[-1000:]}"}
        else:
            return json.loads(done.stdout.splitlines()[-1])


def keep(rows: dict[str, dict], device: str) -> None:
    """Write rows beside those of earlier calls; each says where and by what it was measured."""
    before = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else {}
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "cores": os.cpu_count(),
                    "load": round(os.getloadavg()[0], 1), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
    }  # fmt: skip
    result = {
        "what": "samples a second of wall time on one device, 256 px JPEGs to steps; times: curate's over open_clip's",
        "rows": {**before, **{name: {**row, "about": about} for name, row in rows.items()}},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "RN50"])
    parser.add_argument("--batches", nargs="+", type=int, default=[2048, 32_768])
    parser.add_argument("--steps", type=int, help=f"by default 6 or, if more, those of {SAMPLES:,} samples")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        child(*json.loads(options.child))
        return
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("training: no GPU here, nothing measured")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in options.batches:
            steps = options.steps or max(6, SAMPLES // batch)
            data = shards(Path(folder), batch * steps)
            for model in options.models:
                row: dict[str, dict] = {}
                for side in options.sides:
                    found = row[side] = measured(side, data, model, batch, steps, options.device)
                    said = found.get("failed") or f"{found['samples_per_s']:,.0f} samples/s, {found['peak_gb']} GB"
                    print(f"{model}, batch {batch:,}, {side}: {said}", flush=True)
                    failed += [f"{model}, batch {batch:,}, {side}"] if "failed" in found else []
                    rate = {name: side["samples_per_s"] for name, side in row.items() if "failed" not in side}
                    times = {name: round(rate[name] / rate["open_clip"], 2) for name in rate if "open_clip" in rate}
                    keep({f"{model}, batch {batch}": row | {"times": times}}, options.device)
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
