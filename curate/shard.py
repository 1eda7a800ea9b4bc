"""One shard, exactly as img2dataset lays it out: 00000.tar, 00000.parquet, 00000_stats.json."""

import io
import json
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash

from curate import arrow, tar
from curate.errors import BadShard
from curate.files import Folder
from curate.tar import IMAGE_EXTENSIONS

SUCCESS = "success"


def uid_of(url: str, text: str) -> str:
    """128-bit xxh3 of url, NUL, text as 32 hex digits (the form of DataComp's uid)."""
    return xxhash.xxh3_128_hexdigest(f"{url}\0{text}".encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Shard:
    """A shard of a dataset folder. Picklable, so tasks carry it to other processes and machines."""

    folder: Folder  # the dataset's folder
    name: str
    place: str = "shards/"  # "" for the shards of a plain img2dataset or webdataset folder

    def __str__(self) -> str:
        return f"{self.place}{self.name}"

    @property
    def tar(self) -> str:
        return f"{self.place}{self.name}.tar"

    @property
    def parquet(self) -> str:
        return f"{self.place}{self.name}.parquet"

    def rows(self, columns: Collection[str] | None = None) -> pa.Table:
        """The pairs that have an image, sorted by uid: uid, key, url, caption and what else the sidecar holds.

        Reads the parquet sidecar, or the txt and json members where a tar came without one. Where there is no uid
        column it is computed from url and caption. Of rows with one uid the first key stays. Raises BadShard.
        With `columns`, no other column needs to be right: most are not read, which saves most of the time.
        """
        if self.folder.exists(self.parquet):
            table = self.folder.read_table(self.parquet, self._needed(columns))
            if "status" in table.column_names:
                table = table.filter(arrow.compute().equal(table["status"], SUCCESS))
        else:
            table = self._rows_of_tar()
        return _sorted_by_uid(_named(table, self))

    def schema(self) -> pa.Schema:
        """The columns of `rows`, without reading them. Raises BadShard."""
        if not self.folder.exists(self.parquet):
            return self.rows().schema
        return _named(pa.Table.from_batches([], self.folder.schema(self.parquet)), self).schema

    def _needed(self, columns: Collection[str] | None) -> list[str] | None:
        """What to read of the parquet for these columns; None: everything."""
        if columns is None or "uid" not in (names := self.folder.schema(self.parquet).names):
            return None
        captions = ("caption", "text", "txt") if "caption" in columns else ()
        return [name for name in names if name in {"uid", "key", "status", *captions, *columns}]

    @contextmanager
    def images(self) -> Iterator["Images"]:
        """The encoded images by key, read from the tar as they are asked for. Raises BadShard on a damaged tar."""
        with self.folder.local(self.tar) as path, tar.opened(path) as view:
            found = ((s.key, image_member(s)) for s in tar.samples(view, f"{self.folder.url}/{self.tar}"))
            yield Images(view, {key: member for key, member in found if member})

    def _rows_of_tar(self) -> pa.Table:
        rows = []
        with self.folder.local(self.tar) as path, tar.opened(path) as view:
            for sample in tar.samples(view, f"{self.folder.url}/{self.tar}"):
                parts = {ext: bytes(view[m.data : m.data + m.size]) for ext, m in sample.members.items()
                         if ext in ("txt", "json")}  # fmt: skip
                if image_member(sample):
                    rows.append(_row(sample.key, parts, str(self)))
        return pa.Table.from_pylist(rows) if rows else pa.table({"key": pa.array([], pa.string())})


class Images(Mapping[str, bytes]):
    """key -> encoded image, in the order of the tar."""

    def __init__(self, view: memoryview, members: dict[str, tar.Member]):
        self._view, self._members = view, members

    def __getitem__(self, key: str) -> bytes:
        member = self._members[key]
        return bytes(self._view[member.data : member.data + member.size])

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def image_member(sample: tar.Sample) -> tar.Member | None:
    """The image of a sample, or None where it has none."""
    for extension in IMAGE_EXTENSIONS:
        if extension in sample.members:
            return sample.members[extension]
    return None


def tar_bytes(files: Iterable[tuple[str, bytes]]) -> bytes:
    """An uncompressed tar of (name, content); the same files always give the same bytes."""
    buffer = io.BytesIO()
    write_tar(buffer, files)
    return buffer.getvalue()


def write_tar(out: IO[bytes], files: Iterable[tuple[str, bytes]]) -> None:
    """Stream (name, content) into an uncompressed tar; the same files always give the same bytes."""
    written = 0
    for name, content in files:
        written += out.write(_header(name, len(content)) + content + tar.padding(len(content)))
    out.write(bytes(2 * tar.BLOCK + -(written + 2 * tar.BLOCK) % tarfile.RECORDSIZE))


def _header(name: str, size: int) -> bytes:
    if tar.fits(name, size):
        return tar.header(name, size)
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = size, 0o444, "", ""
    return info.tobuf(tarfile.PAX_FORMAT)


def write(folder: Folder, name: str, archive: bytes | Iterable[tuple[str, bytes]], table: pa.Table,
          stats: dict[str, Any], made_by: dict[str, Any] | None = None) -> None:  # fmt: skip
    """Write the three files of a shard; the stats last, since they say that the shard is done.

    `archive` is a whole tar, or the (name, content) of its members to stream into one.
    """
    if isinstance(archive, bytes):
        folder.write_bytes(f"shards/{name}.tar", archive)
    else:
        with folder.writing(f"shards/{name}.tar") as temporary, open(temporary, "wb") as out:
            write_tar(out, archive)
    folder.write_table(f"shards/{name}.parquet", table, made_by)
    folder.write_json(f"shards/{name}_stats.json", stats)


def write_sizes(folder: Folder, pairs: Mapping[str, int]) -> None:
    """Write shards/sizes.json, in which open_clip and DataComp look up how many pairs each tar holds.

    `pairs` by shard ("shards/00000"); tars that it does not name are counted as their stats say.
    """
    names = (name.removesuffix(".tar") for name in folder.names("shards/*.tar"))
    known = ((name, pairs[name] if name in pairs else _successes(folder, name)) for name in names)
    folder.write_json("shards/sizes.json", {f"{name.removeprefix('shards/')}.tar": count for name, count in known})


def _successes(folder: Folder, name: str) -> int:
    stats = f"{name}_stats.json"
    return folder.read_json(stats)["successes"] if folder.exists(stats) else 0


def _row(key: str, parts: dict[str, bytes], shard: str) -> dict[str, Any]:
    row: dict[str, Any] = {"key": key, "url": "", "caption": ""}
    if "json" in parts:
        try:
            found = json.loads(parts["json"])
        except ValueError as error:
            raise BadShard(f"{shard}: {key}.json is not valid JSON: {error}") from error
        row |= {k: v for k, v in found.items() if isinstance(v, str | int | float) and k != "key"}
        row["caption"] = row["caption"] or row.get("text", "")
    if "txt" in parts:
        row["caption"] = parts["txt"].decode("utf-8", "replace")
    return row


def _named(table: pa.Table, shard: Shard) -> pa.Table:
    """The table with a uid, a key, a url and a caption column, whatever the shard came with."""
    if "key" not in table.column_names:
        raise BadShard(f"{shard.folder.url}/{shard.parquet} has no column 'key'; img2dataset's layout is expected")
    caption = next((name for name in ("caption", "text", "txt") if name in table.column_names), None)
    columns = {
        "key": arrow.text(table["key"]),
        "url": _text(table, "url"),
        "caption": _text(table, caption),
    }
    if "uid" in table.column_names:
        uids = arrow.text(table["uid"])
    else:
        named = zip(columns["url"].to_pylist(), columns["caption"].to_pylist(), columns["key"].to_pylist(), strict=True)
        uids = pa.chunked_array([pa.array([uid_of(url or key, text) for url, text, key in named], pa.string())])
    others = {name: table[name] for name in table.column_names if name not in {*columns, "uid", caption}}
    return pa.table({"uid": uids, **columns, **others})


def _text(table: pa.Table, name: str | None) -> pa.ChunkedArray:
    if name is None or name not in table.column_names:
        return pa.chunked_array([pa.array([""] * len(table), pa.string())])
    text = arrow.text(table[name])
    return text.fill_null("") if text.null_count else text


def _sorted_by_uid(table: pa.Table) -> pa.Table:
    table = table.sort_by([("uid", "ascending"), ("key", "ascending")]).combine_chunks()
    if len(table) < 2:
        return table
    uids = table["uid"].to_numpy(zero_copy_only=False)
    first = np.concatenate(([True], uids[1:] != uids[:-1]))
    return table if first.all() else table.filter(pa.array(first))
