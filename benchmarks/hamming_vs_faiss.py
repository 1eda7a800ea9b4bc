"""All near pairs of bit codes: curate's joins beside FAISS's binary indexes and imagededup's searches.

    pip install --no-deps --target peers imagededup                      # if wanted
    PYTHONPATH=peers OMP_NUM_THREADS=1 python benchmarks/hamming_vs_faiss.py [--largest 10000000] [--rounds 3]
    OMP_NUM_THREADS=1 python benchmarks/hamming_vs_faiss.py --again SETTING METHOD SIZE   # one cell of the result anew

Codes are random; every tenth is an earlier one with up to twice the threshold of bits turned. Each answer comes from a
process of its own on one thread, codes are made before the clock starts, methods take turns. Pairs are compared: the
recall of each method is its share of what curate found, and what others found beside that is counted. Where a method
would take more than two minutes it answers for a sample of the codes, and its time is scaled up: such times are marked.
A cell that was measured again says so, with its own date and load, and its recall is that of the planted pairs.
Growth is the exponent of curate's CPU time in the number of codes, from each size to the next.
"""

import argparse
import datetime
import importlib
import itertools
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np

from curate.dedup.hamming import RECALL, hamming_pairs, tables

RESULTS = Path(__file__).parent / "results" / "hamming_vs_faiss.json"
SETTINGS = {"64 bits, distance 4": (64, 4), "64 bits, distance 8": (64, 8), "256 bits, distance 31": (256, 31)}
PATIENCE = 120.0  # CPU seconds
FEWEST = 20  # codes that are asked for
LARGEST_OF_OBJECTS = 1_000_000  # codes that a search in Python's own objects is asked for
Pairs = tuple[np.ndarray, np.ndarray]


class Joins:
    """curate's: nothing is built before it is asked, and it is asked for all pairs."""

    def __init__(self, recall: float):
        self.recall = recall

    def build(self, codes: np.ndarray) -> None:
        pass

    def ask(self, codes: np.ndarray, threshold: int, asked: int) -> Pairs:
        return hamming_pairs(codes, threshold, recall=self.recall)[:2]


class Faiss:
    """A binary index; hashes None: flat."""

    def __init__(self, hashes: int | None = None, bits: int = 0, flips: int = 0):
        self.hashes, self.bits, self.flips = hashes, bits, flips

    def build(self, codes: np.ndarray) -> None:
        width = codes.shape[1] * 8
        self.index = (
            faiss.IndexBinaryMultiHash(width, self.hashes, self.bits) if self.hashes else faiss.IndexBinaryFlat(width)
        )
        if self.hashes:
            self.index.nflip = self.flips
        self.index.add(codes)

    def ask(self, codes: np.ndarray, threshold: int, asked: int) -> Pairs:
        limits, _, found = self.index.range_search(codes[:asked], threshold + 1)  # the radius is exclusive
        query = np.repeat(np.arange(asked), np.diff(limits.astype(np.int64)))
        other = query != found
        return query[other], found[other].astype(np.int64)


class Tree:
    """imagededup's BK-tree as its find_duplicates uses it; the distance is that of two Python integers."""

    def build(self, codes: np.ndarray) -> None:
        self.values = {str(row): int.from_bytes(code.tobytes(), "big") for row, code in enumerate(codes)}
        tree = importlib.import_module("imagededup.handlers.search.bktree").BKTree
        self.tree = tree(self.values, lambda a, b: (a ^ b).bit_count())

    def ask(self, codes: np.ndarray, threshold: int, asked: int) -> Pairs:
        found = [
            (row, int(name))
            for row in range(asked)
            for name, _ in self.tree.search(self.values[str(row)], tol=threshold)
        ]
        pairs = np.array([pair for pair in found if pair[0] != pair[1]], np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]


class BruteForce:
    """imagededup's default search, compiled by Cython; it asks for one code after the other."""

    def build(self, codes: np.ndarray) -> None:
        self.values = {str(row): code.tobytes().hex() for row, code in enumerate(codes)}
        search = importlib.import_module("imagededup.handlers.search.brute_force_cython").BruteForceCython
        self.search = search(self.values, None)

    def ask(self, codes: np.ndarray, threshold: int, asked: int) -> Pairs:
        found = [
            (row, int(name))
            for row in range(asked)
            for name, _ in self.search.search(self.values[str(row)], tol=threshold)
        ]
        pairs = np.array([pair for pair in found if pair[0] != pair[1]], np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]


