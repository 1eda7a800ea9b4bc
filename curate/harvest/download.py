"""Download the kept pairs: each url belongs to one shard by its hash, each shard is one task."""

import collections
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from curate import named, shard, tar
from curate.dataset import fingerprint
from curate.errors import CurateError
from curate.files import Folder, scratch
from curate.harvest import ranges, stored
from curate.harvest.resize import RESULTS
from curate.harvest.shuffle import Ranged
from curate.named import Spec
from curate.work import Report

ORDER = {"jpg": 0, "txt": 1, "json": 2}
LOST = "lost by the downloader"


@dataclass(frozen=True)
class Place:
    """One shard of a round: the pairs whose place lies in the number-th of `of` equal ranges."""

    number: int
    of: int
    first: int = 0  # shards of the rounds before
    width: int = 5  # digits of its name

    def __str__(self) -> str:
        return f"shards/{self.name}"

    @property
    def name(self) -> str:
        return f"{self.first + self.number:0{self.width}d}"


@dataclass(frozen=True)
class Download:
    """Write one shard, unless it is there: made of the same pairs with the same options, and not without any image."""

    folder: Folder
    kept: Ranged  # the files that hold the kept pairs, sorted by place
    downloader: Spec

    def __call__(self, place: Place) -> Report:
        rows = _rows(self.folder, self.kept, place)
        worker = _downloader(self.downloader)
        made_by = {"pairs": fingerprint(rows["key"].to_pylist() + rows["uid"].to_pylist()), "of": place.of,
                   **worker.made_by}  # fmt: skip
        stats = _done(self.folder, place, made_by)
        if stats:
            return Report(str(place), len(rows), stats["status_dict"], skipped=True)
        start = time.time()
        with scratch() as folder:
            archives, results = self._downloaded(place, rows, worker, folder)
            table = _joined(stored.without_place(rows), results)
            stats = _stats(table, start)
            with contextlib.ExitStack() as stack:
                views = [stack.enter_context(tar.opened(path)) for path in archives]
                shard.write(self.folder, place.name, _members(views, str(place)), table, stats, made_by)
        return Report(str(place), len(rows), stats["status_dict"])

    def _downloaded(self, place: Place, rows: pa.Table, worker: Any, folder: str) -> tuple[list[str], pa.Table]:
        """Tars in `folder`, and what became of every row: from the web, and from the pools themselves."""
        web, inside = stored.split(rows)
        done = []
        if len(web):
            done.append(worker.download(place.name, stored.without_place(web), folder))
        if len(inside):
            done.append(stored.Stored(self.folder, worker.resizer).download(place.name, inside, folder))
        tables = [results.select(RESULTS.names).cast(RESULTS) for _, results in done]
        return [path for path, _ in done], pa.concat_tables(tables) if tables else RESULTS.empty_table()


def _rows(folder: Folder, kept: Ranged, place: Place) -> pa.Table:
    """The pairs of a shard, those from the web first, in the order of (url, uid), with their keys."""
    start, stop = ranges.bounds(place.number, place.of)
    table = ranges.between(folder, kept.over(start, stop), "place", start, stop).drop_columns(["place"])
    table = pa.concat_tables(
        part.sort_by([("url", "ascending"), ("uid", "ascending")]) for part in stored.split(table)
    ).combine_chunks()
    digits = max(4, len(str(len(table) - 1)))
    keys = pa.array([f"{place.name}{number:0{digits}d}" for number in range(len(table))], pa.string())
    return table.add_column(0, "key", keys).rename_columns({"text": "caption"})


def _done(folder: Folder, place: Place, made_by: dict[str, Any]) -> dict[str, Any] | None:
    """The stats of a finished shard. Raises CurateError where it is another one under the same name."""
    if not folder.exists(f"{place}_stats.json"):
        return None
    stats = folder.read_json(f"{place}_stats.json")
    before = folder.made_by(f"{place}.parquet") or {}
    if before == made_by or not stats.get("successes"):
        return stats if stats.get("successes") or not stats.get("count") else None
    changed = ", ".join(key for key in made_by if before.get(key) != made_by[key])
    raise CurateError(
        f"{folder.url}/{place} is there already, made with other options ({changed}); "
        "harvest into a new dataset, or delete the folder shards of this one"
    )


def _joined(rows: pa.Table, results: pa.Table) -> pa.Table:
    """Every pair in the order of the keys, the ones without an image too, with what became of it."""
    found = {row["key"]: row for row in results.to_pylist()}
    lost = {"status": "failed_to_download", "error_message": LOST}
    said = RESULTS.remove(RESULTS.get_field_index("key"))
    table = pa.Table.from_pylist([found.get(key, lost) for key in rows["key"].to_pylist()], said)
    for name in said.names:
        rows = rows.append_column(name, table[name])
    uid = rows.column_names.index("uid")
    return rows.select([uid, *(i for i in range(rows.num_columns) if i != uid)])


def _members(views: list[memoryview], name: str) -> Iterator[tuple[str, bytes]]:
    found = ((view, sample) for view in views for sample in tar.samples(view, name))
    for view, sample in sorted(found, key=lambda item: item[1].key):
        for member in (sample.members[kind] for kind in sorted(sample.members, key=ORDER.__getitem__)):
            yield member.name, bytes(view[member.data : member.data + member.size])


def _stats(table: pa.Table, start: float) -> dict[str, Any]:
    """The numbers of a shard under img2dataset's keys."""
    status = collections.Counter(table["status"].to_pylist())
    reasons = collections.Counter(error or shard.SUCCESS for error in table["error_message"].to_pylist())
    end = time.time()
    return {
        "count": len(table),
        "successes": status[shard.SUCCESS],
        "failed_to_download": status["failed_to_download"],
        "failed_to_resize": status["failed_to_resize"],
        "duration": end - start,
        "start_time": start,
        "end_time": end,
        "status_dict": dict(reasons),
    }


@lru_cache(maxsize=2)
def _downloader(spec: Spec) -> Any:
    return named.load("harvest.downloaders", spec)
