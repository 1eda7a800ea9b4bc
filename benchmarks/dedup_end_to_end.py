"""A folder of images without its duplicates, from files to the list of what goes: curate, imagededup, fastdup.

    python benchmarks/dedup_end_to_end.py FOLDER [--imagededup PYTHON] [--fastdup PYTHON] [--rounds 1]

The result in results/ is of the PNG files of Debian's openclipart-png 0.18 (links left out). Each tool has its defaults
and all cores, in an environment of its own, named by its Python, and runs from a fresh start: time, CPU time and memory
are those of its process and all its children (resident, so pages that several share count more than once). imagededup
is its PHash (10 bits), as its network's weights are not in its package. curate reads the same files from tar shards,
which are written before the clock starts.

Which image of a group stays is each tool's choice. Tools are said to agree on an image where both have it in a group,
as the one that stays or as one that goes.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curate import shard as shards
from curate.files import Folder

RESULTS = Path(__file__).parent / "results" / "dedup_end_to_end.json"
PER_SHARD = 500
SAMPLED = 0.05  # seconds between two looks at the memory
SUFFIXES = (".jpg", ".jpeg", ".png")
Groups = list[list[str]]  # the names of the files that are alike, the one that stays first

IMAGEDEDUP = """
import json, sys
from importlib.metadata import version
from imagededup.methods import PHash
from imagededup.utils.general_utils import get_files_to_remove

if __name__ == "__main__":
    found = PHash(verbose=False).find_duplicates(image_dir=sys.argv[1])
    gone = set(get_files_to_remove(found))
    groups = [[name, *(other for other in found[name] if other in gone)] for name in found if name not in gone]
    json.dump({"groups": [group for group in groups if len(group) > 1], "version": version("imagededup")},
              open(sys.argv[3], "w"))
"""
FASTDUP = """
import collections, csv, json, os, sys
import fastdup

fastdup.run(sys.argv[1], sys.argv[2], verbose=False)
names = {row["index"]: os.path.basename(row["filename"])
         for row in csv.DictReader(open(sys.argv[2] + "/atrain_features.dat.csv"))}
groups = collections.defaultdict(list)
for row in csv.DictReader(open(sys.argv[2] + "/connected_components.csv")):
    groups[row["component_id"]].append(names[row["__id"]])
json.dump({"groups": [sorted(group) for group in groups.values() if len(group) > 1], "version": fastdup.__version__},
          open(sys.argv[3], "w"))
