"""Pools of urls and texts: which kind a path is, which files it holds, how their columns and bytes are read."""

import bz2
import functools
import io
import lzma
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

import fsspec
import pyarrow as pa

from curate import named
from curate.errors import BadShard, CurateError

BLOCK = 1 << 20  # bytes read at a time
WAITS = (1.0, 5.0, 25.0)  # seconds before a store is asked again
DAMAGE = (zlib.error, lzma.LZMAError, EOFError, pa.ArrowInvalid, OSError)  # what reading a broken file raises
CODECS: dict[str, Callable[[], Any]] = {
    ".gz": functools.partial(zlib.decompressobj, 31),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}
ENDINGS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".wat": "wat", "wat.paths": "wat", ".warc": "warc", "warc.paths": "warc",
}  # fmt: skip
ALSO = {"url": ("url", "URL", "image_url"), "caption": ("caption", "text", "alt", "TEXT", "top_caption")}


class Pool(Protocol):
    """What one file of curate/pools gives. See docs/add-a-pool.md."""

    def parts(self) -> list[str]:
        """The files, sorted."""
        ...

    def read(self, part: str) -> Any:
        """Yield tables of string columns url, caption. Raises CurateError, and BadShard after the rows before it.

        A pool that holds the images themselves adds `row`, int64, the number of the image in its part, counted from 0
        without a gap, and has `images(part, rows)`: it yields (row, encoded image) for these ascending row numbers.
        The url, never empty, then only says where the image comes from.
        """
        ...


def open_pool(text: str) -> Any:
    """The pool behind a path or URL, whose kind its ending tells, or behind "kind(path=..., url=..., caption=...)"."""
    head, bracket, rest = text.partition("(")
    if bracket and rest.rstrip().endswith(")") and head.strip() in named.available("pools"):
        return named.load("pools", text)
    kind = kind_of(text) or _kind_inside(text)
    return named.plugin("pools", named.parse(kind))(path=text)


