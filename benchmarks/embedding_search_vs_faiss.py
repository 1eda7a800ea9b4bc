"""All near pairs of embeddings: curate's blocked products and its k-means buckets beside FAISS's flat and IVF indexes.

    OMP_NUM_THREADS=1 python benchmarks/embedding_search_vs_faiss.py [--largest 1000000] [--dimensions 512]

Vectors lie in crowds (hundreds of directions, each with a spread), and a tenth of them are near copies of others, as
embeddings of photographs are. Pairs with a cosine similarity of 0.9 or more are wanted. Recall is against the pairs
that FAISS's flat index found, which is brute force; one thread each, every answer in a process of its own. curate's
clusters read the vectors from the 16-bit files of a dataset and write the pairs, as `curate dedup` does; the others
find all in memory. What would take longer than two minutes answers for a sample of the queries, and its time is scaled
up; curate's clusters always answer in full, and are compared on that sample.
"""

import argparse
import datetime
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from curate import shard as shards
from curate.dataset import Dataset
from curate.dedup import equal, firsts, join_vectors
from curate.dedup.codes import Comparison
from curate.dedup.faiss_install import load_search
from curate.dedup.pool import collect
from curate.files import Folder

RESULTS = Path(__file__).parent / "results" / "embedding_search_vs_faiss.json"
HERE = "local(workers=1)"
THRESHOLD = 0.9
PER_SHARD = 10_000
PATIENCE = 120.0
METHODS = (
    "curate, clusters",
    "curate, blocked products",
    "faiss IndexFlatIP",
    "faiss IVF, nprobe 1",
    "faiss IVF, nprobe 4",
)
Pairs = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--answer", nargs=4, metavar=("METHOD", "FOLDER", "ASKED", "OUT"), help="For itself.")
    options = parser.parse_args()
    if options.answer:
        answer(*options.answer)
        return
    sizes = [n for n in (20_000, 100_000, 1_000_000) if n < options.largest] + [options.largest]
    found = {f"{n:,}": compared(n, options.dimensions) for n in sizes}
    seconds = [(n, found[f"{n:,}"]["curate, clusters"]["cpu_s"]) for n in sizes]
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("faiss-cpu", "numpy")},
        "dimensions": options.dimensions,
        "threshold": THRESHOLD,
        "sizes": found,
        "growth of curate's clusters": {
            f"{a:,} to {b:,}": round(math.log(y / x) / math.log(b / a), 2) for (a, x), (b, y) in pairwise(seconds)
        },
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


