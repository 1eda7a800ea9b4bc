"""A folder of images with a text beside each, a table of texts, or folders whose names are the texts."""

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from curate import named, pools
from curate.errors import BadShard, CurateError
from curate.storage import streams
from curate.words import counted

IMAGES = 10_000  # images in a part
AT_ONCE = 64  # files asked for at once: a store answers them together
FILES = ("file_name", "filename", "image", "file", "path")  # what a table calls its images
TABLES = tuple(f"{name}.{kind}" for name in pools.TABLES for kind in ("csv", "tsv", "jsonl", "parquet"))
FOLDER = "folder"


class Listed(NamedTuple):
    """The visible files of a folder with their sizes, and the table with its texts and that one's size."""

    files: dict[str, int]
    table: tuple[str, int] | None

    @property
    def images(self) -> list[str]:
        return [name for name in self.files if pools.is_image(name)]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([list(self.files.items()), self.table]).encode()).hexdigest()[:12]


class Pool:
    """`path`: a folder on a disk or a store; the folders in it count too, hidden files do not.

    The text of an image is the one in metadata.csv (.tsv .jsonl .parquet, or captions.*) of its folder or of one above,
    else the file with its name and the ending .txt. `caption`: the column or the ending where that is another, or
    "folder" for the name of its folder. `table`: another name for metadata.csv. `name` stands for the pool in the place
    of an image, which is its url where no table has one.

    A part is a folder, or 10,000 images of it: FOLDER#FIRST-DIGEST, of the names and sizes of all files it is made of.
    """

    def __init__(self, path: str, caption: str = "caption", table: str | None = None, name: str | None = None):
        self.path, self.caption, self.table = str(path), caption, table
        self.places = pools.Places(self.path, None if name is None else str(name))

    def parts(self) -> list[str]:
        fs, root = streams.store(self.path)
        if pools.is_glob(self.path) or not streams.answered(self.path, lambda: fs.isdir(root)):
            raise CurateError(f"{self.path} is no folder; name the folder that holds the images: folder(path=...)")
        fs.invalidate_cache()
        found = []
        for folder, _, _ in fs.walk(root):
            if any(name.startswith(".") for name in folder.removeprefix(root).split("/")):
                continue
            url = folder if streams.is_local(self.path) else fs.unstrip_protocol(folder)
            if pools.valid(url) != url:
                raise CurateError(f"the name of the folder {pools.valid(url)} is no UTF-8; give it another")
            listed = _listed(url, self.path, self.table)
            found += [f"{url}#{first:09d}-{listed.digest}" for first in range(0, len(listed.images), IMAGES)]
        if not found:
            raise CurateError(f"the pool {self.path} holds no images (.jpg .png .webp ...)")
        return sorted(found)

    def read(self, part: str) -> Iterator[pa.Table]:
        """Reads the texts, and of the images only the names."""
        folder, first, listed = self._opened(part)
        images = listed.images[first : first + IMAGES]
        texts, urls, damage = self._texts(folder, images, listed)
        if not damage and not any(any(found) for found in texts):
            raise BadShard(
                f"{folder} has no texts: {self._missing(listed)}; say where they are, "
                "folder(path=..., caption=ENDING or COLUMN, table=NAME), or take its name for one: caption=folder"
            )
        rows = [
            (url or place, text, row)
            for row, (place, url, found) in enumerate(zip(self.places.of(folder, images), urls, texts, strict=True))
            for text in found or [""]
        ]
        yield pa.table(dict(zip(("url", "caption", "row"), zip(*rows, strict=True), strict=True)))
        if damage:
            raise BadShard(damage)

    def images(self, part: str, rows: list[int]) -> Iterator[tuple[int, bytes]]:
        folder, first, listed = self._opened(part)
        names = listed.images
        for row, content in zip(rows, _contents(folder, [names[first + row] for row in rows]), strict=True):
            if isinstance(content, bytes):
                yield row, content

    def _opened(self, part: str) -> tuple[str, int, Listed]:
        """The folder of a part, the number of its first image, and what lies in the folder."""
        folder, _, rest = part.rpartition("#")
        first, _, digest = rest.partition("-")
        listed = _listed_once(folder, self.path, self.table, digest)
        if listed.digest != digest:
            raise CurateError(f"{folder} changed while it was harvested; harvest it into a new dataset")
        return folder, int(first), listed

    def _texts(self, folder: str, images: list[str], listed: Listed) -> tuple[list[list[str]], list, str | None]:
        """The texts and the url of each image, and what could not be read."""
        nowhere = [None] * len(images)
        if self.caption == FOLDER:
            return [[folder.rsplit("/", 1)[-1].replace("_", " ")]] * len(images), nowhere, None
        ending = self.caption if self.caption != "caption" else "txt"
        beside = [f"{image.rpartition('.')[0]}.{ending}" for image in images]
        there = [name for name in beside if name in listed.files]
        if listed.table and not (self.caption == ending and there):
            return _from_table(listed.table, self.caption, folder, images)
        contents = dict(zip(there, _contents(folder, there), strict=True))
        texts = [[found.decode("utf-8-sig", "replace").strip()] if isinstance(found, bytes) else []
                 for found in map(contents.get, beside)]  # fmt: skip
        bad = [f"{name}: {found!r}" for name, found in contents.items() if isinstance(found, OSError)]
        damage = f"{folder}: {counted(len(bad), 'text')} cannot be read ({bad[0]})" if bad else None
        return texts, nowhere, damage

    def _missing(self, listed: Listed) -> str:
        if listed.table:
            return f"{listed.table[0]} has none for its images"
        return f"no .{self.caption if self.caption != 'caption' else 'txt'} file lies beside an image"


