"""Candidates that lie too far for a hash to be trusted are looked at: the pictures themselves, by local features.

Only the candidates' images are read from the tars of the pool.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import images
from curate.dataset import Dataset, fingerprint
from curate.dedup.features import MADE_BY, Features, features, inliers
from curate.dedup.measured import Measured
from curate.dedup.views import MIRRORED, WHOLE, called
from curate.errors import BadShard
from curate.files import Folder
from curate.shard import Images, Shard
from curate.work import Engine, Report, run_all

MERGE = 1_000_000  # candidates held before the farther ones are let go
HELD = 2048  # benchmark pictures whose features a process holds: 60 MB
OPEN = 128  # shards of benchmark pictures that are open at a time
CHOSEN = pa.schema([("image", pa.int32()), ("uid", pa.string())])
CONFIRMED = CHOSEN.append(pa.field("view", pa.string())).append(pa.field("inliers", pa.int32()))


class Chosen:
    """The nearest candidates of each benchmark image over all shards, gathered a shard at a time."""

    def __init__(self, candidates: int, vectors: Sequence[str]):
        self.candidates, self.vectors = candidates, vectors
        self.parts: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        self.parts.append(table)
        if len(self.parts) > 1 and sum(map(len, self.parts)) > MERGE:
            self.parts = [nearest(pa.concat_tables(self.parts), self.candidates, self.vectors)]

    def table(self) -> pa.Table:
        """image, uid, shard: each pair once, sorted."""
        if not self.parts:
            return CHOSEN.append(pa.field("shard", pa.string())).empty_table()
        found = nearest(pa.concat_tables(self.parts), self.candidates, self.vectors).select(["image", "uid", "shard"])
        keys = ["image", "uid", "shard"]
        return found.group_by(keys, use_threads=False).aggregate([]).sort_by([(key, "ascending") for key in keys])


def nearest(table: pa.Table, candidates: int, vectors: Sequence[str]) -> pa.Table:
    """Of each benchmark image the nearest rows: so many by bits, so many by the signals `vectors`; of equally near
    ones the first uid."""
    by_vectors = pc.is_in(table["signal"], pa.array(vectors, pa.string()))
    kept = []
    for part in (table.filter(pc.invert(by_vectors)), table.filter(by_vectors)):
        keys = ["image", "distance", "uid", "signal", *(["shard"] if "shard" in part.column_names else [])]
        part = part.sort_by([(key, "ascending") for key in keys])
        image = part["image"].to_numpy()
        place = np.arange(len(image)) - np.searchsorted(image, image)
        kept.append(part.filter(pa.array(place < candidates)))
    return pa.concat_tables(kept)


def confirm(dataset: Dataset, pool: Sequence[Shard], measured: Measured, chosen: pa.Table, folder: str,
            engine: str | Engine, everywhere: bool = False) -> pa.Table:  # fmt: skip
    """The candidates (image, uid, shard) that local features confirm, with `everywhere` in every part of the picture:
    CONFIRMED and the shard."""
    places = [shard for shard in pool if shard.name in set(chosen["shard"].unique().to_pylist())]
    for shard in places:
        own = chosen.filter(pc.equal(chosen["shard"], shard.name)).select(CHOSEN.names)
        dataset.folder.write_table(f"{folder}/candidates/{shard.name}.parquet", own)
    task = Verify(measured.folder, folder, everywhere)
    run_all(task, places, engine, f"verify {measured.name}").whole("run dedup again")
    parts = []
    for shard in places:
        found = dataset.folder.read_table(task.output(shard)).replace_schema_metadata()
        parts.append(found.append_column("shard", pa.array([shard.name] * len(found), pa.string())))
    return pa.concat_tables(parts)


@dataclass(frozen=True)
class Verify:
    """Write which candidates of one pool shard show the benchmark's picture, unless the file is there already."""

    benchmark: Folder
    folder: str
    everywhere: bool

    def __call__(self, shard: Shard) -> Report:
        wanted = shard.folder.read_table(f"{self.folder}/candidates/{shard.name}.parquet").sort_by("uid")
        made_by = {**MADE_BY, "everywhere": self.everywhere, "candidates": fingerprint(wanted.to_pylist()),
                   "bytes": shard.folder.size(shard.tar)}  # fmt: skip
        if shard.folder.made_by(self.output(shard)) == made_by:
            return Report(str(shard), len(wanted), skipped=True)
        found = []
        with shard.images() as encoded, _Pictures(self.benchmark) as pictures:
            for uid, key, rows in _by_uid(shard, wanted):
                if (seen := _seen(encoded[key])) is not None:
                    compared = [(row, *pictures.compared(row, seen, self.everywhere)) for row in rows]
                    found += [{"image": row, "uid": uid, "view": view, "inliers": count}
                              for row, view, count in compared if count]  # fmt: skip
        table = pa.Table.from_pylist(found, CONFIRMED)
        shard.folder.write_table(self.output(shard), table, made_by)
        return Report(str(shard), len(wanted))

    def output(self, shard: Shard) -> str:
        return f"{self.folder}/confirmed/{shard.name}.parquet"


