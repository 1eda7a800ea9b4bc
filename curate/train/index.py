"""Where every training pair lies, found once and kept on the disk, so that nobody has to say how many pairs there are.

uid, caption, offset and size are memory-mapped: in memory an index of 400 million pairs holds a few numbers a shard.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from curate import tar
from curate.dataset import Dataset
from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.shard import Shard, image_member
from curate.train.order import WINDOW, Mixture, Stream
from curate.train.sources import Source
from curate.words import counted
from curate.work import Report, run_all

COLUMNS = pa.schema([("uid", pa.string()), ("key", pa.string()), ("caption", pa.large_string())])
MAPPED = 256  # shards whose files are open at a time
MANY = 64  # shards from which on several processes walk the tars
SHIFT = 32  # the number of a pair: shard << SHIFT | row
VERSIONS = ("mtime", "LastModified", "created", "ETag", "etag")  # what stores call the version of a file


@dataclass(frozen=True)
class Part:
    """One shard of a source, and the names of its files in the cache: they change when the shard does."""

    url: str
    shard: Shard
    name: str  # <name>.arrow: uid, key, caption; <name>.npy: offset and size, int64 [n, 2]
    size: int  # of the tar
    dataset: Dataset | None = None
    selection: str | None = None
    rows: str = ""  # <rows>.npy: the rows that a selection keeps, int32, repeated by weight

    def __str__(self) -> str:
        return f"{self.url}/{self.shard}"


@dataclass(frozen=True)
class Index:
    """The pairs of some tars. `parts` and `counts` (samples of an epoch) go by shard, `groups` (first shard, one past
    the last, weight) by dataset of the mixture; `cache` is on this machine. Picklable."""

    parts: list[Part]
    counts: np.ndarray
    groups: list[tuple[int, int, float]]
    cache: Folder
    fingerprint: str  # changes when a pair is added, dropped or weighted otherwise, or a tar changes size
    empty: int = 0  # pairs without a caption
    failures: dict[str, str] = field(default_factory=dict)  # shard -> why it could not be read

    def __len__(self) -> int:
        return self.order(0).size

    def order(self, seed: int, window: int = WINDOW) -> Mixture:
        streams = [Stream(self.counts[first:end], seed, window) for first, end, _ in self.groups]
        return Mixture(streams, [weight for _, _, weight in self.groups], seed)

    def tar(self, shard: int) -> str:
        """The path of a tar on this machine; of one on a store, where it will be once it is fetched."""
        part = self.parts[shard]
        local, root = _root(part.shard.folder.url)
        return f"{root}/{part.shard.tar}" if local else self.file(f"{part.name}.tar")

    def file(self, name: str) -> str:
        """The path of a file of the cache."""
        return f"{_root(self.cache.url)[1]}/{name}"

    def pairs(self, shards: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """The numbers of pairs, int64, of samples of shards as an order gives them."""
        found = samples.copy()
        for shard in np.unique(shards).tolist():
            if name := self.parts[shard].rows:
                here = shards == shard
                found[here] = _array(self.file(f"{name}.npy"))[samples[here]]
        return shards << SHIFT | found

    def place(self, pair: int) -> tuple[str, int, int]:
        """(tar, offset, size) of an image."""
        shard, row = pair >> SHIFT, pair & (1 << SHIFT) - 1
        offset, size = _array(self.file(f"{self.parts[shard].name}.npy"))[row].tolist()
        return self.tar(shard), offset, size

    def texts(self, column: str, pairs: Sequence[int] | np.ndarray) -> list[str]:
        """The uids or captions of pairs."""
        found = []
        for pair in np.asarray(pairs, np.int64).tolist():
            table = _mapped(self.file(f"{self.parts[pair >> SHIFT].name}.arrow"))
            found.append(table[column][pair & (1 << SHIFT) - 1].as_py())
        return found

    def uids(self, pairs: Sequence[int] | np.ndarray) -> list[str]:
        return self.texts("uid", pairs)

    def captions(self, count: int) -> list[str]:
        """Those of the first samples, at most `count`."""
        shards, samples = self.order(0).samples(np.arange(min(count, len(self))))
        return self.texts("caption", self.pairs(shards, samples))


def build(found: Sequence[Source], cache: Folder, captions: bool = True) -> Index:
    """Index every shard that is not indexed in `cache` yet (a folder on this machine). A damaged shard is left out and
    named in `failures`; raises CurateError where nothing is left, or where `captions` are wanted and no pair has one.

    Tars of this machine are walked. Of a store only the parquet files are read, and tars that have none.
    """
    ordered = sorted(found, key=lambda source: source.weight, reverse=True)  # one stream for each weight
    parts = [part for source in ordered for part in _parts(source)]
    weights = [source.weight for source in ordered for _ in source.shards]
    name = f"{_key([[part.name, part.rows] for part in parts])}.json"
    if cache.exists(name):
        known, failures = cache.read_json(name), {}
    else:
        todo = [part for part in parts if not _done(part, cache)]
        engine = "local" if len(todo) >= MANY else "local(workers=0)"
        failures = run_all(Enter(cache), todo, engine, "index" if len(todo) >= MANY else "").failures
        known = [None if str(part) in failures else _about(part, cache) for part in parts]
        if not failures:
            cache.write_json(name, known)
    kept = [number for number, about in enumerate(known) if about]
    abouts = [known[number] for number in kept]
    counts = np.array([about["count"] for about in abouts], np.int64)
    if not counts.sum():
        reason = next(iter(failures.values()), "no pair is selected")
        raise CurateError(f"nothing to train on in {', '.join(source.url for source in found)}: {reason}")
    empty = sum(about["empty"] for about in abouts)
    if captions and empty == sum(about["pairs"] for about in abouts):
        raise CurateError(
            f"no pair of {found[0].url} has a caption, neither in a parquet file nor in .txt or .json members"
        )
    groups = _groups([weights[number] for number in kept], counts)
    facts = [[about["digest"], parts[number].size] for number, about in zip(kept, abouts, strict=True)]
    digest = _key([facts, [weights[number] for number in kept] if len(groups) > 1 else []])
    return Index([parts[number] for number in kept], counts, groups, cache, digest, empty, failures)


@dataclass(frozen=True)
class Enter:
    """Index one shard in `cache`."""

    cache: Folder

    def __call__(self, part: Part) -> Report:
        rows = part.shard.rows(["uid", "key", "caption"]).select(COLUMNS.names).cast(COLUMNS)
        if part.shard.folder.is_local:
            locate(part, rows["key"].to_pylist(), self.cache, part.shard.folder.path(part.shard.tar))
        if part.dataset is not None and part.selection is not None:
            kept = part.dataset.kept(part.shard, part.selection)
            assert kept is not None
            at = pc.index_in(rows["uid"], kept["uid"].combine_chunks()).combine_chunks()
            if strange := pc.index_in(kept["uid"], rows["uid"].combine_chunks()).null_count:
                raise BadShard(f"{part}: selection '{part.selection}' keeps {counted(strange, 'pair')} that this shard "
                               f"does not hold; it was made on other data, select again")  # fmt: skip
            weights = pc.fill_null(kept["weight"].combine_chunks().take(at), 0).to_numpy()
            self.cache.write_array(f"{part.rows}.npy", np.repeat(np.arange(len(rows), dtype=np.int32), weights))
        facts = {"uids": xxhash.xxh3_64_hexdigest("\n".join(rows["uid"].to_pylist()).encode()), "pairs": len(rows),
                 "empty": pc.sum(pc.equal(rows["caption"], "")).as_py() or 0}  # fmt: skip
        schema = COLUMNS.with_metadata({"curate": json.dumps(facts)})
        table = rows.replace_schema_metadata(schema.metadata).combine_chunks()
        with self.cache.writing(f"{part.name}.arrow") as path, pa.OSFile(path, "wb") as out, \
                pa.ipc.new_file(out, schema) as writer:  # fmt: skip
            writer.write_table(table)
        return Report(str(part), len(rows))


def locate(part: Part, keys: Sequence[str], cache: Folder, path: str) -> None:
    """Walk a tar and write where the images of `keys` lie. Raises BadShard where one is missing."""
    with tar.opened(path) as view:
        images = {sample.key: image_member(sample) for sample in tar.samples(view, path)}
    members = [images.get(key) for key in keys]
    if None in members:
        missing = keys[members.index(None)]
        raise BadShard(f"{part}: its tar lacks {counted(members.count(None), 'image')} of its parquet, first {missing}")
    where = [(member.data, member.size) for member in members if member is not None]
    cache.write_array(f"{part.name}.npy", np.array(where, np.int64).reshape(-1, 2))


def keys(part: Part, cache: Folder) -> list[str]:
    return _mapped(cache.path(f"{part.name}.arrow"))["key"].to_pylist()


def _parts(source: Source) -> list[Part]:
    """The shards of a source, named by all that decides what stands in the index."""
    versions: dict[str, list[Any]] = {}
    for folder, place in {(shard.folder, shard.place) for shard in source.shards}:
        versions |= _versions(folder, f"{place}*.tar") | _versions(folder, f"{place}*.parquet")
    if source.dataset is not None and source.selection is not None:
        versions |= _versions(source.dataset.folder, f"selections/{source.selection}/*.parquet")
    found = []
    for shard in source.shards:
        at = [versions.get(f"{shard.folder.url}/{name}") for name in (shard.tar, shard.parquet)]
        name = _key([shard.folder.url, shard.name, shard.place, at])
        rows = ""
        if source.selection is not None:
            chosen = f"selections/{source.selection}/{shard.name}.parquet"
            rows = _key([name, source.selection, versions.get(f"{shard.folder.url}/{chosen}")])
        size = at[0][0] if at[0] else shard.folder.size(shard.tar)
        found.append(Part(source.url, shard, name, size, source.dataset, source.selection, rows))
    return found


def _versions(folder: Folder, pattern: str) -> dict[str, list[Any]]:
    """URL of each file -> its size and version, from one listing."""
    prefix = len(folder.root.rstrip("/")) + 1
    found = folder.fs.glob(folder.path(pattern), detail=True)
    return {f"{folder.url}/{path[prefix:]}": [about["size"], *(str(about[name]) for name in VERSIONS if name in about)]
            for path, about in found.items()}  # fmt: skip


def _done(part: Part, cache: Folder) -> bool:
    names = [f"{part.name}.arrow", *([f"{part.rows}.npy"] if part.rows else [])]
    names += [f"{part.name}.npy"] if part.shard.folder.is_local else []
    return all(cache.exists(name) for name in names)


def _about(part: Part, cache: Folder) -> dict[str, Any]:
    facts = json.loads(_mapped(cache.path(f"{part.name}.arrow")).schema.metadata[b"curate"])
    rows = _array(cache.path(f"{part.rows}.npy")) if part.rows else None
    digest = facts["uids"] if rows is None else _key([facts["uids"], xxhash.xxh3_64_hexdigest(rows.tobytes())])
    return {"count": facts["pairs"] if rows is None else len(rows), "pairs": facts["pairs"], "empty": facts["empty"],
            "digest": digest}  # fmt: skip


def _groups(weights: Sequence[float], counts: np.ndarray) -> list[tuple[int, int, float]]:
    """(first shard, one past the last, weight) of each run of one weight that holds a sample."""
    cuts = [at for at in range(1, len(weights)) if weights[at] != weights[at - 1]]
    runs = zip([0, *cuts], [*cuts, len(weights)], strict=True)
    return [(first, end, weights[first]) for first, end in runs if counts[first:end].sum()]


def _key(value: Any) -> str:
    """32 hex digits of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:32]


@functools.lru_cache(maxsize=MAPPED)
def _root(url: str) -> tuple[bool, str]:
    """(whether a folder is on this machine, its path): asking fsspec for every sample would take most of its time."""
    folder = Folder(url)
    return folder.is_local, folder.root.rstrip("/")


@functools.lru_cache(maxsize=MAPPED)
def _mapped(path: str) -> pa.Table:
    with pa.memory_map(path) as file:
        return pa.ipc.open_file(file).read_all()


@functools.lru_cache(maxsize=MAPPED)
def _array(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r")