@lru_cache(maxsize=1)
def _listed_once(folder: str, pool: str, table: str | None, digest: str) -> Listed:
    """Kept for the other parts of the folder; the digest tells it from what was there at another time."""
    return _listed(folder, pool, table)


def _listed(folder: str, pool: str, table: str | None) -> Listed:
    fs, path = streams.store(folder)
    found = {str(about["name"]).rsplit("/", 1)[-1]: about.get("size") or 0
             for about in fs.ls(path, detail=True) if about["type"] != "directory"}  # fmt: skip
    files = {name: int(found[name]) for name in sorted(found) if not name.startswith(".")}
    return Listed(files, _table(folder, files, pool, table))


def _table(folder: str, files: dict[str, int], pool: str, name: str | None) -> tuple[str, int] | None:
    """The table of a folder's texts and its size: in it, or in the nearest one above up to the pool; None without any.

    Raises CurateError where there are several, or not the one asked for.
    """
    names = (name,) if name else TABLES
    fs, root = streams.store(pool)
    there = {table: files[table] for table in names if table in files}
    while not there and len(streams.path_of(folder).rstrip("/")) > len(root.rstrip("/")):
        folder = folder.rpartition("/")[0]
        paths = {table: f"{streams.path_of(folder)}/{table}" for table in names}
        there = {table: int(fs.size(path) or 0) for table, path in paths.items() if fs.isfile(path)}
    if len(there) > 1:
        raise CurateError(f"{folder} has several tables: {', '.join(there)}; name one: folder(path=..., table=NAME)")
    if name and not there:
        raise CurateError(f"{pool} has no table '{name}'")
    return next(((f"{folder}/{table}", size) for table, size in there.items()), None)


def _from_table(table: tuple[str, int], caption: str, folder: str, images: list[str]):
    columns, damage = _columns(*table, caption)
    above = folder.removeprefix(table[0].rpartition("/")[0]).strip("/")
    wanted = {f"{above}/{image}" if above else image: number for number, image in enumerate(images)}
    texts: list[list[str]] = [[] for _ in images]
    urls: list[str | None] = [None] * len(images)
    here = columns.filter(pc.is_in(columns["file"], pa.array(map(pools.valid, wanted), pa.string())))
    for name, text, url in zip(*(here[column].to_pylist() for column in ("file", "caption", "url")), strict=True):
        if name in wanted:
            texts[wanted[name]].append(text)
            urls[wanted[name]] = url or urls[wanted[name]]
    return texts, urls, damage


@lru_cache(maxsize=1)
def _columns(table: str, size: int, caption: str) -> tuple[pa.Table, str | None]:
    """file (relative to the table's folder), caption and url of a table, and what is damaged in it."""
    kind = pools.kind_of(table)
    if kind not in ("csv", "tsv", "jsonl", "parquet"):
        raise CurateError(f"{table} is no table; its ending should be .csv, .tsv, .jsonl or .parquet")
    reader = named.plugin("pools", named.parse(kind))
    columns = reader(path=table).columns(table)
    file = next((name for name in FILES if name in columns), None)
    text = pools.column_of(columns, "caption", caption)
    if file is None or text is None:
        raise CurateError(
            f"{table} has no column '{caption if file else FILES[0]}'; its columns: {', '.join(columns) or 'none'}. "
            "Say which one holds the texts: folder(path=..., caption=COLUMN)"
        )
    url = pools.column_of(columns, "url", "url")
    found, damage = _read(reader(path=table, url=file, caption=text), table)
    nowhere = pa.nulls(len(found), pa.string())
    urls = _read(reader(path=table, url=url, caption=text), table)[0]["url"] if url else nowhere
    names = pc.replace_substring_regex(pc.replace_substring(found["url"], "\\", "/"), r"^(\./)+", "")
    return pa.table({"file": names, "caption": found["caption"], "url": urls}), damage


def _read(reader: pools.Pool, table: str) -> tuple[pa.Table, str | None]:
    """All rows of a table, and what is damaged in it."""
    found = [pools.pairs(pa.array([], pa.string()), pa.array([], pa.string()))]
    try:
        for batch in reader.read(table):
            found.append(batch)
    except BadShard as error:
        return pa.concat_tables(found), str(error)
    return pa.concat_tables(found), None


def _contents(folder: str, names: list[str]) -> Iterator[bytes | OSError]:
    """The content of each file, or why it has none. Raises BadShard where a store does not answer."""
    fs, root = streams.store(folder)
    for start in range(0, len(names), AT_ONCE):
        paths = [f"{root.rstrip('/')}/{name}" for name in names[start : start + AT_ONCE]]
        for path, content in zip(paths, fs.cat_ranges(paths, None, None, on_error="return"), strict=True):
            yield content if isinstance(content, bytes) else _again(fs, path, streams.is_local(folder))


def _again(fs: Any, path: str, is_local: bool) -> bytes | OSError:
    try:
        return fs.cat_file(path) if is_local else streams.persist(lambda: fs.cat_file(path))
    except OSError as error:
        if is_local or isinstance(error, FileNotFoundError):
            return error
        raise BadShard(f"{path} cannot be read: {error}") from error