class _Pictures:
    """The benchmark's pictures by the row of its copy, read when they are asked for. What they show is remembered: a
    process looks at many shards of the pool."""

    held: ClassVar[dict[tuple[str, int, bool], Features | None]] = {}

    def __init__(self, benchmark: Folder):
        self.url = benchmark.url  # it holds the digest of the pictures
        copy = Dataset.open(benchmark.url)
        self.places = [(shard, key) for shard in copy.shards for key in shard.rows()["key"].to_pylist()]
        self.open: dict[str, Images] = {}
        self.stack = ExitStack()

    def __enter__(self) -> "_Pictures":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stack.close()

    def compared(self, row: int, pool: Features, everywhere: bool) -> tuple[str, int]:
        """(view, inliers) of the picture as it is or, where that is none, mirrored; 0 inliers where neither is."""
        for view, mirrored in ((WHOLE, False), (called(WHOLE, MIRRORED), True)):
            own = self.features(row, mirrored)
            if own is not None and (count := inliers(own, pool, everywhere)):
                return view, count
        return WHOLE, 0

    def features(self, row: int, mirrored: bool) -> Features | None:
        """Without the large grey levels, which only the pool's side needs."""
        place = self.url, row, mirrored
        if place not in self.held:
            if len(self.held) >= HELD:
                del self.held[next(iter(self.held))]  # the oldest
            seen = _seen(self._encoded(row), mirrored)
            self.held[place] = seen and seen._replace(grey=seen.small)
        return self.held[place]

    def _encoded(self, row: int) -> bytes:
        shard, key = self.places[row]
        if shard.name not in self.open:
            if len(self.open) == OPEN:
                self.stack.close()
                self.open.clear()
            self.open[shard.name] = self.stack.enter_context(shard.images())
        return self.open[shard.name][key]


def _seen(encoded: bytes, mirrored: bool = False) -> Features | None:
    """The features of an image, or None where it cannot be decoded."""
    try:
        pixels = images.decode(encoded)
    except images.UndecodableImage:
        return None
    return features(np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels)


def _by_uid(shard: Shard, wanted: pa.Table) -> Iterator[tuple[str, str, list[int]]]:
    """uid, key and benchmark rows of each row of the shard that is looked at, by uid. Raises BadShard."""
    rows = shard.rows().select(["uid", "key"])
    keys = dict(zip(rows["uid"].to_pylist(), rows["key"].to_pylist(), strict=True))
    grouped: dict[str, list[int]] = {}
    for pair in wanted.to_pylist():
        grouped.setdefault(pair["uid"], []).append(pair["image"])
    for uid in sorted(grouped):
        if uid not in keys:
            raise BadShard(f"{shard}: its rows changed while dedup ran; run it again")
        yield uid, keys[uid], sorted(grouped[uid])