"""
CURATE = {"curate dedup": [], "curate dedup --signal exact --signal phash": ["--signal", "exact", "--signal", "phash"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--imagededup", help="the Python of an environment that holds it")
    parser.add_argument("--fastdup", help="the Python of an environment that holds it")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curate-benchmark-") as name:
        place = Path(name)
        files = copied(options.folder, place / "images")
        stored(files, Folder(str(place / "shards")))
        tools: dict[str, Callable[[Path], dict]] = {label: by_curate(place / "shards", more)
                                                    for label, more in CURATE.items()}  # fmt: skip
        for label, python, script in (("imagededup PHash", options.imagededup, IMAGEDEDUP),
                                      ("fastdup", options.fastdup, FASTDUP)):  # fmt: skip
            if python:
                tools[label] = by_script(python, script, place / "images")
        runs: dict[str, list[dict]] = {label: [] for label in tools}
        for number in range(options.rounds):
            for at, (label, tool) in enumerate(tools.items()):
                fresh = place / f"run{number}-{at}"
                fresh.mkdir()
                runs[label].append(tool(fresh))
                sys.stderr.write(f"{label}: {runs[label][-1]['wall_s']:.1f} s\n")
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "images": len(files),
            "rounds": options.rounds,
            "load_before_last": [round(load, 1) for load in os.getloadavg()],
            "tools": {label: told(each) for label, each in runs.items()},
            "agreement": agreement({label: each[-1]["groups"] for label, each in runs.items()}),
        }
    options.result.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def copied(folder: Path, place: Path) -> list[Path]:
    """All images of the folder side by side, under numbers."""
    place.mkdir()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_symlink())
    copies = []
    for number, path in enumerate(files):
        copies.append(place / f"{number:06d}{path.suffix.lower()}")
        copies[-1].write_bytes(path.read_bytes())
    return copies


def stored(files: list[Path], folder: Folder) -> None:
    """The same bytes in tar shards."""
    for start in range(0, len(files), PER_SHARD):
        members, rows = [], []
        for path in files[start : start + PER_SHARD]:
            width, height = size_of(path)
            members.append((path.name, path.read_bytes()))
            rows.append({"uid": shards.uid_of(path.name, ""), "key": path.stem, "url": path.name, "caption": "",
                         "status": "success", "width": width, "height": height})  # fmt: skip
        name = f"{start // PER_SHARD:05d}"
        shards.write(folder, name, shards.tar_bytes(members), pa.Table.from_pylist(rows), {})


def size_of(path: Path) -> tuple[int, int]:
    """(0, 0) where Pillow refuses: openclipart holds pictures of 231 megapixels, which each tool is asked for."""
    try:
        return Image.open(path).size
    except Image.DecompressionBombError:
        return 0, 0


def by_curate(dataset: Path, more: list[str]) -> Callable[[Path], dict]:
    def run(fresh: Path) -> dict:
        copy = fresh / "dataset"
        shutil.copytree(dataset, copy, copy_function=os.link)
        found = watched(
            [str(Path(sys.executable).with_name("curate")), "dedup", str(copy), "--name", "found", "-q", *more]
        )
        names = {}
        for shard in sorted(copy.glob("shards/*.parquet")):
            rows = pq.read_table(shard, columns=["uid", "url"])
            names |= dict(zip(rows["uid"].to_pylist(), rows["url"].to_pylist(), strict=True))
        groups = pq.read_table(copy / "reports" / "duplicates-found.parquet").to_pylist()
        found["groups"] = [[names[uid] for uid in (group["keeper"], *group["uids"])] for group in groups]
        return found

    return run


def by_script(python: str, script: str, images: Path) -> Callable[[Path], dict]:
    def run(fresh: Path) -> dict:
        (fresh / "script.py").write_text(script)
        (fresh / "work").mkdir()
        found = watched([python, str(fresh / "script.py"), str(images), f"{fresh}/work", f"{fresh}/found.json"])
        return found | json.loads((fresh / "found.json").read_text())

    return run


def watched(command: list[str]) -> dict:
    """Run it: seconds, CPU seconds of it and its children, and the most memory that they held at a time, in MB."""
    start, most = time.perf_counter(), 0
    spent: dict[int, float] = {}  # by process: nobody waits for the workers of a fork server, so no rusage counts them
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            most = max(most, resident(process.pid, spent))
            time.sleep(SAMPLED)
        wall = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}: {said.read()[-3000:].decode(errors='replace')}")
    return {"wall_s": wall, "cpu_s": sum(spent.values()), "rss_mb": most / 2**20}


def resident(pid: int, spent: dict[int, float]) -> int:
    """Bytes that a process and its children hold; notes what CPU each of them has spent."""
    total = 0
    try:
        for process in (own := psutil.Process(pid), *own.children(recursive=True)):
            with process.oneshot():
                total += process.memory_info().rss
                spent[process.pid] = sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:  # it ended between two looks
        return 0
    return total


def told(runs: list[dict]) -> dict:
    groups: Groups = runs[-1]["groups"]
    numbers = {key: round(statistics.median(run[key] for run in runs), 1) for key in ("wall_s", "cpu_s", "rss_mb")}
    return {
        **numbers,
        "removed": sum(len(group) - 1 for group in groups),
        "groups": len(groups),
        "largest group": max(map(len, groups), default=1),
        "version": runs[-1].get("version"),
    }


def agreement(groups: dict[str, Groups]) -> dict:
    """Images that two tools have in a group: how many each alone, how many both, and both of either."""
    held = {label: {name for group in each for name in group} for label, each in groups.items()}
    found, labels = {}, list(held)
    for at, first in enumerate(labels):
        for second in labels[at + 1 :]:
            a, b = held[first], held[second]
            found[f"{first} | {second}"] = {
                "both": len(a & b), "first alone": len(a - b), "second alone": len(b - a),
                "both of either": round(len(a & b) / max(1, len(a | b)), 3)}  # fmt: skip
    return found


def table(result: dict) -> str:
    lines = ["| | seconds | CPU seconds | memory, MB | removed | largest group |", "|---|---|---|---|---|---|"]
    for label, tool in result["tools"].items():
        lines.append(f"| {label} | {tool['wall_s']} | {tool['cpu_s']} | {tool['rss_mb']:.0f} | {tool['removed']:,} | "
                     f"{tool['largest group']} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