def kind_of(path: str) -> str | None:
    """The kind of a file by its ending, compression left aside; None where the ending tells nothing."""
    name = path.rstrip("/").rsplit("/", 1)[-1].lower()
    for compression in (*CODECS, ".zst"):
        name = name.removesuffix(compression)
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def files_of(path: str, kind: str) -> list[str]:
    """The files of a pool, sorted: one file, those that match a glob, or those of this kind in a folder.

    Raises CurateError where there is none.
    """
    fs, root = _open(path)
    if any(sign in path for sign in "*?["):
        found = [str(name) for name in fs.glob(root)]
    elif fs.isfile(root):
        found = [root]
    elif fs.isdir(root):
        found = [str(name) for name in fs.find(root) if kind_of(str(name)) == kind]
    else:
        raise CurateError(f"no such pool: {path}")
    visible = [name for name in found if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not visible:
        raise CurateError(f"the pool {path} holds no {kind} file")
    return sorted(name if _is_local(fs) else fs.unstrip_protocol(name) for name in visible)


def size_of(part: str) -> int:
    """Bytes of a file of a pool; 0 where its store does not tell, or has no such file."""
    fs, root = _open(part)
    try:
        return int(persist(lambda: fs.size(root)) or 0)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise CurateError(f"{part} cannot be reached: {error}") from error


def chosen(columns: list[str], url: str, caption: str, part: str, kind: str) -> tuple[str, str]:
    """The names of the url and the caption column; the usual other names count where the default one is missing.

    Raises CurateError that names the file, its columns and the option.
    """
    found = []
    for option, name in (("url", url), ("caption", caption)):
        names = ALSO[option] if name == option else (name,)
        match = next((column for column in names if column in columns), None)
        if match is None:
            raise CurateError(
                f"{part} has no column '{name}'; its columns: {', '.join(columns) or 'none'}. "
                f"Say which one holds the {option}: {kind}(path=..., {option}=COLUMN)"
            )
        found.append(match)
    return found[0], found[1]


def pairs(url: Any, caption: Any) -> pa.Table:
    """A table of url and caption as valid strings: nulls become empty, bytes that are no UTF-8 become U+FFFD."""
    return pa.table({"url": _strings(url), "caption": _strings(caption)})


def _strings(values: Any) -> pa.Array:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        array = array.cast(pa.string())
        array.validate(full=True)
    except pa.ArrowInvalid:
        found = array.cast(pa.binary()).to_pylist()
        array = pa.array([None if v is None else v.decode("utf-8", "replace") for v in found], pa.string())
    return pa.compute.fill_null(array, "")


def opened(part: str) -> BinaryIO:
    """The bytes of a file as they are stored. Raises CurateError where it is missing or its store does not answer."""
    fs, root = _open(part)
    try:
        file = persist(lambda: fs.open(root, "rb"))
    except FileNotFoundError as error:
        raise CurateError(f"no such pool file: {part}") from error
    except OSError as error:
        raise CurateError(f"{part} cannot be read: {error}") from error
    return file if _is_local(fs) else Persistent(file)  # type: ignore[return-value]


class Persistent(io.RawIOBase):
    """A file of a store, whose reads are tried again where the connection breaks; OSError when that does not help."""

    def __init__(self, file: Any):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        at = self._file.tell()

        def attempt() -> bytes:
            if self._file.tell() != at:
                self._file.seek(at)
            return self._file.read(size)

        return persist(attempt)

    def close(self) -> None:
        self._file.close()
        super().close()


def persist(attempt: Callable[[], Any]) -> Any:
    """The result of an attempt that may need a second one. Raises OSError where none succeeds."""
    for wait in (*WAITS, None):
        try:
            return attempt()
        except _failures() as error:
            if _is_final(error):
                raise
            if wait is None:
                told = error.__cause__ or error
                raise OSError(f"{type(told).__name__}: {' '.join(str(told).split())}") from error
            time.sleep(wait)
    raise AssertionError


def _is_final(error: BaseException) -> bool:
    """Whether asking again is of no use. Over http any failure is "not found", for the reason in its cause."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return getattr(error.__cause__, "status", None) in (403, 404, 410)
    return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)


def _failures() -> tuple[type[BaseException], ...]:
    """What stores raise when they do not answer: OSError, and the errors of their clients that are none."""
    clients = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"))
    return (OSError, *(getattr(sys.modules[module], name) for module, name in clients if module in sys.modules))


class Lines(io.RawIOBase):
    """The decompressed bytes of a text file. Where it is damaged it ends early, after its last whole line, and
    `damage` says why, so that what came before is kept."""

    def __init__(self, part: str):
        self._file: Any = io.BytesIO()  # something to close, should the next line raise
        self._file = opened(part)
        self._codec = next((codec for ending, codec in CODECS.items() if part.lower().endswith(ending)), None)
        self._decoder: Any = self._codec() if self._codec else None
        if part.lower().endswith(".zst"):
            self._file = pa.CompressedInputStream(self._file, "zstd")
        self._ready, self._ended = b"", False
        self.damage: str | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ended and len(self._ready) <= len(buffer):
            self._ready += self._more()
        if self._ended and self.damage:
            self._ready = self._ready[: self._ready.rfind(b"\n") + 1]
        # one byte more than asked for is always held back, so that a cut line is still here when the damage shows
        give = self._ready[: len(buffer)] if self._ended else self._whole_lines(len(buffer))
        self._ready = self._ready[len(give) :]
        buffer[: len(give)] = give
        return len(give)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _whole_lines(self, room: int) -> bytes:
        cut = self._ready.rfind(b"\n", 0, room) + 1
        return self._ready[: cut or room]

    def _more(self) -> bytes:
        try:
            raw = self._file.read(BLOCK)
            if not raw:
                self._ended = True
                if self._decoder is not None and not self._decoder.eof:
                    self.damage = "the compressed file is cut short"
            return self._inflated(raw) if self._decoder is not None else raw
        except DAMAGE as error:
            self._ended, self.damage = True, str(error).split("\n", 1)[0]
            return b""

    def _inflated(self, raw: bytes) -> bytes:
        out = []
        while raw:
            if self._decoder.eof:
                if not raw.strip(b"\0"):  # padding after the last member
                    break
                self._decoder = self._codec() if self._codec else None
            try:
                out.append(self._decoder.decompress(raw))
            except DAMAGE as error:
                self._ended, self.damage = True, str(error).split("\n", 1)[0]
                break
            raw = self._decoder.unused_data
        return b"".join(out)


def damaged(part: str, rows: int, reason: Any) -> BadShard:
    """The failure of a file that broke after `rows` rows."""
    return BadShard(f"{part} is damaged after {rows:,} rows: {str(reason).strip().split(chr(10), 1)[0]}")


def _kind_inside(path: str) -> str:
    fs, root = _open(path)
    if any(sign in path for sign in "*?["):
        names = [str(name) for name in fs.glob(root)]
    else:
        names = [str(name) for name in fs.find(root)] if fs.isdir(root) else []
        if not names and not fs.exists(root):
            raise CurateError(f"no such pool: {path}")
    kinds = sorted({kind for kind in map(kind_of, names) if kind})
    if len(kinds) == 1:
        return kinds[0]
    known = ", ".join(ENDINGS)
    if kinds:
        raise CurateError(
            f"{path} holds files of several kinds ({', '.join(kinds)}); name one: {kinds[0]}(path={path})"
        )
    raise CurateError(
        f"the ending of {path} tells no kind of pool; known: {known} (+ .gz .bz2 .xz .zst). "
        f"Or name one of {', '.join(named.available('pools'))}: {named.available('pools')[0]}(path={path})"
    )


def _is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in fs.protocol if isinstance(fs.protocol, tuple) else fs.protocol == "file"


def _open(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = str(error).rsplit("install ", 1)[-1].split()[0].strip("`'\"")
        raise CurateError(f"{path} needs another package: pip install {package}") from error
    except ValueError as error:
        raise CurateError(f"{path}: {str(error).split(chr(10), 1)[0]}") from error
