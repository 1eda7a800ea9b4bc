"""Download the kept pairs: each url belongs to one shard by its hash, each shard is one task."""

import collections
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from curate import named, ranges, shard, tar
from curate.dataset import fingerprint
from curate.errors import CurateError
from curate.files import Folder
from curate.harvest.download import known, stored
from curate.harvest.download.place import Place
from curate.harvest.download.reasons import LOST
from curate.harvest.pixels.results import RESULTS
from curate.named import Spec
from curate.shuffle import Ranged
from curate.storage.scratch import scratch
from curate.work import Report

Archive = tuple[str, dict[str, str]]  # a tar, and the keys that some of its samples should have instead
SAID = {"of": "shard-size", "pairs": "the pairs in it"}
ORDER = {"jpg": 0, "txt": 1, "json": 2}


@dataclass(frozen=True)
class Download:
    """Write one shard, unless it is there: made of the same pairs with the same options, and not without any image."""

    folder: Folder
    kept: Ranged  # the files that hold the kept pairs, sorted by place
    downloader: Spec
    earlier: tuple[Place, ...] = ()  # of each earlier round any shard

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
                views = [(stack.enter_context(tar.opened(path)), keys) for path, keys in archives]
                shard.write(self.folder, place.name, _members(views, str(place)), table, stats, made_by)
        return Report(str(place), len(rows), stats["status_dict"])

    def _downloaded(self, place: Place, rows: pa.Table, worker: Any, folder: str) -> tuple[list[Archive], pa.Table]:
        """Tars in `folder`, and what became of every row: from the web, from an earlier round, from the pools."""
        web, inside = stored.split(rows)
        earlier = known.Known(self.folder, self.earlier, place, web["url"])
        again, web = earlier.split(stored.without_place(web))
        archives, tables = [], [RESULTS.empty_table()]
        if len(web):
            web, keys = known.renumbered(place.name, web)
            path, results = worker.download(place.name, web, folder)
            wanted = pa.array([keys[key] for key in results["key"].to_pylist()], pa.string())
            archives.append((path, keys))
            tables.append(results.set_column(results.column_names.index("key"), "key", wanted))
        for source, some in ((earlier, again), (stored.Stored(self.folder, worker.resizer), inside)):
            if len(some):
                path, results = source.download(place.name, some, folder)
                archives.append((path, {}))
                tables.append(results)
        return archives, pa.concat_tables(table.select(RESULTS.names).cast(RESULTS) for table in tables)


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
    changed = ", ".join(SAID.get(key, key) for key in made_by if before.get(key) != made_by[key])
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


def _members(archives: list[tuple[memoryview, dict[str, str]]], name: str) -> Iterator[tuple[str, bytes]]:
    found = ((keys.get(s.key, s.key), s, view) for view, keys in archives for s in tar.samples(view, name))
    for key, sample, view in sorted(found, key=lambda item: item[0]):
        for extension in sorted(sample.members, key=ORDER.__getitem__):
            member = sample.members[extension]
            yield known.renamed(extension, bytes(view[member.data : member.data + member.size]), sample.key, key)


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
