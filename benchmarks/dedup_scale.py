"""What dedup costs once everything is measured, from a hundred thousand to ten million pairs; node-hours for more.

    OMP_NUM_THREADS=1 python benchmarks/dedup_scale.py [--rows 100000 1000000 ...] [--scratch DIR]
    OMP_NUM_THREADS=1 python benchmarks/dedup_scale.py --memory --rows 1200000 4000000    # adds to the same result

The datasets are made of numbers alone: shards of 10,000 rows with the sidecar and the columns of `exact` and `pdq` that
measuring would have written, of random codes. One row in ten is a copy of an earlier one: half of these are the same
file, half differ in up to 31 bits of PDQ. One row in two hundred is the same placeholder. `curate dedup` then runs on
each with its defaults, with one worker, which is the driver itself: its CPU time, its memory. "Anonymous" is the memory
that no mapped file backs, looked at every 5 ms (RssAnon of /proc/self/status); "driver_mb" is the peak with the pages
of such files. What was planted must be found: the run fails where more than 1 % of it is missing.

With --memory two workers join, in memory that a bucket bounds, and only the driver is looked at: what its anonymous
memory and its CPU time gain between the two largest sizes, beyond 1,000,000 rows, where it joins nothing itself, is
what a row costs it. The workers then look for FEW_TABLES of the pairs at the threshold only, in a twentieth of the
time, and four in five of what was planted must be found. --copies 0 plants none: what is left is what a row costs that
no other is like.

Node-hours are for 16 cores: hashing at the rate of results/hashing_vs_peers.json, dedup at the CPU time a row of the
largest size here, times (rows / largest) to the power of the growth that was measured.
"""

import argparse
import datetime
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from curate import named
from curate.dataset import Dataset
from curate.dedup import run as dedup
from curate.dedup.hamming import RECALL
from curate.files import Folder
from curate.measure import _made_by
from curate.shard import Shard
from curate.signal_files import rows_hash

RESULTS = Path(__file__).parent / "results" / "dedup_scale.json"
HASHING = Path(__file__).parent / "results" / "hashing_vs_peers.json"
PER_SHARD = 10_000
COPIES, PLACEHOLDERS, BITS = 0.1, 0.005, 31
FEW_TABLES = 0.3  # recall at the threshold, where only the driver is looked at
DRIVER = ("driver beside two workers", "the same without copies")
NODE_CORES = 16
BITS_A_ROW = 2  # that the driver holds of any row: where less is seen, it is lost among what a range of ranks takes
POOLS = (400_000_000, 5_000_000_000)
SIGNALS = ("exact", "pdq")
EMPTY_TAR = bytes(10_240)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--scratch", type=Path, default=Path("scale-scratch"))
    parser.add_argument("--memory", action="store_true", help="look at the driver alone, beside two workers")
    parser.add_argument("--copies", type=float, default=COPIES, help="share of the rows that are copies")
    parser.add_argument("--one", action="store_true", help="run dedup on what lies in --scratch and say what it took")
    options = parser.parse_args()
    if options.one:
        one(options.scratch, 2 if options.memory else 1)
        return
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    sizes, alone, apart = (before.get(name, {}) for name in ("sizes", *DRIVER))
    measured = sizes if not options.memory else alone if options.copies else apart
    for rows in options.rows:
        planted = written(options.scratch, rows, options.copies)
        command = [sys.executable, __file__, "--one", "--scratch", options.scratch]
        command += ["--memory"] * options.memory
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        told = json.loads(done.stdout.splitlines()[-1]) | {"planted": planted}
        measured[str(rows)] = told
        shutil.rmtree(options.scratch)
        if not (0.8 if options.memory else 0.99) * planted <= told["dropped"] <= 1.01 * planted:
            raise SystemExit(f"{told['dropped']:,} of {planted:,} planted copies were dropped")
        sys.stderr.write(f"{rows:,}: {told}\n")
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "sizes": in_order(sizes),
        **{name: in_order(held) for name, held in zip(DRIVER, (alone, apart), strict=True)},
    }
    held = estimates(in_order(sizes), in_order(alone), in_order(apart))
    RESULTS.write_text(json.dumps(result | held, indent=1) + "\n")


def in_order(sizes: dict[str, dict]) -> dict[str, dict]:
    return dict(sorted(sizes.items(), key=lambda item: int(item[0])))


def estimates(sizes: dict[str, dict], alone: dict[str, dict], apart: dict[str, dict]) -> dict:
    """Growth between the sizes, and what follows for pools of POOLS pairs."""
    rows = [int(size) for size in sizes]
    spent = [sizes[str(size)]["cpu_s"] for size in rows]
    growth = {f"{a:,} to {b:,}": round(math.log(y / x) / math.log(b / a), 2)
              for a, b, x, y in zip(rows, rows[1:], spent, spent[1:])}  # fmt: skip
    exponent = max(1.0, *growth.values()) if growth else 1.0
    hashed = json.loads(HASHING.read_text())["sets"]["256 pixels"]["images_per_cpu_second"]["curate, all"]
    hours, (row, spends) = {}, per_row(alone)
    for pool in POOLS:
        hashing = pool / hashed / 3600
        joining = spent[-1] * (pool / rows[-1]) ** exponent / 3600
        hours[f"{pool:,}"] = {
            "hashing, core-hours": round(hashing), "dedup, core-hours": round(joining, 1),
            f"node-hours of {NODE_CORES} cores": round((hashing + joining) / NODE_CORES, 1),
            **({"driver, GB": round(max(row, BITS_A_ROW / 8) * pool / 1e9, 1),
                "driver, hours": round(spends * pool / 3.6e9, 1)} if row is not None else {}),
        }  # fmt: skip
    names = ("driver, anonymous bytes a row", "driver, microseconds a row")
    bytes_ = dict(zip((*names, *(f"{name} that no other is like" for name in names)), (row, spends, *per_row(apart))))
    return {"growth of CPU time": growth, **bytes_, "images hashed in a CPU second": hashed, "extrapolated": hours}


