"""Pools of urls and texts: which kind a path is, which files it holds, how their columns and bytes are read."""

import bz2
import functools
import io
import lzma
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import fsspec
import pyarrow as pa

from curate import named
from curate.errors import BadShard, CurateError
from curate.images import IMAGE_EXTENSIONS

BLOCK = 1 << 20  # bytes read at a time
WAITS = (1.0, 5.0, 25.0)  # seconds before a store is asked again
# what reading a broken file raises
DAMAGE = (zlib.error, lzma.LZMAError, EOFError, pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError)
CODECS: dict[str, Callable[[], Any]] = {
    ".gz": functools.partial(zlib.decompressobj, 31),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}
ENDINGS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".wat": "wat", "wat.paths": "wat", ".warc": "warc", "warc.paths": "warc", ".tar": "tars", ".tgz": "tars",
}  # fmt: skip
TABLES = ("metadata", "captions")  # what a table of texts beside images is called, without its ending
WEB = ("http://", "https://")
ALSO = {"url": ("url", "URL", "image_url"), "caption": ("caption", "text", "alt", "TEXT", "top_caption")}


class Pool(Protocol):
    """What one file of curate/pools gives. See docs/add-a-pool.md."""

    def parts(self) -> list[str]:
        """The files, sorted."""
        ...

    def read(self, part: str) -> Any:
        """Yield tables of string columns url, caption. Raises CurateError, and BadShard after the rows before it.

        A pool that holds the images themselves adds `row`, int64, the number of the image in its part, counted from 0
        without a gap, and has `images(part, rows)`: it yields (row, encoded image) for these ascending row numbers, in
        any order, and leaves out those that are damaged or gone; BadShard only where their store does not answer. The
        url then says where the image comes from, and is empty only where a row has none. `places` are its Places.
        """
        ...


def open_pool(text: str) -> Any:
    """The pool behind a path or URL, whose kind its ending tells, or behind "kind(path=..., url=..., caption=...)"."""
    return named.load("pools", explicit(text))


def explicit(text: str) -> named.Spec:
    """The pool with its kind, which a path alone may tell only after a look into its folder."""
    head, bracket, rest = text.partition("(")
    own = head.strip().endswith(".py")  # a plug-in file of the user
    if bracket and rest.rstrip().endswith(")") and (own or head.strip() in named.available("pools")):
        return named.parse(text)
    return named.Spec(kind_of(text) or _kind_inside(text), (("path", text),))


def is_glob(path: str) -> bool:
    """Whether a path stands for several; in a web address ? is none of the signs."""
    return any(sign in path for sign in ("*[" if path.startswith(WEB) else "*?["))


def file_name(path: str) -> str:
    """The last part of a path in small letters; of a web address without what follows a ?."""
    return (path.split("?")[0] if path.startswith(WEB) else path).rstrip("/").rsplit("/", 1)[-1].lower()


def kind_of(path: str) -> str | None:
    """The kind of a file by its ending, compression left aside; None where the ending tells nothing."""
    name = file_name(path)
    for compression in (*CODECS, ".zst"):
        name = name.removesuffix(compression)
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


@dataclass(frozen=True)
class Places:
    """Where an image that has no url comes from, told from the pool's own name on: the same wherever the pool lies."""

    path: str  # of the pool: a file, a folder or a glob
    name: str | None = None  # what stands for the pool; the name of its file or folder by default

    @property
    def root(self) -> str:
        """The path that all parts have in common, without its protocol."""
        root = store(self.path)[1].rstrip("/")
        return re.split(r"[*?[]", root)[0].rpartition("/")[0] if is_glob(self.path) else root

    @property
    def base(self) -> str:
        return self.name or self.root.split("?")[0].rsplit("/", 1)[-1]  # no key of a signed url

    def of(self, part: str, keys: Iterable[str]) -> list[str]:
        """The place of each key in a part, or in a folder below the pool."""
        within = f"{self.base}{store(part)[1].removeprefix(self.root)}"
        return [f"{within}/{key}".encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                for key in keys]  # fmt: skip


