"""curate's cap (counts, windows, draw) against DuckDB's row_number() on the same matches; interleaved, CPU and memory.

    python benchmarks/cap_vs_duckdb.py --pairs 4000000 --rounds 3

The matches are random with the shape of MetaCLIP's: the queries within the cap hold 5.6 % of them. DuckDB answers

    select pair, query from (select *, row_number() over (partition by query order by rank, low) as place from matches)
    where place <= cap

with one thread, as curate has; a second timing gives it all cores. Each answer is computed in a process of its own from
the same files, which are loaded before the clock starts. The samples are compared; a difference ends the run.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.harvest.choose import cap as caps

RESULTS = Path(__file__).parent / "results" / "cap_vs_duckdb.json"
SHAPES = {"500,000 queries": (500_000, 1.5, 100.0), "20,000 queries": (20_000, 1.7, 20.0)}  # queries, exponent, top
TAIL = 0.056
PIECES = 16  # buckets in which curate looks at the pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer", nargs=2, metavar=("NAME", "FOLDER"), help="Used by the benchmark itself.")
    options = parser.parse_args()
    if options.answer:
        sys.stdout.write(json.dumps(answer(*options.answer)))
        return
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("duckdb", "numpy", "pyarrow")},
        "shapes": {name: compared(shape, options) for name, shape in SHAPES.items()},
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(json.dumps(results["shapes"], indent=2) + "\n")


def compared(shape: tuple[int, float, float], options: argparse.Namespace) -> dict[str, Any]:
    """All answers, `rounds` times in turn. Raises SystemExit where the samples differ."""
    with tempfile.TemporaryDirectory() as folder:
        about = drawn_matches(Path(folder), options.pairs, *shape)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ANSWERS}
        for _ in range(options.rounds):
            for name, found in runs.items():
                found.append(asked(name, folder))
    samples = {(run["draws"], run["sample"]) for found in runs.values() for run in found}
    if len(samples) != 1:
        raise SystemExit(f"the samples differ: {samples}")
    measures = ("cpu_s", "wall_s", "peak_mb")
    told = {name: {key: round(statistics.median(run[key] for run in found), 3) for key in measures}
            for name, found in runs.items()}  # fmt: skip
    ratios = [a["cpu_s"] / b["cpu_s"] for a, b in zip(runs["duckdb"], runs["curate"], strict=True)]
    return {
        **about,
        "draws": samples.pop()[0],
        "answers": told,
        "duckdb's CPU / curate's": [round(r, 2) for r in ratios],
    }


def drawn_matches(folder: Path, pairs: int, queries: int, exponent: float, top: float) -> dict[str, Any]:
    """Three random queries a pair by a flattened Zipf's law, and the cap within which queries hold the tail."""
    rng = np.random.default_rng(0)
    shares = np.cumsum(1.0 / (np.arange(queries) + top) ** exponent)
    ids = np.searchsorted(shares, rng.random((pairs, 3)) * shares[-1]).astype(np.int32)
    ids.sort(axis=1)
    first = np.ones(ids.shape, bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    offsets = np.concatenate(([0], np.cumsum(first.sum(axis=1))))
    ids = ids[first]
    counts = np.bincount(ids, minlength=queries)
    cap = caps.cap_of_tail(counts, TAIL)
    high, low = rng.integers(0, 2**64, (2, pairs), np.uint64)
    for name, array in {"rank": caps.ranks(high, low, 0), "low": low, "offsets": offsets, "ids": ids}.items():
        np.save(folder / f"{name}.npy", array)
    about = {
        "pairs": pairs,
        "matches": len(ids),
        "queries": queries,
        "cap": cap,
        "over the cap": int((counts > cap).sum()),
    }
    (folder / "about.json").write_text(json.dumps(about))
    return about


def asked(name: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--answer", name, folder]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def answer(name: str, folder: str) -> dict[str, Any]:
    """Draws, a digest of them, and what it took, beyond the memory of the loaded matches."""
    about = json.loads(Path(folder, "about.json").read_text())
    matches = [np.load(f"{folder}/{part}.npy") for part in ("rank", "low", "offsets", "ids")]
    ask = ANSWERS[name](about, *matches)
    loaded, cpu, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    pair, query = ask()
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    spent["peak_mb"] = memory("VmHWM") - loaded
    order = np.lexsort((query, pair))
    sample = hashlib.sha256(
        pair[order].astype(np.int64).tobytes() + query[order].astype(np.int64).tobytes()
    ).hexdigest()
    return {"draws": len(pair), "sample": sample, **spent}


def memory(kind: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def by_curate(
    about: dict[str, Any], rank: np.ndarray, low: np.ndarray, offsets: np.ndarray, ids: np.ndarray
) -> Callable:
    """Counts, one pass over the windows, one over the draws, in pieces as harvest's buckets are."""
    ends = np.linspace(0, len(rank), PIECES + 1).astype(int)
    pieces = [(rank[a:b], low[a:b], offsets[a : b + 1] - offsets[a], ids[offsets[a] : offsets[b]]) for a, b in
              pairwise(ends)]  # fmt: skip

    def ask() -> tuple[np.ndarray, np.ndarray]:
        cap, counts = about["cap"], np.bincount(ids, minlength=about["queries"])
        last = np.full((2, len(counts)), caps.LAST)
        missing, spread = np.flatnonzero(counts > cap), 6.0
        while len(missing):
            window = caps.window(counts, missing, cap, spread)
            below, *inside = zip(*(caps.look(window, *piece) for piece in pieces), strict=True)
            found, *limit = caps.cut(sum(below), *(np.concatenate(part) for part in inside), cap)
            last[:, missing[found]] = np.stack(limit)[:, found]
            missing, spread = missing[~found], spread * 4
        drawn = [(np.flatnonzero(caps.drawn(*piece, *last)), piece) for piece in pieces]
        pair = [start + np.searchsorted(piece[2], at, "right") - 1 for start, (at, piece) in zip(ends, drawn)]
        return np.concatenate(pair), np.concatenate([piece[3][at] for at, piece in drawn])

    return ask


def by_duckdb(threads: int) -> Callable:
    def ready(
        about: dict[str, Any], rank: np.ndarray, low: np.ndarray, offsets: np.ndarray, ids: np.ndarray
    ) -> Callable:
        pair = np.repeat(np.arange(len(rank), dtype=np.int32), np.diff(offsets))
        found = pa.table({"pair": pair, "query": ids, "rank": rank[pair], "low": low[pair]})
        database = duckdb.connect(config={"threads": threads})
        database.execute("create table matches as select * from found")
        del found

        def ask() -> tuple[np.ndarray, np.ndarray]:
            drawn = database.execute(
                "select pair, query from (select pair, query, row_number() over (partition by query order by rank, low)"
                f" as place from matches) where place <= {about['cap']}"
            ).fetchnumpy()
            return np.asarray(drawn["pair"]), np.asarray(drawn["query"])

        return ask

    return ready


ANSWERS: dict[str, Callable] = {
    "curate": by_curate,
    "duckdb": by_duckdb(1),
    "duckdb, all cores": by_duckdb(os.cpu_count() or 1),
}

if __name__ == "__main__":
    main()
