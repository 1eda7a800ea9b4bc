"""Five predicates and the global top 30 % over 10 million rows: curate filter, and pandas as DataComp uses it.

    python benchmarks/select_vs_pandas.py --rows 10000000 --rounds 3          (2 GB of disk)

Every answer is computed in a fresh process with one worker, from files that lie in the page cache; CPU seconds and
peak memory are the process's own, imports included. curate reads signal tables that were measured before (language,
caption, size, clip) and writes its selection with a verdict for every row, or, beside it, sample_ids.npy. The peer
reads the same values as DataComp's metadata (uid, text, original_width, original_height, clip score in parquet) and
works as DataComp's baselines do: `apply` of a Python function on every text and row of a DataFrame, an exact partition
of the whole column, uids through Python integers (language as it was measured: DataComp would run fastText besides).
It gets every tenth file; "vectorised" is the same in whole-column pandas. The uids kept are compared. "DuckDB, a count"
is the least that any of this can cost on a machine as busy as this one: one query for the cut and one that counts what
the conditions keep, without looking at a uid or writing anything.
"""

import argparse
import datetime
import hashlib
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate import filter as filtering
from curate import shard as shards
from curate.dataset import Dataset
from curate.files import Folder
from curate.memory import without_pandas
from curate.signal_files import rows_hash

RESULTS = Path(__file__).parent / "results" / "select_vs_pandas.json"
PER_SHARD = 100_000
PART = 10  # the peers get every tenth file
RECIPE = """steps:
  - english: language = 'en'
  - words: caption_words > 2
  - characters: caption_characters > 5
  - side: size_min >= 200
  - aspect: size_aspect <= 3
  - aligned: {top: 30%, by: clip, of: pool}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="Where the tables are made, and kept for the next time.")
    parser.add_argument("--answer", nargs=2, metavar=("NAME", "FOLDER"), help="Used by the benchmark itself.")
    options = parser.parse_args()
    if options.answer:
        without_pandas()  # as every process of curate's own
        started = ANSWERS[options.answer[0]](options.answer[1])
        spent = resource.getrusage(resource.RUSAGE_SELF)
        sys.stdout.write(json.dumps({**started, "cpu_s": round(spent.ru_utime + spent.ru_stime, 3),
                                     "peak_gb": round(spent.ru_maxrss / 2**20, 3)}))  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        if not Path(folder, "done").exists():
            drawn(folder, options.rows)
            Path(folder, "done").touch()
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ANSWERS}
        for _ in range(options.rounds):
            for name, found in runs.items():
                found.append(asked(name, folder))
    told = {name: {key: statistics.median(run[key] for run in found) for key in ("cpu_s", "wall_s", "peak_gb", "kept")}
            for name, found in runs.items()}  # fmt: skip
    for names in (("curate", "curate, sample_ids"), ("pandas as DataComp", "pandas, vectorised", "curate, same part")):
        if len({run["digest"] for name in names for run in runs[name]}) != 1:
            raise SystemExit(f"the uids kept differ: {names}")
    if told["curate"]["kept"] != told["DuckDB, a count"]["kept"]:
        raise SystemExit("DuckDB keeps another number of rows")
    part = told["curate"]["cpu_s"] / PART
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("duckdb", "numpy", "pandas", "pyarrow")},
        "rows": options.rows,
        "rows of the peers": options.rows // PART,
        "answers": told,
        "peer's CPU / curate's, of as many rows": {
            name: round(told[name]["cpu_s"] / part, 1) for name in ("pandas as DataComp", "pandas, vectorised")
        },
        "curate's CPU / that of DuckDB's count": [
            round(ours["cpu_s"] / least["cpu_s"], 1)
            for ours, least in zip(runs["curate"], runs["DuckDB, a count"], strict=True)
        ],
        "load": round(os.getloadavg()[0], 1),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def drawn(url: str, rows: int) -> None:
    """A dataset of random rows with measured signals, and the same as DataComp's metadata."""
    folder, empty = Folder(f"{url}/dataset"), shards.tar_bytes([])
    for number in range(rows // PER_SHARD):
        rng, name = np.random.default_rng(number), f"{number:05d}"
        bits = np.sort(rng.integers(0, 256, (PER_SHARD, 16), np.uint8).view("S16").ravel())
        uid = pa.array([bits[i : i + 1].tobytes().hex() for i in range(PER_SHARD)])
        words = rng.poisson(7, PER_SHARD) + 1
        text = [" ".join(["picture"] * count) for count in words]
        width, height = (rng.lognormal(6, 0.6, PER_SHARD).astype(np.int32) + 16 for _ in range(2))
        clip = rng.normal(0.22, 0.06, PER_SHARD).astype(np.float32)
        language = np.where(rng.random(PER_SHARD) < 0.6, "en", "de")
        least, most = np.minimum(width, height), np.maximum(width, height)
        measured = {
            "caption": {"caption_characters": pa.array(words * 8 - 1, pa.int32()),
                        "caption_words": pa.array(words, pa.int32())},
            "clip": {"clip": pa.array(clip)},
            "language": {"language": pa.array(language)},
            "size": {"size_min": pa.array(least), "size_aspect": pa.array((most / least).astype(np.float32))},
        }  # fmt: skip
        table = pa.table({"uid": uid, "key": [f"{name}{i:05d}" for i in range(PER_SHARD)], "url": uid, "caption": text,
                          "status": ["success"] * PER_SHARD})  # fmt: skip
        shards.write(folder, name, empty, table, {})
        about = {"tar_bytes": len(empty), "rows": rows_hash(table)}
        for signal, columns in measured.items():
            made_by = {"signal": signal, **about}
            folder.write_table(f"signals/{signal}/{name}.parquet", pa.table({"uid": uid, **columns}), made_by)
        if number % PART == 0:
            Path(url, "metadata").mkdir(exist_ok=True)
            metadata = {"uid": uid, "text": text, "language": language, "original_width": width,
                     "original_height": height, "clip": clip}  # fmt: skip
            pq.write_table(pa.table(metadata), f"{url}/metadata/{name}.parquet")
            part = Folder(f"{url}/part")
            for file in (
                f"shards/{name}.tar",
                f"shards/{name}.parquet",
                *(f"signals/{s}/{name}.parquet" for s in measured),
            ):
                part.write_bytes(file, folder.read_bytes(file))  # fmt: skip
    Path(url, "recipe.yaml").write_text(RECIPE)
    for place in ("dataset", "part"):
        dataset = Dataset.open(f"{url}/{place}")
        dataset.after("measure", {}, "", signals={name: name for name in measured}).save()


def asked(name: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--answer", name, folder]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def by_curate(place: str, ids: bool = False) -> Any:
    def answer(folder: str) -> dict[str, Any]:
        dataset, wall = Dataset.open(f"{folder}/{place}"), time.perf_counter()
        options: dict[str, Any] = {"sample_ids": f"{folder}/{place}.npy"} if ids else {}
        name = f"bench-{os.getpid()}"  # what another run left behind is not taken for this one's
        selected = filtering.run(dataset, f"{folder}/recipe.yaml", name=name, engine="local(workers=0)", **options)
        wall = time.perf_counter() - wall
        command = [sys.executable, "-c", DIGEST, f"{folder}/{place}/selections/{name}"]
        digest = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        dataset.folder.remove(f"selections/{name}")
        dataset.save()
        return {"kept": selected.history[-1]["counts"]["kept"], "wall_s": round(wall, 3), "digest": digest.strip()}

    return answer


DIGEST = """
import glob, hashlib, sys, pyarrow.parquet as pq, pyarrow.compute as pc
digest = hashlib.sha256()
for name in sorted(glob.glob(sys.argv[1] + "/*.parquet")):
    table = pq.read_table(name)
    digest.update("".join(table.filter(pc.greater(table["weight"], 0))["uid"].to_pylist()).encode())
print(digest.hexdigest())
"""


def by_pandas(vectorised: bool) -> Any:
    def answer(folder: str) -> dict[str, Any]:
        pd = importlib.import_module("pandas")  # not at the top: curate's processes would load it, too
        wall, frames = time.perf_counter(), []
        files = sorted(Path(folder, "metadata").glob("*.parquet"))
        for file in files:
            frames.append(pd.read_parquet(file))
        frame = pd.concat(frames, ignore_index=True)
        scores = frame["clip"].to_numpy()
        threshold = np.partition(scores, len(scores) - int(len(scores) * 0.3))[len(scores) - int(len(scores) * 0.3)]
        if vectorised:
            least = frame[["original_width", "original_height"]].min(axis=1)
            most = frame[["original_width", "original_height"]].max(axis=1)
            keep = ((frame["language"] == "en") & (frame["text"].str.split().str.len() > 2)
                    & (frame["text"].str.len() > 5) & (least >= 200) & (most / least <= 3))  # fmt: skip
        else:
            keep = frame["language"] == "en"
            keep &= frame["text"].apply(lambda text: len(text.split()) > 2 and len(text) > 5)
            keep &= frame.apply(lambda row: min(row["original_width"], row["original_height"]) >= 200, axis=1)
            keep &= frame.apply(lambda row: max(row["original_width"], row["original_height"])
                                / min(row["original_width"], row["original_height"]) <= 3.0, axis=1)  # fmt: skip
        uids = frame[keep & (frame["clip"] >= threshold)]["uid"]
        ids = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], np.dtype("u8,u8"))
        ids.sort()
        np.save(f"{folder}/pandas.npy", ids)
        digest = hashlib.sha256("".join(uids).encode()).hexdigest()
        return {"kept": len(ids), "wall_s": round(time.perf_counter() - wall, 3), "digest": digest}

    return answer