def check_places(pools: Iterable[Any]) -> None:
    """Raises CurateError where images of two pools would have equal places."""
    found: dict[str, Places] = {}
    for places in filter(None, (getattr(pool, "places", None) for pool in pools)):
        before = found.setdefault(places.base, places)
        if before.root != places.root:
            raise CurateError(
                f"the pools {before.path} and {places.path} are both called '{places.base}', so that two of their "
                f"images could pass for one; call one otherwise: KIND(path={places.path}, name=ANOTHER)"
            )


def files_of(path: str, kind: str) -> list[str]:
    """The files of a pool, sorted: one file, those that match a glob, or those of this kind in a folder.

    Raises CurateError where there is none.
    """
    fs, root = store(path)
    if is_glob(path):
        found = [str(name) for name in fs.glob(root)]
    elif fs.isfile(root):
        found = [root]
    elif fs.isdir(root):
        inside = f"{root}/shards" if _is_dataset(fs, root) else root
        found = [str(name) for name in fs.find(inside) if kind_of(str(name)) == kind]
    else:
        raise CurateError(f"no such pool: {path}")
    visible = [name for name in found if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not visible:
        raise CurateError(f"the pool {path} holds no {kind} file")
    return sorted(name if _is_local(fs) else fs.unstrip_protocol(name) for name in visible)


def size_of(part: str) -> int:
    """Bytes of a file of a pool; 0 where its store does not tell, or has no such file."""
    fs, root = store(part)
    try:
        return int(persist(lambda: fs.size(root)) or 0)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise CurateError(f"{part} cannot be reached: {error}") from error


def chosen(columns: list[str], url: str | None, caption: str, part: str, kind: str,
           needs_url: bool = True) -> tuple[Any, str]:  # fmt: skip
    """The names of the url and the caption column; the usual other names count where the default one is missing.

    The url's is None where none is asked for, or none is there and none needed. Raises CurateError that names the file,
    its columns and the option.
    """
    found: list[str | None] = []
    for option, name in (("url", url), ("caption", caption)):
        match = column_of(columns, option, name)
        if match is None and not (option == "url" and (name is None or (name == option and not needs_url))):
            raise CurateError(
                f"{part} has no column '{name}'; its columns: {', '.join(columns) or 'none'}. "
                f"Say which one holds the {option}: {kind}(path=..., {option}=COLUMN)"
            )
        found.append(match)
    return found[0], str(found[1])


def column_of(columns: Iterable[str], option: str, name: str | None) -> str | None:
    """The column of this name; where it is the default one, the first of the usual ones; None where it is missing."""
    names = ALSO[option] if name == option else (name,)
    there = set(columns)
    return next((column for column in names if column in there), None)


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
    fs, root = store(part)
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
        return bool(self._file.seekable()) and getattr(self._file, "size", 0) is not None

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

        try:
            return persist(attempt)
        except ValueError as error:  # fsspec's word for a server that sends whole files only
            raise OSError(f"{' '.join(str(error).split())} Fetch the file first.") from error

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


class Inflated:
    """The bytes of a file without their compression, a block at a time. Where it is damaged they end early; `damage`
    says why, and `lost` whether it is only that its store does not answer."""

    def __init__(self, part: str):
        name = file_name(part).replace(".tgz", ".tar.gz")
        self._codec = next((codec for ending, codec in CODECS.items() if name.endswith(ending)), None)
        self._decoder: Any = self._codec() if self._codec else None
        self._file: Any = opened(part)
        if name.endswith(".zst"):
            self._file = pa.CompressedInputStream(self._file, "zstd")
        self._ended = False
        self.damage: str | None = None
        self.lost = False

    def seekable(self) -> bool:
        return False

    def read(self, size: int = BLOCK) -> bytes:
        """The next block, of any size; nothing at the end."""
        block = b""
        while not block and not self._ended:
            raw = self._stored()
            block = self._inflated(raw) if self._decoder is not None else raw
        return block

    def close(self) -> None:
        self._file.close()

    def _stored(self) -> bytes:
        try:
            raw = self._file.read(BLOCK)
        except DAMAGE as error:
            self.lost = isinstance(self._file, Persistent)
            return self._end(error)
        if not raw:
            cut = self._decoder is not None and not self._decoder.eof
            return self._end("the compressed file is cut short" if cut else None)
        return raw

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
                self._end(error)
                break
            raw = self._decoder.unused_data
        return b"".join(out)

    def _end(self, reason: object) -> bytes:
        self._ended, self.damage = True, str(reason).split("\n", 1)[0] if reason else None
        return b""


class Lines(io.RawIOBase):
    """The decompressed bytes of a text file. Where it is damaged it ends early, after its last whole line, and
    `damage` says why, so that what came before is kept."""

    def __init__(self, part: str):
        self._file: Any = io.BytesIO()  # something to close, should the next line raise
        self._file = Inflated(part)
        self._ready, self._ended = b"", False

    @property
    def damage(self) -> str | None:
        return self._file.damage

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ended and len(self._ready) <= len(buffer):
            block = self._file.read()
            self._ended = not block
            self._ready += block
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


def damaged(part: str, rows: int, reason: Any) -> BadShard:
    """The failure of a file that broke after `rows` rows."""
    return BadShard(f"{part} is damaged after {rows:,} rows: {str(reason).strip().split(chr(10), 1)[0]}")


def _kind_inside(path: str) -> str:
    fs, root = store(path)
    if is_glob(path):
        names = [str(name) for name in fs.glob(root)]
    else:
        names = [str(name) for name in fs.find(root)] if fs.isdir(root) else []
        if not names and not fs.exists(root):
            raise CurateError(f"no such pool: {path}")
        if names and _is_dataset(fs, root):
            return "tars"
    kinds = _kinds(names)
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


def _kinds(names: list[str]) -> list[str]:
    """The kinds of pool among some files; what belongs to a tar or to images counts as part of them."""
    shown = [name for name in names if not name.rsplit("/", 1)[-1].startswith(".")]
    kinds = {name: kind_of(name) or ("folder" if is_image(name) else None) for name in shown}
    tars = {sidecar_of(name) for name, kind in kinds.items() if kind == "tars"}
    pictures = "folder" in kinds.values()
    return sorted({
        kind for name, kind in kinds.items() if kind
        and name not in tars and not (pictures and name.rsplit("/", 1)[-1].split(".")[0] in TABLES)
    })  # fmt: skip


def is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def sidecar_of(part: str) -> str | None:
    """The parquet file beside a tar, as img2dataset names it; None where the tar's ending is not at the end."""
    found = re.fullmatch(r"(.*)(\.tar(\.[a-z0-9]+)?|\.tgz)", part, re.IGNORECASE)
    return f"{found[1]}.parquet" if found else None


def _is_dataset(fs: fsspec.AbstractFileSystem, root: str) -> bool:
    return fs.exists(f"{root}/manifest.json") and fs.isdir(f"{root}/shards")


def exists(part: str) -> bool:
    """Raises CurateError where the store does not answer."""
    fs, root = store(part)
    try:
        return bool(persist(lambda: fs.exists(root)))
    except OSError as error:
        raise CurateError(f"{part} cannot be reached: {error}") from error


def valid(text: str) -> str:
    """A text without lone surrogates, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()


def is_local(part: str) -> bool:
    return _is_local(store(part)[0])


def path_of(part: str) -> str:
    """The path without its protocol."""
    return store(part)[1]


def _is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in fs.protocol if isinstance(fs.protocol, tuple) else fs.protocol == "file"


def store(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a path or URL, and the path as it spells it. Raises CurateError where it cannot be opened."""
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = str(error).rsplit("install ", 1)[-1].split()[0].strip("`'\"")
        raise CurateError(f"{path} needs another package: pip install {package}") from error
    except ValueError as error:
        raise CurateError(f"{path}: {str(error).split(chr(10), 1)[0]}") from error