def compared(n: int, dimensions: int) -> dict:
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        write(folder, made(n, dimensions))
        for name in METHODS:
            expected = guess(name, n, dimensions)
            asked = n if expected < PATIENCE else max(1000, int(n * PATIENCE / 4 / expected))
            command = [sys.executable, __file__, "--answer", name, folder, str(asked), f"{folder}/{name}.npy"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise RuntimeError(done.stderr)
            sys.stderr.write(f"{n:,}: {name}: {done.stdout}\n")
            results[name] = {**json.loads(done.stdout), "asked": asked}
        flat = results["faiss IndexFlatIP"]["asked"]
        wanted = np.unique(np.load(f"{folder}/faiss IndexFlatIP.npy"))
        for name, told in results.items():
            theirs = np.unique(np.load(f"{folder}/{name}.npy"))
            of = min(told["asked"], flat)
            both = [
                pairs[(pairs // n < of) | (pairs % n < of)] if "blocked" not in name else pairs[pairs // n < of]
                for pairs in (wanted, theirs)
            ]
            told["recall"] = round(float(np.isin(both[0], both[1]).mean()), 5)
            told["pairs"] = len(theirs)
            told["cpu_s"] = round(told["build_cpu_s"] + told["ask_cpu_s"] * share(name, told["asked"], n), 2)
            if told.pop("asked") < n:
                told["extrapolated from queries"] = of
    return results


def guess(name: str, n: int, dimensions: int) -> float:
    """CPU seconds, at 50 GFLOP/s for large products and 15 for small ones."""
    if name == "curate, clusters":
        return 0.0
    if "IVF" in name:
        return n * int(name.rsplit(" ", 1)[1]) * math.sqrt(n) * dimensions * 2 / 15e9
    return n * n * dimensions * (1 if "blocked" in name else 2) / 50e9


def share(name: str, asked: int, n: int) -> float:
    """By what the time of a sample is multiplied; the first rows of a triangle are its longest."""
    return n / asked if "blocked" not in name else n * n / (asked * (2 * n - asked))


def answer(method: str, folder: str, asked: str, out: str) -> None:
    """In a process of its own: CPU seconds, peak memory."""
    faiss.omp_set_num_threads(1)
    vectors = None if method == "curate, clusters" else np.load(f"{folder}/vectors.npy")
    pool = collect(Dataset.open(f"{folder}/dataset"), [Comparison("clip", "clip", "cosine", THRESHOLD)], None)
    n, times = len(pool), [time.process_time()]
    index = build(method, vectors)
    times.append(time.process_time())
    if method == "curate, clusters":
        work = pool.dataset.folder.within("work/dedup/bench")
        column, left = pool.codes[0], equal.listed(work, np.zeros(0, np.int64))
        first = firsts.firsts(pool, column, left, work, HERE)
        near = join_vectors.vector_pairs(pool, work, column, left, first, None, HERE, [])
        i, j, _ = near.pairs(0, n)
        i, j = pool.places(i), pool.places(j)
    elif method == "curate, blocked products":
        i, j, _ = load_search().cosine_pairs(vectors, THRESHOLD, int(asked))
    else:
        limits, _, found = index.range_search(vectors[: int(asked)], THRESHOLD)
        i, j = np.repeat(np.arange(int(asked)), np.diff(limits.astype(np.int64))), found.astype(np.int64)
        i, j = i[i != j], j[i != j]
    times.append(time.process_time())
    np.save(out, np.minimum(i, j) * n + np.maximum(i, j))
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    told = {
        "build_cpu_s": round(times[1] - times[0], 3),
        "ask_cpu_s": round(times[2] - times[1], 3),
        "peak_mb": round(peak, 1),
    }
    sys.stdout.write(json.dumps(told))


def build(method: str, vectors: np.ndarray | None) -> faiss.Index | None:
    if vectors is None or "faiss" not in method:
        return None
    flat = faiss.IndexFlatIP(vectors.shape[1])
    if "Flat" in method:
        flat.add(vectors)
        return flat
    index = faiss.IndexIVFFlat(flat, vectors.shape[1], int(np.sqrt(len(vectors))), faiss.METRIC_INNER_PRODUCT)
    index.nprobe = int(method.rsplit(" ", 1)[1])
    index.train(vectors[: 256 * index.nlist])
    index.add(vectors)
    return index


def made(n: int, dimensions: int) -> np.ndarray:
    """float32 unit vectors [n, dimensions]."""
    rng = np.random.default_rng(n)
    middles = rng.normal(size=(max(20, n // 500), dimensions)).astype(np.float32)
    vectors = middles[rng.integers(0, len(middles), n)]
    for start in range(0, n, PER_SHARD):
        part = vectors[start : start + PER_SHARD]
        part += rng.normal(size=part.shape).astype(np.float32) * rng.uniform(0.6, 1.2, (len(part), 1)).astype(
            np.float32
        )
    copies = rng.permutation(n)[: n // 10]
    origins = rng.integers(0, n, len(copies))
    for start in range(0, len(copies), PER_SHARD):
        own, of = copies[start : start + PER_SHARD], origins[start : start + PER_SHARD]
        noise = rng.normal(size=(len(own), dimensions)).astype(np.float32)
        vectors[own] = vectors[of] + noise * rng.uniform(0.1, 0.8, (len(own), 1)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


def write(folder: str, vectors: np.ndarray) -> None:
    """The vectors as a file, and as a dataset whose signal `clip` measured them."""
    place = Folder(f"{folder}/dataset")
    for start in range(0, len(vectors), PER_SHARD):
        name, own = f"{start // PER_SHARD:05d}", vectors[start : start + PER_SHARD]
        keys = [f"{start + at:012d}" for at in range(len(own))]
        shards.write(place, name, b"", pa.table({"uid": keys, "key": keys}), {})
        place.write_table(
            f"signals/clip/{name}.parquet", pa.table({"uid": keys, "clip": np.zeros(len(own), np.float32)})
        )
        place.write_array(f"signals/clip/{name}.npy", own.astype(np.float16))
    Dataset.open(place.url).after("measure", {}, "", signals={"clip": "clip"}).save()
    # as curate reads them: 16 bits, made unit vectors again
    held = vectors.astype(np.float16).astype(np.float32)
    np.save(f"{folder}/vectors.npy", held / np.linalg.norm(held, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
