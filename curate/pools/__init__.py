"""Pools of urls and texts: which kind a path is, which files it holds, how their columns and bytes are read."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from curate import named
from curate.errors import BadShard, CurateError
from curate.storage import streams
from curate.tar import IMAGE_EXTENSIONS
from curate.words import counted

ENDINGS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".wat": "wat", "wat.paths": "wat", ".warc": "warc", "warc.paths": "warc", ".tar": "tars", ".tgz": "tars",
}  # fmt: skip
TABLES = ("metadata", "captions")  # what a table of texts beside images is called, without its ending
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
    return named.Spec(kind_of(text) or streams.answered(text, lambda: _kind_inside(text)), (("path", text),))


def is_glob(path: str) -> bool:
    """Whether a path stands for several; in a web address ? is none of the signs, nor is any in a file's own name."""
    signs = any(sign in path for sign in ("*[" if path.startswith(streams.WEB) else "*?["))
    return signs and not (streams.is_local(path) and os.path.exists(streams.path_of(path)))


def kind_of(path: str) -> str | None:
    """The kind of a file by its ending, compression left aside; None where the ending tells nothing."""
    name = streams.file_name(path)
    for compression in (*streams.CODECS, ".zst"):
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
        root = streams.store(self.path)[1].rstrip("/")
        return re.split(r"[*?[]", root)[0].rpartition("/")[0] if is_glob(self.path) else root

    @property
    def base(self) -> str:
        return self.name or self.root.split("?")[0].rsplit("/", 1)[-1]  # no key of a signed url

    def of(self, part: str, keys: Iterable[str]) -> list[str]:
        """The place of each key in a part, or in a folder below the pool."""
        within = f"{self.base}{streams.store(part)[1].removeprefix(self.root)}"
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
    fs = streams.store(path)[0]
    found = streams.answered(path, lambda: _found(path, kind))
    visible = [name for name in found if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
    if not visible:
        raise CurateError(f"the pool {path} holds no {kind} file")
    return sorted(name if streams.is_local(path) else fs.unstrip_protocol(name) for name in visible)


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
        if match is not None and columns.count(match) > 1:
            raise CurateError(f"{part} has {columns.count(match)} columns called '{match}'; rename all but one")
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


def damaged(part: str, rows: int, reason: Any) -> BadShard:
    """The failure of a file that broke after `rows` rows."""
    return BadShard(f"{part} is damaged after {counted(rows, 'row')}: {str(reason).strip().split(chr(10), 1)[0]}")


def _found(path: str, kind: str) -> list[str]:
    fs, root = streams.store(path)
    if is_glob(path):
        return [str(name) for name in fs.glob(root)]
    if fs.isfile(root):
        return [root]
    if fs.isdir(root):
        inside = f"{root}/shards" if _is_dataset(fs, root) else root
        return [str(name) for name in fs.find(inside) if kind_of(str(name)) == kind]
    raise CurateError(f"no such pool: {path}")


def _kind_inside(path: str) -> str:
    fs, root = streams.store(path)
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


def _is_dataset(fs: Any, root: str) -> bool:
    return fs.exists(f"{root}/manifest.json") and fs.isdir(f"{root}/shards")


def valid(text: str) -> str:
    """A text without lone surrogates, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()
