"""The text side of harvest on 100 million generated rows: CPU, peak memory of every process, equal results for any cut.

    curate queries build --out queries.txt
    python benchmarks/harvest_scale.py queries.txt --rows 10000000 100000000 --workers 2      # CPU and memory
    python benchmarks/harvest_scale.py queries.txt --same --rows 2000000                      # cuts, workers, Ray

Needs wordfreq (the extra 'bench'), Linux (/proc). The pool is benchmarks/generated_pool.py: computed, never stored, and
what computing it costs is measured apart. Results go to benchmarks/results/harvest_scale.json, one entry for each size.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import generated_pool
import pyarrow as pa
import pyarrow.parquet as pq
import wordfreq

from curate.files import Folder

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "harvest_scale.json"
PART_ROWS = 200_000
POOL, NODE_CORES = 5_000_000_000, 64
WORDS = 300_000
SAMPLED = 2_000_000  # rows that are only generated, to know what that costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cap", type=int, default=20_000)
    parser.add_argument("--same", action="store_true", help="Compare cuts, workers and Ray instead of measuring.")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/curate-scale"))
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    write_words(options.scratch / "words.parquet")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    if options.same:
        results["same"] = same(options)
    else:
        results["generated"] = generated(options.scratch / "words.parquet")
        for rows in options.rows:
            results["runs"][str(rows)] = measured(options, rows, results["generated"]["cpu_us_per_row"])
            save(results)
    save(results)
    shutil.rmtree(options.scratch)


def save(results: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def write_words(path: Path) -> None:
    """The most frequent English words, and how often each is used."""
    words, share = wordfreq.top_n_list("en", WORDS), wordfreq.get_frequency_dict("en")
    pq.write_table(pa.table({"word": words, "share": [share[word] for word in words]}), path)


def generated(words: Path) -> dict[str, Any]:
    """What it costs to make the rows alone."""
    pool = generated_pool.Pool(str(words), SAMPLED, 1)
    (part,) = pool.parts()
    next(pool.read(part))
    start = time.process_time()
    size = sum(table.nbytes for table in pool.read(part))
    spent = time.process_time() - start
    return {"cpu_us_per_row": round(spent / SAMPLED * 1e6, 3), "bytes_per_row": round(size / SAMPLED, 1)}


def measured(options: argparse.Namespace, rows: int, generating: float) -> dict[str, Any]:
    """One harvest of `rows` rows: what it says, its CPU and its memory."""
    out = options.scratch / "dataset"
    told, seen, cpu, wall = harvest(options, rows, -(-rows // PART_ROWS), f"local(workers={options.workers})", out)
    largest = sum(file.stat().st_size for file in out.glob("candidates/*.parquet"))
    shutil.rmtree(out)
    net = cpu - rows * generating / 1e6
    hours = POOL / rows * net / 3600
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "workers": options.workers,
        "counts": {
            key: told[key]
            for key in (
                "pool",
                "matched_share",
                "pairs",
                "matches",
                "draws",
                "selected",
                "cap",
                "queries",
                "queries_matched",
                "queries_capped",
                "head_share",
            )
        },
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "cpu_s_without_generating": round(net, 1),
        "cpu_s_per_million_rows": round(net / rows * 1e6, 3),
        "candidates_bytes_per_row": round(largest / rows, 1),
        "peak_mb": {role: round(max(kb) / 1024) for role, kb in sorted(seen.items())},
        "peak_disk_gb": round(told["peak_disk"] / 1e9, 2),
        "hours_for_5_billion": {"core": round(hours, 2), f"node of {NODE_CORES} cores": round(hours / NODE_CORES, 3)},
    }


def same(options: argparse.Namespace) -> dict[str, Any]:
    """The digest of the candidates for several ways to cut and run one pool. Raises SystemExit where one differs."""
    rows, found = options.rows[0], {}
    ways = [(1, "local(workers=1)"), (2, "local(workers=2)"), (7, "local(workers=1)"), (7, "local(workers=2)"),
            (700, "local(workers=2)"), (7, "ray(workers=2)")]  # fmt: skip
    for parts, engine in ways:
        out = options.scratch / "dataset"
        harvest(options, rows, parts, engine, out)
        found[f"{parts} parts, {engine}"] = digest(out)
        shutil.rmtree(out)
        sys.stdout.write(f"{parts} parts, {engine}: {found[f'{parts} parts, {engine}']}\n")
    if len(set(found.values())) != 1:
        raise SystemExit(f"not the same candidates: {found}")
    return {"rows": rows, "date": datetime.date.today().isoformat(), "sha256 of all candidates": found}


def digest(out: Path) -> str:
    """Of the names and the bytes of all tables."""
    folder, found = Folder(str(out)), hashlib.sha256()
    for name in [*folder.names("candidates/*.parquet"), "reports/queries.parquet"]:
        found.update(name.encode() + folder.read_bytes(name))
    return found.hexdigest()


def harvest(options: argparse.Namespace, rows: int, parts: int, engine: str, out: Path):
    """Run the command: (its counts, the peaks of its processes in kB, CPU seconds of all of them, wall seconds)."""
    pool = f"{HERE}/generated_pool.py(words={options.scratch}/words.parquet, rows={rows}, parts={parts})"
    command = [sys.executable, "-m", "curate.cli", "harvest", pool, "--queries", options.queries, "--out", str(out),
               "--cap", str(options.cap), "--no-download", "--engine", engine, "-q", "--json"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    watch = Watch(process.pid, out)
    watch.start()
    assert process.stdout is not None
    told = process.stdout.read()
    if process.wait():
        raise SystemExit(process.returncode)
    watch.stop()
    return {**json.loads(told), "peak_disk": watch.disk}, watch.peaks(), watch.cpu(), time.time() - start


class Watch(threading.Thread):
    """Notes CPU and peak memory of a process and its children ten times a second, and the size of a folder.

    Nobody waits for the workers of a fork server, so no rusage counts their CPU.
    """

    def __init__(self, pid: int, folder: Path):
        super().__init__(daemon=True)
        self.pid, self.folder, self.disk = pid, folder, 0
        self.found: dict[int, int] = {}  # pid -> peak resident kB
        self.spent: dict[int, float] = {}  # pid -> CPU seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        rounds = 0
        while not self._stopped.wait(0.1):
            for pid in [self.pid, *children(self.pid)]:
                self.found[pid] = max(self.found.get(pid, 0), peak_kb(pid))
                self.spent[pid] = max(self.spent.get(pid, 0.0), cpu_seconds(pid))
            if rounds % 50 == 0:
                self.disk = max(self.disk, folder_size(self.folder))
            rounds += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def cpu(self) -> float:
        return sum(self.spent.values())

    def peaks(self) -> dict[str, list[int]]:
        workers = [kb for pid, kb in self.found.items() if pid != self.pid]
        return {"driver": [self.found[self.pid]], **({"worker": workers} if workers else {})}


def cpu_seconds(pid: int) -> float:
    try:
        spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    try:
        direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [each for child in direct for each in (child, *children(child))]


def peak_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def folder_size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # renamed or removed meanwhile
            continue
    return size


if __name__ == "__main__":
    main()
