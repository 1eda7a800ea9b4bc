"""Images that lie in the pools themselves (tars, folders, parquet): read where they are, nothing is downloaded."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from curate.files import Folder
from curate.harvest.choose.matches import WEB
from curate.harvest.choose.select import PARTS
from curate.harvest.download import samples
from curate.harvest.pixels.results import RESULTS
from curate.pools import open_pool

GONE = "missing or damaged in the pool"


class Stored:
    """Reads the rows of a shard in the order of their pools; the face of a downloader."""

    def __init__(self, folder: Folder, resizer: Any):
        self.folder, self.resizer = folder, resizer

    def download(self, name: str, rows: pa.Table, scratch: str) -> tuple[str, pa.Table]:
        """A tar in `scratch`, and its rows: RESULTS. `rows` has part and row beside the columns of any pair.

        An image that fits as it is stays byte for byte. Raises BadShard where a pool's store does not answer,
        CurateError where its file is gone.
        """
        path, done = f"{scratch}/{name}-stored.tar", []
        with samples.archive(path) as archive:
            for pairs, encoded in self._read(rows):
                result, jpeg = samples.result_of(encoded, self.resizer.kept)
                for pair in pairs:
                    done.append({"key": pair["key"], **result})
                    if jpeg is not None:
                        samples.add(archive, pair, result, jpeg)
        missing = set(rows["key"].to_pylist()) - {result["key"] for result in done}
        done += [{"key": key, "status": "failed_to_download", "error_message": GONE} for key in sorted(missing)]
        return path, pa.Table.from_pylist(done, RESULTS)

    def _read(self, rows: pa.Table) -> Iterator[tuple[list[dict[str, Any]], bytes]]:
        """Each image, and the pairs that it is in."""
        about = self.folder.read_json(PARTS)
        for part in sorted(set(rows["part"].to_pylist())):
            of_part = rows.filter(pa.compute.equal(rows["part"], part))
            pairs: dict[int, list[dict[str, Any]]] = {}  # one image may have several texts
            for number, pair in zip(of_part["row"].to_pylist(), without_place(of_part).to_pylist(), strict=True):
                pairs.setdefault(number, []).append(pair)
            pool = open_pool(about["pools"][part])
            for number, encoded in pool.images(about["paths"][part], sorted(pairs)):
                yield pairs[number], encoded


def split(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows to fetch from the web, and the ones whose images lie in a pool."""
    web = pa.compute.equal(rows["part"], WEB)
    return rows.filter(web), rows.filter(pa.compute.invert(web))


def without_place(rows: pa.Table) -> pa.Table:
    """The rows as a shard shows them."""
    return rows.drop_columns(["part", "row"])
