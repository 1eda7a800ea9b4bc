"""The files of a list: the queries, the table with origin and count, what was dropped, the statistics."""

import gzip
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curate.errors import CurateError
from curate.files import Folder

ENDINGS = (".txt", ".txt.gz", ".parquet", ".tsv")


@dataclass(frozen=True)
class Output:
    """FILE is .txt or .txt.gz (queries alone; the table goes beside it as .parquet), .parquet or .tsv (the table).

    Beside it: NAME.dropped.tsv and, last, NAME.json: that it is there means that all of them are whole.
    """

    folder: Folder
    stem: str
    ending: str

    @classmethod
    def at(cls, path: str) -> "Output":
        ending = next((ending for ending in reversed(ENDINGS) if path.endswith(ending)), None)
        ending = ".txt.gz" if path.endswith(".txt.gz") else ending
        folder, slash, name = path.rpartition("/")
        if ending is None or name == ending:
            raise CurateError(f"--out {path}: name a file that ends in {', '.join(ENDINGS)}")
        return cls(Folder(folder or ("/" if slash else ".")), name.removesuffix(ending), ending)

    @property
    def name(self) -> str:
        return self.stem + self.ending

    @property
    def table_name(self) -> str:
        return self.stem + (".tsv" if self.ending == ".tsv" else ".parquet")

    def existing(self, made_by: dict[str, Any]) -> dict[str, Any] | None:
        """The statistics of a list that is there already, made in the same way; None where there is no list.

        Raises CurateError where another list, or another file, is in the way.
        """
        if not self.folder.exists(f"{self.stem}.json"):
            if self.folder.exists(self.name):
                raise CurateError(f"{self.name} is there and is none of this command's; choose another --out")
            return None
        statistics = self.folder.read_json(f"{self.stem}.json")
        found = statistics.get("made_by", {})
        if found != made_by:
            differs = sorted(key for key in {*found, *made_by} if found.get(key) != made_by.get(key))
            raise CurateError(
                f"{self.name} was made with other options ({', '.join(differs)}); "
                f"delete {self.stem}.json to make it anew, or choose another --out"
            )
        complete = all(self.folder.exists(name) for name in (self.name, self.table_name))
        return statistics if complete else None

    def write(self, table: pa.Table, dropped: Iterable[tuple[str, str, str]], statistics: dict[str, Any]) -> None:
        rows = ["query\tsource\treason", *("\t".join(row) for row in dropped)]
        self.folder.write_bytes(f"{self.stem}.dropped.tsv", _lines(rows))
        if self.ending == ".tsv":
            self.folder.write_bytes(self.table_name, _tsv(table))
        else:
            self.folder.write_table(self.table_name, table, statistics["made_by"])
        if self.ending.startswith(".txt"):
            text = _lines(table["query"].to_pylist())
            self.folder.write_bytes(self.name, _gzipped(text) if self.ending == ".txt.gz" else text)
        self.folder.write_json(f"{self.stem}.json", statistics)


def _tsv(table: pa.Table) -> bytes:
    rows = zip(table["query"].to_pylist(), table["origin"].to_pylist(), table["count"].to_pylist(),
               table["origins"].to_pylist())  # fmt: skip
    return _lines(
        ["query\torigin\tcount\torigins", *(f"{q}\t{origin}\t{n}\t{','.join(all_)}" for q, origin, n, all_ in rows)]
    )


def _lines(rows: list[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode("utf-8", "backslashreplace")


def _gzipped(data: bytes) -> bytes:
    """The same bytes every time: no name and no date inside."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()
