"""Exporting a selection of tar shards: curate's raw copy against webdataset reading and webdataset's TarWriter.

    python benchmarks/export_vs_webdataset.py --pairs 20000 --rounds 3        (needs webdataset)

Shards of random 20 KB images with txt and json members, of which a selection keeps 30 %. webdataset does what a filter
script does with it: iterate WebDataset(urls) without decoding, look the key up, write the sample with TarWriter. curate
writes, besides, parquet sidecars with all columns, stats and new keys. CPU seconds of a process of its own each,
interleaved, without imports; the payloads of both are compared to the byte.
"""

import argparse
import datetime
import hashlib
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate import shard as shards
from curate.dataset import Dataset
from curate.files import Folder
from curate.filter import export

RESULTS = Path(__file__).parent / "results" / "export_vs_webdataset.json"
PER_SHARD = 5000
SHARE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=20_000, help="Of an image.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer", nargs=2, metavar=("NAME", "FOLDER"), help="Used by the benchmark itself.")
    options = parser.parse_args()
    if options.answer:
        sys.stdout.write(json.dumps(ANSWERS[options.answer[0]](*options.answer)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ANSWERS}
    with tempfile.TemporaryDirectory() as folder:
        drawn(folder, options.pairs, options.bytes)
        for number in range(options.rounds):
            for name, found in runs.items():
                command = [sys.executable, __file__, "--answer", name, folder]
                found.append(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
                if not number:
                    found[0]["payloads"] = payloads(f"{folder}/{name}")
                subprocess.run(["rm", "-r", f"{folder}/{name}"], check=True)
    if len({found[0]["payloads"] for found in runs.values()}) != 1:
        raise SystemExit("the payloads differ")
    told = {name: {key: round(statistics.median(run[key] for run in found), 3) for key in ("cpu_s", "wall_s")}
            for name, found in runs.items()}  # fmt: skip
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("pyarrow", "webdataset")},
        "load": round(os.getloadavg()[0], 1),
        "pairs": options.pairs,
        "bytes of an image": options.bytes,
        "share kept": SHARE,
        "answers": told,
        "pairs looked at in a CPU second": {key: round(options.pairs / each["cpu_s"]) for key, each in told.items()},
        "webdataset's CPU / curate's": [round(peer["cpu_s"] / ours["cpu_s"], 1)
                                        for ours, peer in zip(runs["curate"], runs["webdataset"], strict=True)],
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


def drawn(url: str, pairs: int, size: int) -> None:
    """A dataset with a selection that keeps a share, and the keys kept as a list."""
    folder, rng, kept = Folder(f"{url}/dataset"), np.random.default_rng(0), []
    for number in range(pairs // PER_SHARD):
        name = f"{number:05d}"
        keys = [f"{name}{index:04d}" for index in range(PER_SHARD)]
        uids = [shards.uid_of(key, "") for key in keys]
        files: list[tuple[str, bytes]] = []
        for key, uid in zip(keys, uids, strict=True):
            about = {"uid": uid, "key": key, "caption": f"picture {key}", "url": f"https://example.test/{key}"}
            files += [(f"{key}.jpg", rng.bytes(size)), (f"{key}.txt", b"picture"),
                      (f"{key}.json", json.dumps(about).encode())]  # fmt: skip
        table = pa.table({"uid": uids, "key": keys, "url": keys, "caption": keys, "status": ["success"] * PER_SHARD})
        shards.write(folder, name, files, table, {})
        weight = (rng.random(PER_SHARD) < SHARE).astype(np.int32)
        kept += [key for key, chosen in zip(keys, weight, strict=True) if chosen]
        chosen = pa.table({"uid": uids, "weight": weight, "reason": pa.nulls(PER_SHARD, pa.string())})
        folder.write_table(f"selections/s/{name}.parquet", chosen.sort_by("uid"))
    dataset = Dataset.open(folder.url)
    dataset.after("filter", {}, "", **dataset.with_selection("s", "filter", None)).save()
    Path(url, "kept.json").write_text(json.dumps(kept))


def by_curate(name: str, url: str) -> dict[str, float]:
    dataset = Dataset.open(f"{url}/dataset")
    pa.array([0]).to_numpy()  # pyarrow imports pandas on its own, where it is there
    cpu, wall = time.process_time(), time.perf_counter()
    export.run([dataset], Dataset.create(f"{url}/{name}"), shard_size=PER_SHARD, engine="local(workers=0)")
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def by_webdataset(name: str, url: str) -> dict[str, float]:
    webdataset = importlib.import_module("webdataset")  # not at the top: the processes of curate would load it, too
    kept = set(json.loads(Path(url, "kept.json").read_text()))
    urls = sorted(map(str, Path(url, "dataset/shards").glob("*.tar")))
    Path(url, name).mkdir()
    cpu, wall = time.process_time(), time.perf_counter()
    with webdataset.ShardWriter(f"{url}/{name}/%05d.tar", maxcount=PER_SHARD, verbose=0) as writer:
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            if sample["__key__"] in kept:
                writer.write({key: value for key, value in sample.items() if key not in ("__url__", "__local_path__")})
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def payloads(url: str) -> str:
    """A digest of all images, whatever their order and names."""
    found = []
    for path in Path(url).rglob("*.tar"):
        with tarfile.open(path) as archive:
            found += [hashlib.sha256(archive.extractfile(member).read()).hexdigest()  # type: ignore[union-attr]
                      for member in archive if member.name.endswith(".jpg")]  # fmt: skip
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()


ANSWERS = {"curate": by_curate, "webdataset": by_webdataset}

if __name__ == "__main__":
    main()