def per_row(alone: dict[str, dict]) -> tuple[float, float] | tuple[None, None]:
    """Bytes of the driver's peak and its CPU microseconds for each row more, between the two largest sizes; None with
    one size."""
    if len(alone) < 2:
        return None, None
    *_, first, last = alone.items()
    gained = (last[1][name] - first[1][name] for name in ("anonymous_growth_bytes", "cpu_s"))
    held, spent = (each / (int(last[0]) - int(first[0])) for each in gained)
    return round(held, 1), round(spent * 1e6, 2)


def written(place: Path, rows: int, share: float) -> int:
    """Write a dataset of so many rows, that share of them copies; how many rows must go."""
    rng = np.random.default_rng(rows)
    folder = Folder(str(place))
    codes = rng.integers(0, 256, (rows, 32), np.uint8)
    files = rng.integers(0, 256, (rows, 32), np.uint8)
    drawn = rng.permutation(rows)
    copies, placeholders = (drawn[: int(rows * share)], drawn[-int(rows * PLACEHOLDERS if share else 1) :])
    of = drawn[len(copies) : 2 * len(copies)]  # each of another image
    codes[copies], same = codes[of], np.arange(len(copies)) % 2 == 0
    files[copies[same]] = files[of[same]]
    for row in copies[~same].tolist():
        turned = np.zeros(256, np.uint8)
        turned[rng.permutation(256)[: rng.integers(1, BITS + 1)]] = 1
        codes[row] ^= np.packbits(turned)
    codes[placeholders], files[placeholders] = codes[placeholders[0]], files[placeholders[0]]
    for start in range(0, rows, PER_SHARD):
        part = slice(start, min(start + PER_SHARD, rows))
        shard(folder, f"{start // PER_SHARD:05d}", rng, files[part], codes[part])
    Dataset(folder).after("made", {}, "made", signals={name: name for name in SIGNALS}).save()
    return len(copies) + len(placeholders) - 1


def shard(folder: Folder, name: str, rng: np.random.Generator, files: np.ndarray, codes: np.ndarray) -> None:
    count = len(files)
    uids = pa.array(sorted(rng.bytes(16).hex() for _ in range(count)))
    keys = pa.array([f"{name}{row:05d}" for row in range(count)])
    table = {"uid": uids, "key": keys, "url": keys, "caption": keys}
    sides = {side: pa.array(rng.integers(200, 1000, count), pa.int32()) for side in ("width", "height")}
    folder.write_bytes(f"shards/{name}.tar", EMPTY_TAR)
    folder.write_table(f"shards/{name}.parquet", pa.table(table | sides))
    plain = pa.array(np.zeros(count, bool))
    exact = {"exact_bytes": fixed(files), "exact_pixels": fixed(files[:, :16]), "exact_flat": plain}
    quality = pa.array(np.full(count, 100), pa.int8())
    pdq = {"pdq": fixed(codes), "pdq_quality": quality, "pdq_flat": plain}
    held = Shard(folder, name)
    about = {"tar_bytes": len(EMPTY_TAR), "rows": rows_hash(held.rows())}
    for signal, columns in (("exact", exact), ("pdq", pdq)):
        folder.write_table(f"signals/{signal}/{name}.parquet", pa.table({"uid": uids} | columns),
                           _made_by(named.parse(signal), held, about))  # fmt: skip


def fixed(values: np.ndarray) -> pa.Array:
    """uint8 [n, width] -> binary(width)."""
    held = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.binary(held.shape[1]), len(held), [None, pa.py_buffer(held)])


def one(place: Path, workers: int) -> None:
    start, spent, before = time.perf_counter(), cpu(), anonymous()
    most = [before]
    threading.Thread(target=watched, args=(most,), daemon=True).start()
    dataset = Dataset.open(str(place))
    recall = RECALL if workers < 2 else FEW_TABLES
    done = dedup(dataset, SIGNALS, recall=recall, engine=f"local(workers={workers})")
    counts, rows = done.history[-1]["counts"], done.history[-1]["counts"]["of"]
    if done.failures:
        raise SystemExit(str(done.failures))
    print(json.dumps({
        "cpu_s": round(cpu() - spent, 2), "wall_s": round(time.perf_counter() - start, 1),
        "cpu_us_per_row": round((cpu() - spent) / rows * 1e6, 2),
        "driver_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "driver_anonymous_mb": round(most[0] / 2**20), "anonymous_growth_bytes": most[0] - before,
        "dropped": counts["of"] - counts["kept"], "duplicates": counts["duplicates"],
    }))  # fmt: skip


def watched(most: list[int]) -> None:
    while True:
        most[0] = max(most[0], anonymous())
        time.sleep(0.005)


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def cpu() -> float:
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


if __name__ == "__main__":
    main()
