"""Parquet files: DataComp's, LAION's or any other with a url and a text column."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from curate import pools

ROWS = 65_536  # rows in a batch


class Pool:
    """`path`: a file, a glob, a folder or a URL; `url`, `caption`: the columns."""

    def __init__(self, path: str, url: str = "url", caption: str = "caption"):
        self.path, self.url, self.caption = str(path), url, caption

    def parts(self) -> list[str]:
        return pools.files_of(self.path, "parquet")

    def read(self, part: str) -> Iterator[pa.Table]:
        rows = 0
        with pools.opened(part) as stored:
            try:
                file = pq.ParquetFile(stored)
                url, caption = pools.chosen(file.schema_arrow.names, self.url, self.caption, part, "parquet")
                for batch in file.iter_batches(ROWS, columns=list(dict.fromkeys([url, caption]))):
                    yield pools.pairs(batch[url], batch[caption])
                    rows += len(batch)
            except pools.DAMAGE as error:
                raise pools.damaged(part, rows, error) from error
