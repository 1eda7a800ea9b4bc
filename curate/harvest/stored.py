"""Images that lie in the pools themselves (tars, folders, parquet): read where they are, nothing is downloaded."""

import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from curate.files import Folder
from curate.harvest import samples
from curate.harvest.matches import WEB
from curate.harvest.resize import RESULTS, Resizer
from curate.harvest.select import PARTS
from curate.pools import open_pool

GONE = "no longer in the pool"


class Stored:
    """Reads the rows of a shard in the order of their pools; the face of a downloader."""

    def __init__(self, folder: Folder, resizer: Resizer):
        self.folder, self.resizer = folder, resizer

    def download(self, name: str, rows: pa.Table, scratch: str) -> tuple[str, pa.Table]:
        """A tar in `scratch`, and its rows: RESULTS. `rows` has part and row beside the columns of any pair.

        Raises BadShard where a pool's file is damaged, CurateError where it is gone.
        """
        path, done = f"{scratch}/{name}-stored.tar", []
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for pair, encoded in self._read(rows):
                result, jpeg = samples.result_of(encoded, self.resizer)
                done.append({"key": pair["key"], **result})
                if jpeg is not None:
                    samples.add(archive, pair, result, jpeg)
        missing = set(rows["key"].to_pylist()) - {result["key"] for result in done}
        done += [{"key": key, "status": "failed_to_download", "error_message": GONE} for key in sorted(missing)]
        return path, pa.Table.from_pylist(done, RESULTS)

    def _read(self, rows: pa.Table) -> Iterator[tuple[dict[str, Any], bytes]]:
        about = self.folder.read_json(PARTS)
        for part in sorted(set(rows["part"].to_pylist())):
            of_part = rows.filter(pa.compute.equal(rows["part"], part))
            pairs: dict[int, list[dict[str, Any]]] = {}  # one image may have several texts
            for number, pair in zip(of_part["row"].to_pylist(), without_place(of_part).to_pylist(), strict=True):
                pairs.setdefault(number, []).append(pair)
            pool = open_pool(about["pools"][part])
            for number, encoded in pool.images(about["paths"][part], sorted(pairs)):
                for pair in pairs[number]:
                    yield pair, encoded


def split(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows to fetch from the web, and the ones whose images lie in a pool."""
    web = pa.compute.equal(rows["part"], WEB)
    return rows.filter(web), rows.filter(pa.compute.invert(web))


def without_place(rows: pa.Table) -> pa.Table:
    """The rows as a shard shows them."""
    return rows.drop_columns(["part", "row"])