def by_duckdb(folder: str) -> dict[str, Any]:
    duckdb, wall = importlib.import_module("duckdb"), time.perf_counter()
    connection, signals = duckdb.connect(), f"{folder}/dataset/signals"
    connection.execute("SET threads = 1")
    connection.execute("SET enable_progress_bar = false")
    cut = f"SELECT quantile_disc(clip, 0.7) FROM read_parquet('{signals}/clip/*.parquet')"
    ((cut,),) = connection.execute(cut).fetchall()
    every = " POSITIONAL JOIN ".join(f"read_parquet('{signals}/{name}/*.parquet') {name}_"
                                     for name in ("clip", "caption", "size", "language"))  # fmt: skip
    kept = (f"SELECT count(*) FROM {every} WHERE clip >= {cut} AND language = 'en' AND caption_words > 2 "
            f"AND caption_characters > 5 AND size_min >= 200 AND size_aspect <= 3")  # fmt: skip
    ((kept,),) = connection.execute(kept).fetchall()
    return {"kept": kept, "wall_s": round(time.perf_counter() - wall, 3)}


ANSWERS = {
    "DuckDB, a count": by_duckdb,
    "curate": by_curate("dataset"),
    "curate, sample_ids": by_curate("dataset", ids=True),
    "curate, same part": by_curate("part"),
    "pandas as DataComp": by_pandas(False),
    "pandas, vectorised": by_pandas(True),
}

if __name__ == "__main__":
    main()
