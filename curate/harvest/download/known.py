"""Urls that an earlier round fetched already, for another text: their images are copied, nothing is asked for twice."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate import ranges
from curate.files import Folder
from curate.harvest.download import samples
from curate.harvest.download.place import Place
from curate.harvest.download.reasons import passing
from curate.harvest.pixels.results import RESULTS
from curate.shard import SUCCESS, Shard

KEY = b'"key": "%b"'


class Known:
    """What the shards of earlier rounds say of the urls of one shard: `earlier` has any place of each round."""

    def __init__(self, folder: Folder, earlier: Sequence[Place], place: Place, urls: pa.ChunkedArray):
        self.folder = folder
        self.found: dict[str, tuple[str, dict[str, Any]]] = {}  # by url: its shard, and what became of it there
        for before in (shard for of in earlier for shard in overlapping(of, place)):
            table = folder.read_table(f"{before}.parquet", ["url", *RESULTS.names])
            for row in table.filter(pc.is_in(table["url"], urls.combine_chunks())).to_pylist():
                url = row.pop("url")
                if row["status"] == SUCCESS or not passing(row["error_message"]):
                    self.found.setdefault(url, (before.name, row))

    def split(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The rows that are known, and the others."""
        known = pc.is_in(rows["url"], pa.array(list(self.found), pa.string()))
        return rows.filter(known), rows.filter(pc.invert(known))

    def download(self, name: str, rows: pa.Table, scratch: str) -> tuple[str, pa.Table]:
        """A tar in `scratch`, and the rows of it: RESULTS; the face of a downloader, for rows that are known."""
        path, done = f"{scratch}/{name}-known.tar", []
        pairs: dict[str, list[dict[str, Any]]] = {}  # by shard
        for pair in rows.to_pylist():
            pairs.setdefault(self.found[pair["url"]][0], []).append(pair)
        with samples.archive(path) as archive:
            for before, some in sorted(pairs.items()):
                with Shard(self.folder, before).images() as images:
                    for pair in some:
                        row = self.found[pair["url"]][1]
                        result = {name: value for name, value in row.items() if name != "key" and value is not None}
                        done.append({"key": pair["key"], **result})
                        if result["status"] == SUCCESS:
                            samples.add(archive, pair, result, images[row["key"]])
        return path, pa.Table.from_pylist(done, RESULTS)


def overlapping(of: Place, place: Place) -> Iterator[Place]:
    """The shards of a round, of which one is given, that may hold a url of a shard of another."""
    start, stop = ranges.bounds(place.number, place.of)
    for number in range(start * of.of // ranges.END, (stop - 1) * of.of // ranges.END + 1):
        yield replace(of, number=number)


def renumbered(name: str, rows: pa.Table) -> tuple[pa.Table, dict[str, str]]:
    """The rows with keys that count up from 0, as downloaders want them, and the key of each that it should have."""
    keys = rows["key"].to_pylist()
    digits = len(keys[0]) - len(name)
    provisional = [f"{name}{number:0{digits}d}" for number in range(len(keys))]
    return rows.set_column(rows.column_names.index("key"), "key", pa.array(provisional)), dict(zip(provisional, keys))


def renamed(extension: str, content: bytes, key: str, wanted: str) -> tuple[str, bytes]:
    """A member of a tar under the key that it should have."""
    if extension == "json" and key != wanted:
        content = content.replace(KEY % key.encode(), KEY % wanted.encode(), 1)
    return f"{wanted}.{extension}", content