METHODS: dict[str, dict[str, Joins | Faiss | Tree | BruteForce]] = {
    "64 bits, distance 4": {
        "curate": Joins(RECALL),
        "faiss IndexBinaryFlat": Faiss(),
        "faiss IndexBinaryMultiHash 3 x 21, 1 flip": Faiss(3, 21, 1),
        "imagededup BKTree": Tree(),
        "imagededup BruteForceCython": BruteForce(),
    },
    "64 bits, distance 8": {
        "curate": Joins(RECALL),
        "faiss IndexBinaryFlat": Faiss(),
        "faiss IndexBinaryMultiHash 4 x 16, 2 flips": Faiss(4, 16, 2),
    },
    "256 bits, distance 31": {
        "curate": Joins(RECALL),
        "curate, recall 1": Joins(1.0),
        "faiss IndexBinaryFlat": Faiss(),
        "faiss IndexBinaryMultiHash 16 x 16, 0 flips": Faiss(16, 16, 0),
        "faiss IndexBinaryMultiHash 16 x 16, 1 flip": Faiss(16, 16, 1),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--again", nargs=3, metavar=("SETTING", "METHOD", "SIZE"), action="append")
    parser.add_argument("--answer", nargs=5, metavar=("SETTING", "METHOD", "FILE", "ASKED", "OUT"), help="For itself.")
    options = parser.parse_args()
    if options.answer:
        answer(*options.answer)
        return
    if options.again:
        again(options.again, options.rounds)
        return
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("faiss-cpu", "numpy", "scipy")},
        "settings": {name: compared(name, options) for name in SETTINGS},
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(json.dumps(results["settings"], indent=1) + "\n")


def again(cells: list[list[str]], rounds: int) -> None:
    """Measure cells of the result anew, in turn where they share their codes; all others stay."""
    results = json.loads(RESULTS.read_text())
    for (setting, size), group in itertools.groupby(cells, key=lambda cell: (cell[0], cell[2])):
        methods, n, (bits, threshold) = [method for _, method, _ in group], int(size), SETTINGS[setting]
        plan, times, told = tables(n, bits, threshold), {method: [] for method in methods}, {}
        sizes = results["settings"][setting]["sizes"]
        held = sizes.setdefault(f"{n:,}", {"curate's tables": len(plan), "curate's recall": plan.recall, "methods": {}})
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/codes.npy", made(n, bits, threshold))
            wanted = planted(n, bits, threshold)
            for method in methods * rounds:
                told[method] = asked_of(setting, method, folder, n)
                times[method].append(told[method]["build_cpu_s"] + told[method]["ask_cpu_s"])
            for method in methods:
                found = pairs_in(f"{folder}/{method}.npy", n)
                held["methods"][method] = {
                    **told[method], "cpu_s": round(statistics.median(times[method]), 4),
                    "rounds": rounds, "pairs": len(found), "recall": round(float(np.isin(wanted, found).mean()), 5),
                    "measured again": datetime.date.today().isoformat(), "load": round(os.getloadavg()[0], 1),
                }  # fmt: skip
        results["settings"][setting]["growth of curate's CPU time"] = growth(sizes)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def planted(n: int, bits: int, threshold: int) -> np.ndarray:
    """int64: the pairs of `made` of a code and the one that it was made of, as far as they still lie within the
    threshold."""
    codes, copies, sources = drawn(n, bits, threshold)
    gaps = np.zeros(len(copies), np.int64)
    for byte in range(codes.shape[1]):
        gaps += np.bitwise_count(codes[copies, byte] ^ codes[sources, byte])
    near = (gaps <= threshold) & (copies != sources)
    return np.unique(np.minimum(copies, sources)[near] * n + np.maximum(copies, sources)[near])


def compared(setting: str, options: argparse.Namespace) -> dict:
    bits, threshold = SETTINGS[setting]
    largest = min(options.largest, 10_000_000 if threshold == 4 else 1_000_000)
    known: dict[str, tuple[int, float]] = {}  # method -> codes, CPU seconds, of the size before
    found: dict[str, dict] = {}
    for n in [size for size in (10_000, 100_000, 1_000_000, 10_000_000) if size <= largest]:
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/codes.npy", made(n, bits, threshold))
            plan = tables(n, bits, threshold)
            found[f"{n:,}"] = {"curate's tables": len(plan), "curate's recall": plan.recall,
                               "methods": sized(setting, n, folder, known, options.rounds)}  # fmt: skip
    return {"sizes": found, "growth of curate's CPU time": growth(found)}


def sized(setting: str, n: int, folder: str, known: dict[str, tuple[int, float]], rounds: int) -> dict:
    """One size: every method in turn, in so many rounds, or in one where it is slow."""
    asked, times = {}, {name: [] for name in METHODS[setting]}
    results: dict[str, dict] = {}
    for turn in range(rounds):
        for name in METHODS[setting]:
            smaller, seconds = known.get(name, (n, 0.0))
            expected = seconds * (n / smaller) ** (1.2 if "curate" in name else 2)
            asked[name] = n if expected < PATIENCE else max(FEWEST, int(n * PATIENCE / 4 / expected))
            slow = turn and (name not in results or results[name]["cpu_s"] > PATIENCE / 4)
            if slow:
                continue
            if n > LARGEST_OF_OBJECTS and isinstance(METHODS[setting][name], Tree | BruteForce):
                results[name] = {"left out": "an object for each code: more memory than there is", "cpu_s": math.inf}
                continue
            told = asked_of(setting, name, folder, asked[name])
            if told is None:
                results[name] = {"left out": "it does not import here", "cpu_s": math.inf}
                continue
            times[name].append(told["build_cpu_s"] + told["ask_cpu_s"] * n / asked[name])
            results[name] = {**told, "cpu_s": told["build_cpu_s"] + told["ask_cpu_s"]}
    mine = pairs_in(f"{folder}/curate.npy", n)
    if "curate, recall 1" in results:
        mine = pairs_in(f"{folder}/curate, recall 1.npy", n)
    for name, told in results.items():
        if "left out" in told:
            del told["cpu_s"]
            continue
        share = asked[name] / n
        theirs = pairs_in(f"{folder}/{name}.npy", n)
        wanted = mine if share == 1 else mine[(mine // n < asked[name]) | (mine % n < asked[name])]
        told["recall"] = round(np.isin(wanted, theirs).sum() / max(len(wanted), 1), 5)
        told["found beside"] = int((~np.isin(theirs, wanted)).sum())
        told["pairs"] = len(theirs)
        told["cpu_s"] = round(statistics.median(times[name]), 4)
        told["rounds"] = len(times[name])
        if share < 1:
            told["extrapolated from queries"] = asked[name]
        known[name] = (n, told["cpu_s"])
    return results


def asked_of(setting: str, name: str, folder: str, asked: int) -> dict | None:
    command = [
        sys.executable,
        __file__,
        "--answer",
        setting,
        name,
        f"{folder}/codes.npy",
        str(asked),
        f"{folder}/{name}.npy",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "No module named 'imagededup'" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    sys.stderr.write(f"{setting}: {name}: {done.stdout}\n")
    return json.loads(done.stdout)


def answer(setting: str, method: str, file: str, asked: str, out: str) -> None:
    """In a process of its own: CPU seconds and peak memory."""
    codes = np.load(file)
    faiss.omp_set_num_threads(1)
    method_of = METHODS[setting][method]
    start = peak_mb()
    times = [time.process_time()]
    method_of.build(codes)
    times.append(time.process_time())
    i, j = method_of.ask(codes, SETTINGS[setting][1], int(asked))
    times.append(time.process_time())
    peak = peak_mb()
    np.save(out, np.minimum(i, j) * len(codes) + np.maximum(i, j))
    told = {"build_cpu_s": round(times[1] - times[0], 4), "ask_cpu_s": round(times[2] - times[1], 4),
            "peak_mb": round(peak, 1), "peak_mb_above_codes": round(peak - start, 1)}  # fmt: skip
    sys.stdout.write(json.dumps(told))


def peak_mb() -> float:
    """Of this program alone: getrusage counts what the process that started it held, too."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def pairs_in(file: str, n: int) -> np.ndarray:
    return np.unique(np.load(file)) if Path(file).exists() else np.zeros(0, np.int64)


def made(n: int, bits: int, threshold: int) -> np.ndarray:
    """uint8 [n, bits / 8]: random codes, a tenth of them near another."""
    return drawn(n, bits, threshold)[0]


def drawn(n: int, bits: int, threshold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, which of them were made of others, and of which."""
    rng = np.random.default_rng(n)
    codes = rng.integers(0, 256, (n, bits // 8), np.uint8)
    copies = rng.permutation(n)[: n // 10]
    sources = rng.integers(0, n, len(copies))
    codes[copies] = codes[sources]
    turned = rng.integers(0, 2 * threshold + 1, len(copies))
    for turn in range(2 * threshold):
        rows = copies[turned > turn]
        bit = rng.integers(0, bits, len(rows))
        codes[rows, bit // 8] ^= (1 << (bit % 8)).astype(np.uint8)
    return codes, copies, sources


def growth(found: dict) -> dict[str, float]:
    """The exponent of CPU time in the number of codes, from each size to the next that was measured with it."""
    cells = [(int(size.replace(",", "")), of["methods"]["curate"]) for size, of in found.items()]
    return {
        f"{a:,} to {b:,}": round(math.log(y["cpu_s"] / x["cpu_s"]) / math.log(b / a), 2)
        for (a, x), (b, y) in itertools.pairwise(cells)
        if x.get("measured again") == y.get("measured again")
    }


if __name__ == "__main__":
    main()
