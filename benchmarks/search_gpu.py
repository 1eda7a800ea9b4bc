"""A pool streamed past an index of benchmark sets, by faiss-gpu on one GPU and on the CPU: what dedup --against asks.

    python benchmarks/search_gpu.py [--indexed 1000000] [--pool 200000] [--dimensions 512]

`make gpu-check` runs it where there is a GPU and faiss-gpu. Unit vectors with a similarity of 0.9 or more and 256-bit
codes that differ in at most 31 bits are wanted; a tenth of the pool are near copies of what is indexed. curate's index
answers with every such pair, distances summed anew, and must answer as it does on the CPU; beside it FAISS's own search
of the 64 nearest, in a flat index and in IVF with 4 probes, on the same device. Queries a second of wall time, the best
of the rounds; the methods take turns. `--device cpu` tries the script without a GPU.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from curate.dedup.search import CosineIndex, HammingIndex

RESULTS = Path(__file__).parent / "results" / "search_gpu.json"
SIMILAR, BITS, NEAREST, PROBES = 0.9, 31, 64, 4
BATCH = 65_536  # queries at a time
Method = Callable[[np.ndarray], Any]


def vectors(indexed: int, pool: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 unit vectors: those of the index, those of the pool."""
    rng = np.random.default_rng(0)
    known, asked = (rng.normal(size=(n, dimensions)).astype(np.float32) for n in (indexed, pool))
    copies = pool // 10
    asked[:copies] = known[rng.integers(0, indexed, copies)] + 0.4 * asked[:copies]
    return tuple(each / np.linalg.norm(each, axis=1, keepdims=True) for each in (known, asked))


def codes(indexed: int, pool: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 32]: those of the index, those of the pool."""
    rng = np.random.default_rng(0)
    known, asked = (rng.integers(0, 256, (n, 32), np.uint8) for n in (indexed, pool))
    copies = pool // 10
    noise = rng.integers(0, 256, (4, copies, 32), np.uint8)  # each bit turned with a chance of 1 in 16
    asked[:copies] = known[rng.integers(0, indexed, copies)] ^ np.bitwise_and.reduce(noise)
    return known, asked


def ivf(known: np.ndarray, gpu: bool) -> Any:
    lists = int(np.sqrt(len(known)))
    index: Any = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(known.shape[1]), known.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )
    if gpu:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.train(known[: 64 * lists])
    index.add(known)
    index.nprobe = PROBES
    return index


def methods_of(index: CosineIndex | HammingIndex, known: np.ndarray, limit: float) -> dict[str, Method]:
    own = index.index if index.gpu is None else index.gpu
    found: dict[str, Method] = {
        "curate": lambda asked: index.near(asked, limit),
        "faiss flat": lambda asked: own.search(asked, NEAREST),
    }
    if isinstance(index, CosineIndex):
        probed = ivf(known, index.gpu is not None)
        found["faiss IVF"] = lambda asked: probed.search(asked, NEAREST)
    return found


def compared(kind: type, made: tuple[np.ndarray, np.ndarray], limit: float, options: argparse.Namespace) -> dict:
    """One kind of search. Exits where the device finds other pairs than the CPU."""
    known, asked = made
    there, here = kind(known, options.device), kind(known, "cpu")
    few = asked[:: max(1, len(asked) // options.on_cpu)]
    pairs, expected = there.near(few, limit), here.near(few, limit)
    if not all(np.array_equal(a, b) for a, b in zip(pairs, expected, strict=True)):
        raise SystemExit(f"{kind.__name__}: {options.device} finds other pairs than the CPU")
    return {
        "queries_per_s": rates(methods_of(there, known, limit), asked, options.rounds),
        "queries_per_s_on_cpu": rates({"curate": lambda some: here.near(some, limit)}, few, 1),
        "pairs_compared": len(expected[0]),
    }


def rates(methods: dict[str, Method], asked: np.ndarray, rounds: int) -> dict[str, float]:
    """Queries a second of each method, which take turns; a first round is not counted."""
    best: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            for at in range(0, len(asked), BATCH):
                method(asked[at : at + BATCH])
            if number:
                best[name] = max(best.get(name, 0.0), len(asked) / (time.perf_counter() - start))
    return {name: round(rate, 1) for name, rate in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexed", type=int, default=1_000_000)
    parser.add_argument("--pool", type=int, default=200_000)
    parser.add_argument("--on-cpu", type=int, default=4096, help="queries that the CPU answers")
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.device != "cpu" and not (torch.cuda.is_available() and hasattr(faiss, "StandardGpuResources")):
        raise SystemExit(
            "search: no GPU with faiss-gpu here (pip uninstall faiss-cpu; pip install faiss-gpu), nothing measured"
        )
    rows = {
        "vectors": compared(CosineIndex, vectors(options.indexed, options.pool, options.dimensions), SIMILAR, options),
        "codes": compared(HammingIndex, codes(options.indexed, options.pool), BITS, options),
    }
    packages = ("faiss-gpu", "faiss-cpu", "numpy")
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": {"device": "cpu" if options.device == "cpu" else torch.cuda.get_device_name(),
                    "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version()},
        "versions": {name: found for name in packages if (found := installed(name))},
        "indexed": options.indexed, "pool": options.pool, "dimensions": options.dimensions, "rows": rows,
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
