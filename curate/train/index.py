"""Where every training pair lies: tar, offset, size, caption, found once by walking the headers, so that any pair can
be read at any time and nobody has to say how many there are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from tqdm import tqdm

from curate import tar, work
from curate.dataset import MANIFEST, Dataset, fingerprint
from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.shard import Shard, image_member

COLUMNS = pa.schema([("uid", pa.string()), ("caption", pa.large_string()), ("tar", pa.int32()),
                     ("offset", pa.int64()), ("size", pa.int64()), ("weight", pa.int32())])  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Shards of one place, and the selection that says which of their rows count."""

    url: str
    shards: list[Shard]
    dataset: Dataset | None = None
    selection: str | None = None


@dataclass(frozen=True)
class Index:
    """The pairs of some tars on this machine; a pair of weight 2 stands twice in `rows`."""

    tars: list[str]  # paths
    table: pa.Table  # uid, caption, tar (number), offset, size, weight
    rows: np.ndarray  # int64: row of the table of each sample of an epoch
    failures: dict[str, str] = field(default_factory=dict)  # shard -> why it could not be read

    def __len__(self) -> int:
        return len(self.rows)

    def uids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        return self.table["uid"].take(pa.array(rows, pa.int64())).to_pylist()

    @property
    def fingerprint(self) -> str:
        """Changes when a pair is added, dropped, weighted otherwise, or its image changes size."""
        digest = xxhash.xxh3_64("\n".join(self.table["uid"].to_pylist()).encode())
        for name in ("size", "weight"):
            digest.update(self.table[name].to_numpy().tobytes())
        return digest.hexdigest()


def sources(data: Sequence[str], selection: str | None) -> list[Source]:
    """What the arguments of train-clip name: curate datasets, folders of tars, globs, single tars.

    Raises CurateError for a place without tars and for a selection that a dataset does not have.
    """
    found = []
    for url in data:
        folder = Folder(url.rstrip("/"))
        if folder.exists(MANIFEST) or folder.names("shards/*.tar"):
            dataset = Dataset.open(url)
            dataset.check_selection(selection)
            found.append(Source(url, dataset.shards, dataset, selection or dataset.selection))
            continue
        if selection:
            raise CurateError(f"{url} is no curate dataset and has no selection '{selection}'; leave --selection out")
        found.append(Source(url, _plain_shards(url, folder)))
    return found


def build(found: Sequence[Source], cache: Folder) -> Index:
    """Walk every tar. Remote tars are copied into `cache` first. A damaged shard is left out and named in `failures`;
    raises CurateError where nothing is left, or no pair has a caption."""
    tars: list[str] = []
    tables: list[pa.Table] = []
    failures: dict[str, str] = {}
    places = [(source, shard) for source in found for shard in source.shards]
    for source, shard in tqdm(places, desc="index", unit="shard", disable=work.QUIET or len(places) < 100):
        try:
            path = _on_this_machine(shard, cache)
            tables.append(_pairs(source, shard, path, len(tars)))
            tars.append(path)
        except BadShard as error:
            failures[f"{source.url}/{shard}"] = str(error)
    table = pa.concat_tables([COLUMNS.empty_table(), *tables]).combine_chunks()
    if not len(table):
        reason = next(iter(failures.values()), "no pair is selected")
        raise CurateError(f"nothing to train on in {', '.join(source.url for source in found)}: {reason}")
    if not pc.any(pc.not_equal(table["caption"], "")).as_py():
        raise CurateError(
            f"no pair of {found[0].url} has a caption, neither in a parquet file nor in .txt or .json members"
        )
    weights = table["weight"].to_numpy()
    return Index(tars, table, np.repeat(np.arange(len(table)), weights), failures)


def _plain_shards(url: str, folder: Folder) -> list[Shard]:
    shards = []
    for pattern in _braces(url):
        parent, _, name = pattern.rstrip("/").rpartition("/")
        if folder.fs.isdir(folder.path()):
            parent, name = pattern.rstrip("/"), "*.tar"
        place = Folder(parent or ".")
        shards += [Shard(place, tar_name.removesuffix(".tar"), "") for tar_name in place.names(name)
                   if tar_name.endswith(".tar")]  # fmt: skip
    if not shards:
        raise CurateError(f"{url} is neither a dataset nor a folder, glob or file of .tar shards")
    return shards


def _braces(pattern: str) -> list[str]:
    """webdataset's {00000..00012} written out."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [rest for number in numbers for rest in _braces(pattern[: match.start()] + number + pattern[match.end() :])]


def _on_this_machine(shard: Shard, cache: Folder) -> str:
    if shard.folder.is_local:
        return shard.folder.path(shard.tar)
    name = f"{fingerprint([shard.folder.url, shard.tar, shard.folder.size(shard.tar)])}.tar"
    if not cache.exists(name):
        with cache.writing(name) as temporary:
            shard.folder.fs.get_file(shard.folder.path(shard.tar), temporary)
    return cache.path(name)


def _pairs(source: Source, shard: Shard, path: str, number: int) -> pa.Table:
    rows = shard.rows().select(["uid", "key", "caption"])
    weights = np.ones(len(rows), np.int32)
    if source.dataset is not None and source.selection is not None:
        kept = source.dataset.kept(shard, source.selection)
        assert kept is not None
        at = pc.index_in(rows["uid"], kept["uid"].combine_chunks())
        weights = pc.fill_null(kept["weight"].combine_chunks().take(at.combine_chunks()), 0).to_numpy()
        rows, weights = rows.filter(pa.array(weights > 0)), weights[weights > 0]
    with tar.opened(path) as view:
        images = {sample.key: image_member(sample) for sample in tar.samples(view, path)}
    members = [images.get(key) for key in rows["key"].to_pylist()]
    if None in members:
        missing = rows["key"][members.index(None)]
        raise BadShard(f"{shard}: its tar lacks {members.count(None)} images of its parquet, the first is {missing}")
    where = [member for member in members if member is not None]
    columns = {
        "uid": rows["uid"],
        "caption": rows["caption"].cast(pa.large_string()),
        "tar": pa.array(np.full(len(rows), number, np.int32)),
        "offset": pa.array([member.data for member in where], pa.int64()),
        "size": pa.array([member.size for member in where], pa.int64()),
        "weight": pa.array(weights, pa.int32()),
    }
    return pa.table(columns, COLUMNS)
