"""Files of any store as streams: asked again where the connection breaks, decompressed, kept up to where they break."""

import bz2
import functools
import importlib
import io
import lzma
import time
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from curate.errors import CurateError, client_errors

WEB = ("http://", "https://")
BLOCK = 1 << 20  # bytes read at a time
WAITS = (1.0, 5.0, 25.0)  # seconds before a store is asked again
# what reading a broken file raises
DAMAGE = (zlib.error, lzma.LZMAError, EOFError, pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError)
CODECS: dict[str, Callable[[], Any]] = {
    ".gz": functools.partial(zlib.decompressobj, 31),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


def store(url: str) -> tuple[Any, str]:
    """See curate.storage.stores, which imports fsspec: where a file is opened, not where this is imported."""
    return importlib.import_module("curate.storage.stores").store(url)


def is_disk(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def opened(part: str) -> BinaryIO:
    """The bytes of a file as they are stored. Raises CurateError where it is missing or its store does not answer."""
    fs, root = store(part)
    try:
        file = persist(lambda: fs.open(root, "rb"))
    except FileNotFoundError as error:
        raise CurateError(f"no such pool file: {part}") from error
    except OSError as error:
        raise CurateError(f"{part} cannot be read: {error}") from error
    return file if is_disk(fs) else Persistent(file)  # type: ignore[return-value]


def exists(part: str) -> bool:
    """Raises CurateError where the store does not answer."""
    fs, root = store(part)
    return bool(answered(part, lambda: fs.exists(root)))


def answered(url: str, ask: Callable[[], Any]) -> Any:
    """What a store says when it is asked. Raises CurateError where it does not answer."""
    try:
        return persist(ask)
    except OSError as error:
        raise CurateError(f"{url} cannot be reached: {error}") from error


def size_of(part: str) -> int:
    """Bytes of a file of a pool; 0 where its store does not tell, or has no such file, which whoever reads it names."""
    fs, root = store(part)
    try:
        return int(persist(lambda: fs.size(root)) or 0)
    except OSError:  # one of a list of thousands: the others go on
        return 0


def is_local(part: str) -> bool:
    return is_disk(store(part)[0])


def path_of(part: str) -> str:
    """The path without its protocol."""
    return store(part)[1]


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
    `damage` says why, so that what came before is kept. `end` follows the last byte."""

    def __init__(self, part: str, end: bytes = b""):
        self._file: Any = io.BytesIO()  # something to close, should the next line raise
        self._file = Inflated(part)
        self._ready, self._end, self._ended = b"", end, False

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
        if self._ended:
            self._ready, self._end = self._ready + self._end, b""
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
    """What stores raise when they do not answer."""
    return (OSError, *client_errors())


def file_name(path: str) -> str:
    """The last part of a path in small letters; of a web address without what follows a ?."""
    return (path.split("?")[0] if path.startswith(WEB) else path).rstrip("/").rsplit("/", 1)[-1].lower()
