"""Files that appear whole or not at all, on a disk or on any store that fsspec opens."""

import contextlib
import errno
import importlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from curate.errors import BadShard, CurateError
from curate.storage import disk
from curate.storage.scratch import FULL, blamed, half_written, scratch, sweep

UNWRITABLE = {*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
              errno.ENAMETOOLONG}  # fmt: skip
BLOCK, BLOCKS = 1 << 16, 8  # bytes and number of what `sample` reads: 0.5 MB of a tar of any size, in one go
HEAD = 1 << 14  # bytes that hold what a .npy file says of itself
MADE_BY = b"curate"  # parquet metadata key: JSON of whatever decided the content of the file


@dataclass(frozen=True)
class Folder:
    """A folder at `url`; names inside it are relative, with forward slashes. Picklable, opens nothing until used."""

    url: str

    @property
    def fs(self) -> Any:
        """Its filesystem as fsspec has it, which is imported for a store, or where it is asked for."""
        return self._store[0]

    @property
    def root(self) -> str:
        return disk.place(self.url) or self._store[1]

    @property
    def is_local(self) -> bool:
        return disk.place(self.url) is not None

    @property
    def _store(self) -> tuple[Any, str]:
        return importlib.import_module("curate.storage.stores").store(self.url)

    def path(self, name: str = "") -> str:
        """The path of `name` as its filesystem spells it (no protocol)."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def within(self, name: str) -> "Folder":
        return Folder(f"{self.url.rstrip('/')}/{name}")

    def exists(self, name: str = "") -> bool:
        return os.path.exists(self.path(name)) if self.is_local else self.fs.exists(self.path(name))

    def size(self, name: str) -> int:
        return os.path.getsize(self.path(name)) if self.is_local else int(self.fs.size(self.path(name)))

    def names(self, pattern: str) -> list[str]:
        """Sorted names of the files that match a glob, half-written ones left out."""
        if self.is_local:
            found = disk.names(self.root, pattern)
        else:
            prefix = len(self.root.rstrip("/")) + 1
            matches = self.fs.glob(self.path(pattern), detail=True)
            found = [path[prefix:] for path, about in matches.items() if about["type"] != "directory"]
        return sorted(name for name in found if not name.rsplit("/", 1)[-1].startswith("."))

    def read_bytes(self, name: str) -> bytes:
        return Path(self.path(name)).read_bytes() if self.is_local else self.fs.cat_file(self.path(name))

    def sample(self, name: str, size: int) -> str:
        """A hash of what a file of `size` bytes holds at BLOCKS evenly spread places, its first and last bytes among
        them; of all of it where it is small. A few bytes changed elsewhere are not seen; other images are."""
        last = max(0, size - BLOCK)
        starts = [last * at // (BLOCKS - 1) for at in range(BLOCKS)] if size > BLOCK * BLOCKS else [0]
        length = BLOCK if len(starts) > 1 else size
        if not size:
            parts = []
        elif self.is_local:
            parts = disk.ranges(self.path(name), starts, length)
        else:
            ends = [start + length for start in starts]
            parts = self.fs.cat_ranges([self.path(name)] * len(starts), starts, ends, on_error="raise")
        return xxhash.xxh3_64_hexdigest(b"".join(parts))

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise CurateError(f"{self.url}/{name} is not valid JSON ({error}); restore or delete it") from error

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        with self._blamed(name), self._opened(name) as source:
            # Arrow's threads must not hold a Python file: as the process ends they abort it (45 of 200 short ones)
            file = pq.ParquetFile(source, pre_buffer=self.is_local)  # pq.read_table takes a millisecond of CPU more
            names = file.schema_arrow.names
            columns = names if columns is None else columns
            for column in columns:
                if (number := names.count(column)) != 1:
                    how_many = f"{number} of its columns are" if number else "none of its columns is"
                    raise pa.ArrowInvalid(f"{how_many} called '{column}'")
            # read would also bring "a.b" for "a"
            return file.read(columns, use_threads=self.is_local).select(columns)

    @contextlib.contextmanager
    def parquet(self, name: str, dictionary: Sequence[str] = ()) -> Iterator[tuple[pq.ParquetFile, pa.NativeFile]]:
        """A parquet file opened once for its metadata and some columns, and the bytes that it lies in; `dictionary`:
        columns of text to read as they are coded. Raises BadShard."""
        with self._blamed(name), self._opened(name) as file:
            source = file if self.is_local else pa.PythonFile(file, mode="r")
            yield pq.ParquetFile(source, read_dictionary=list(dictionary)), source

    def schema(self, name: str) -> pa.Schema:
        """The columns of a parquet file. Raises BadShard."""
        with self._blamed(name), self._opened(name) as file:
            return pq.read_schema(file).remove_metadata()

    @contextlib.contextmanager
    def _blamed(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise BadShard(f"{self.url}/{name} is missing") from error
        except pa.ArrowInvalid as error:
            raise BadShard(f"{self.url}/{name} cannot be read: {str(error).strip().splitlines()[0]}") from error

    def _opened(self, name: str) -> Any:
        """A file to read, as Arrow takes it."""
        return pa.OSFile(self.path(name)) if self.is_local else self.fs.open(self.path(name), "rb")

    def read_array(self, name: str) -> np.ndarray:
        """A .npy file; memory-mapped where the folder is on a local disk. Raises BadShard."""
        try:
            with self._blamed(name):
                where = self.path(name) if self.is_local else io.BytesIO(self.read_bytes(name))
                return np.load(where, mmap_mode="r" if self.is_local else None)
        except (EOFError, ValueError) as error:
            raise BadShard(f"{self.url}/{name} cannot be read: {str(error).splitlines()[0]}; delete it") from error

    def read_rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The rows of a .npy file from `start` up to `stop`; nothing else is read and, unlike a mapped array, nothing
        stays open: an array of as many files as there are shards."""
        head = io.BytesIO(self._bytes(name, 0, HEAD))
        np.lib.format.read_magic(head)
        shape, _, like = np.lib.format.read_array_header_1_0(head)
        width, first, stop = like.itemsize * int(np.prod(shape[1:])), head.tell(), shape[0] if stop is None else stop
        held = self._bytes(name, first + start * width, first + stop * width) if start < stop else b""
        return np.frombuffer(held, like).reshape(stop - start, *shape[1:])

    def _bytes(self, name: str, start: int, stop: int) -> bytes:
        if self.is_local:
            return disk.ranges(self.path(name), [start], stop - start)[0]
        return self.fs.cat_file(self.path(name), start, stop)

    def made_by(self, name: str) -> dict[str, Any] | None:
        """What made a parquet file, or None where the file is not there. Raises BadShard."""
        if not self.exists(name):
            return None
        with self._blamed(name), self._opened(name) as file:
            metadata = pq.read_schema(file).metadata or {}
        return json.loads(metadata.get(MADE_BY, b"{}"))

    def write_bytes(self, name: str, data: bytes) -> None:
        with self.writing(name) as temporary:
            Path(temporary).write_bytes(data)

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())

    def write_table(self, name: str, table: pa.Table, made_by: dict[str, Any] | None = None,
                    dictionary: list[str] | bool = True, encoding: dict[str, str] | None = None) -> None:  # fmt: skip
        """The same table and `made_by` always give the same bytes; `dictionary`: columns whose values repeat;
        `encoding`: parquet's, of columns that have a better one."""
        table = table.replace_schema_metadata(metadata_of(made_by))
        if dictionary is True and encoding is None:
            dictionary, encoding = _encodings(table.schema)
        with self.writing(name) as temporary:
            pq.write_table(table, temporary, compression="zstd", use_dictionary=dictionary, column_encoding=encoding)

    def write_tables(self, name: str, schema: pa.Schema, tables: Iterable[pa.Table],
                     made_by: dict[str, Any] | None = None) -> None:  # fmt: skip
        """As `write_table` writes one, of tables that come one after the other, a row group each."""
        schema = schema.with_metadata(metadata_of(made_by))
        with self.writing(name) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
            for table in tables:
                file.write_table(table.replace_schema_metadata(schema.metadata))

    def write_array(self, name: str, array: np.ndarray, lasting: bool = True) -> None:
        array = np.ascontiguousarray(array)
        with self.writing(name, lasting) as temporary, open(temporary, "wb") as file:
            # what np.save writes; np.save itself does not say why a write failed
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.reshape(-1).view(np.uint8).data)

    @contextlib.contextmanager
    def writing(self, name: str, lasting: bool = True) -> Iterator[str]:
        """A local path to write; when the block ends without an error the file is at `name`, whole. One that is not
        `lasting` need not outlive a power cut: the disk is not waited for."""
        if not self.is_local:
            with scratch() as folder:
                temporary = f"{folder}/file"
                yield temporary
                with blamed(f"{self.url}/{name}", UNWRITABLE):
                    self.fs.makedirs(self.path(name).rsplit("/", 1)[0], exist_ok=True)
                    self.fs.put_file(temporary, self.path(name))
            return
        final = Path(self.path(name))
        temporary_path = half_written(final)
        with blamed(str(final), {*UNWRITABLE, errno.ENOENT, errno.EINVAL}):
            os.makedirs(final.parent, exist_ok=True)
        try:
            with blamed(str(final), UNWRITABLE):
                yield str(temporary_path)
                if lasting:
                    _sync(temporary_path)
                os.replace(temporary_path, final)
        finally:
            with contextlib.suppress(OSError):  # it is not there; where nothing can be written this fails as that did
                temporary_path.unlink()

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[str]:
        """A path on this machine to read `name` from: the file itself, or a copy that goes when the block ends."""
        if not self.exists(name):
            raise BadShard(f"{self.url}/{name} is missing")
        if self.is_local:
            yield self.path(name)
            return
        with scratch() as folder:
            self.fs.get_file(self.path(name), f"{folder}/file")
            yield f"{folder}/file"

    def remove(self, name: str) -> None:
        """Delete a file or a whole subfolder; nothing happens where it is not there."""
        if self.exists(name):
            disk.remove(self.path(name)) if self.is_local else self.fs.rm(self.path(name), recursive=True)

    def sweep(self) -> None:
        """Remove what processes of this machine that no longer live left half-written."""
        if self.is_local:
            sweep(self.root)


def metadata_of(made_by: dict[str, Any] | None) -> dict[bytes, bytes]:
    """What stands in a file's schema for `made_by`: the same JSON, whatever the order of its keys."""
    return {MADE_BY: json.dumps(made_by or {}, sort_keys=True).encode()}


def _encodings(schema: pa.Schema) -> tuple[list[str] | bool, dict[str, str] | None]:
    """Floats hardly repeat: split by the place of their bytes they are written in a ninth of the time that a dictionary
    takes, read in half, and 0.6 as large. Parquet names nested columns otherwise: a table with one stays as it is."""
    floats = [field.name for field in schema if pa.types.is_float32(field.type) or pa.types.is_float64(field.type)]
    if not floats or any(pa.types.is_nested(field.type) for field in schema):
        return True, None
    return [name for name in schema.names if name not in floats], dict.fromkeys(floats, "BYTE_STREAM_SPLIT")


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
