"""What a selection keeps, as a fresh dataset of plain img2dataset shards.

Every payload is copied byte for byte out of the source tar, never decoded and encoded again; only the headers are new:
names that sort, no owner, no time. Which pair goes where is planned from the tables before the first byte is copied, so
an export that was cut short goes on where it was, and the result is the same for any worker count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import xxhash

from curate import tar
from curate.dataset import MANIFEST, Dataset, fingerprint
from curate.errors import BadShard, CurateError
from curate.files import Folder
from curate.filter.blocks import Blocks
from curate.filter.considered import kept_rows, schema_of
from curate.filter.rules import rounded
from curate.shard import SUCCESS, Shard, uid_of, write_sizes
from curate.signal_files import check_tar, tar_now
from curate.work import Engine, Outcome, Report, run_all

PLAN = "export.json"  # what this export is of; written before its first shard
KEY_DIGITS = 4  # digits of the position in a key, at least: img2dataset's 000120042 is shard 12, pair 42
TAR_RECORD = 20 * tar.BLOCK  # a tar is padded to whole records


@dataclass(frozen=True)
class Source:
    """One shard of a source dataset, with the selection that is exported of it."""

    dataset: Dataset
    shard: Shard
    selection: str | None
    signals: bool  # the columns that signals measured come along in the parquet
    factor: float = 1.0  # of every weight; its fraction is drawn by uid and seed
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.dataset.url}/{self.shard}"

    def read(self) -> tuple[pa.Table, np.ndarray]:
        """The kept rows, sorted by uid, and their weights. Raises BadShard."""
        signals = list(self.dataset.signals) if self.signals else []
        table, weights = kept_rows(self.dataset, self.shard, self.selection, signals)
        if self.factor == 1:
            return table, weights
        return table, rounded(weights * self.factor, table["uid"].combine_chunks(), self.seed)


@dataclass(frozen=True)
class Target:
    """One shard to write: its name, and of each source the copies [start, stop) that go into it, in order."""

    name: str
    parts: tuple[tuple[Source, int, int], ...]

    def __str__(self) -> str:
        return f"shards/{self.name}"


def run(datasets: Sequence[Dataset], out: Dataset, selection: str | None = None, shard_size: int = 10_000,
        signals: bool = True, weights: Sequence[float] = (), seed: int = 0, engine: str | Engine = "local"
        ) -> Dataset:  # fmt: skip
    """Write what `selection` (the current one of each dataset by default) keeps of the datasets, one after another, as
    shards of `shard_size` pairs in the dataset `out`. A pair of weight n is written n times under n keys and uids.
    `weights`, one for each dataset, multiply those of its pairs; a fraction is drawn for each pair by uid and `seed`.

    Raises CurateError where nothing is kept, or where `out` holds anything but this very export.
    """
    if shard_size < 1:
        raise CurateError(f"--shard-size {shard_size}: a shard holds at least one pair")
    if weights and len(weights) != len(datasets):
        raise CurateError(f"{len(weights)} --weight, {len(datasets)} DATASET; give one for each, in their order")
    if wrong := [weight for weight in weights if not 0 < weight < 2**31]:
        raise CurateError(f"--weight {wrong[0]:g}: a weight is more than 0")
    for dataset in datasets:
        dataset.check_tars()
    sources = _sources(datasets, selection, signals, weights or [1.0] * len(datasets), seed)
    counted = run_all(Count(), sources, engine, "plan export")
    usable = [source for source in sources if str(source) not in counted.failures]
    plan = _plan(usable, counted, shard_size, signals)
    if not plan["pairs"]:
        reason = next(iter(counted.failures.values()), "the selection keeps nothing")
        raise CurateError(f"nothing to export to {out.url}: {reason}")
    _claim(out, plan)
    targets = _targets(list(zip(usable, (report.rows for report in counted.reports), strict=True)), shard_size)
    task = Copy(out.folder, fingerprint(plan), _schema(datasets, signals), _digits(shard_size))
    outcome = run_all(task, targets, engine, "export")
    write_sizes(out.folder, {report.item: report.rows for report in outcome.reports})
    failures = {**counted.failures, **outcome.failures}
    for dataset in datasets:
        failures |= dataset.failures
    counts = {"pairs": outcome.rows, "planned": plan["pairs"], "shards": len(outcome.reports),
              "skipped": sum(report.skipped for report in outcome.reports)}  # fmt: skip
    shards = f"{len(outcome.reports):,} shard{'s' * (len(outcome.reports) != 1)}"
    summary = f"export: {outcome.rows:,} pairs in {shards} at {out.url}"
    options = {"datasets": [dataset.url for dataset in datasets], "selection": selection, "shard_size": shard_size,
               "signals": signals, "weights": list(weights), "seed": seed}  # fmt: skip
    return _with_history(out, datasets).after("export", options, summary, counts, failures).save()


@dataclass(frozen=True)
class Count:
    """How many copies a source shard gives, and a hash of which ones."""

    def __call__(self, source: Source) -> Report:
        _check_tar(source)
        table, weights = source.read()
        digest = xxhash.xxh3_64("\n".join(table["uid"].to_pylist()).encode())
        digest.update(weights.astype("<i4").tobytes())
        return Report(str(source), int(weights.sum()), {"digest": digest.intdigest()})


@dataclass(frozen=True)
class Copy:
    """Write one shard: tar, parquet, and last the stats that say it is done. A shard of the same plan is left alone."""

    folder: Folder
    plan: str
    schema: pa.Schema
    digits: int

    def __call__(self, target: Target) -> Report:
        shard, made_by = Shard(self.folder, target.name), {"export": self.plan}
        pairs = sum(stop - start for _, start, stop in target.parts)
        stats = f"shards/{target.name}_stats.json"
        if (
            self.folder.exists(stats)
            and self.folder.exists(shard.tar)
            and self.folder.made_by(shard.parquet) == made_by
        ):
            return Report(str(target), pairs, skipped=True)
        keys = (f"{target.name}{position:0{self.digits}d}" for position in range(pairs))
        with self.folder.writing(shard.tar) as path, open(path, "wb") as file:
            tables = [copy_pairs(source, start, stop, keys, file) for source, start, stop in target.parts]
            size = file.tell() + 2 * tar.BLOCK  # two empty blocks end a tar
            file.write(b"\0" * (2 * tar.BLOCK + -size % TAR_RECORD))
        self.folder.write_table(shard.parquet, _conformed(tables, self.schema), made_by)
        self.folder.write_json(stats, {"count": pairs, "successes": pairs, "failed_to_download": 0,
                                       "failed_to_resize": 0, "status_dict": {SUCCESS: pairs}})  # fmt: skip
        return Report(str(target), pairs)


def _check_tar(source: Source) -> None:
    """Raises BadShard where the tar is another than the signals were measured on that the selection may rest on."""
    shard, tar_of = source.shard, tar_now(source.shard, requests=False)
    for signal in source.dataset.signals:
        check_tar(shard, signal, shard.folder.made_by(f"signals/{signal}/{shard.name}.parquet") or {}, tar_of)


def copy_pairs(source: Source, start: int, stop: int, keys: Iterator[str], file: BinaryIO) -> pa.Table:
    """Append the copies [start, stop) of a source to an open tar under the next keys; their rows come back."""
    table, weights = source.read()
    row = np.repeat(np.arange(len(table)), weights)[start:stop]
    copy = np.arange(start, stop) - (np.cumsum(weights) - weights)[row]  # 0 for the first copy of a pair
    table = table.take(pa.array(row))
    old, new = table["key"].to_pylist(), list(islice(keys, len(table)))
    with source.dataset.folder.local(source.shard.tar) as path, tar.opened(path) as view:
        if (blocks := Blocks.of(view)) is not None:
            _in_blocks(source, blocks, old, new, file)
        else:
            _one_by_one(source, view, old, new, file)
    uids = table["uid"].to_pylist()
    for number in np.flatnonzero(copy):
        uids[number] = uid_of(uids[number], str(copy[number]))
    columns = {"uid": pa.array(uids, pa.string()), "key": pa.array(new, pa.string()),
               "status": pa.array([SUCCESS] * len(new), pa.string())}  # fmt: skip
    others = {name: table[name] for name in table.column_names if name not in columns}
    return pa.table({**columns, **others})


def _in_blocks(source: Source, blocks: Blocks, old: list[str], new: list[str], file: BinaryIO) -> None:
    first, last = blocks.find(old)
    if (first == last).any():
        raise BadShard(f"{source}: its tar lacks {old[int(np.argmax(first == last))]}, which its parquet lists")
    blocks.copy(first, last, new, file)


def _one_by_one(source: Source, view: memoryview, old: list[str], new: list[str], file: BinaryIO) -> None:
    """The same bytes, member by member, of a tar of any kind."""
    members = {sample.key: sample.members for sample in tar.samples(view, f"{source}.tar", old)}
    for key, name in zip(old, new, strict=True):
        if key not in members:
            raise BadShard(f"{source}: its tar lacks {key}, which its parquet lists")
        for extension, member in members[key].items():
            content = view[member.data : member.data + member.size]
            head = tar.header(f"{name}.{extension}", member.size)
            file.write(b"".join((head, content, tar.padding(member.size))))
            content.release()


def _sources(datasets: Sequence[Dataset], selection: str | None, signals: bool, weights: Sequence[float], seed: int
             ) -> list[Source]:  # fmt: skip
    sources = []
    for dataset, weight in zip(datasets, weights, strict=True):
        chosen = selection or dataset.selection
        dataset.check_selection(chosen)
        slim = dataset.light
        sources += [Source(slim, shard, chosen, signals, weight, seed) for shard in dataset.shards]
    return sources


def _plan(sources: list[Source], counted: Outcome, shard_size: int, signals: bool) -> dict[str, Any]:
    """What decides every byte of the export, whatever its sources are called."""
    return {
        "pairs": counted.rows,
        "shard_size": shard_size,
        "signals": [dict(sorted(source.dataset.signals.items())) for source in sources] if signals else None,
        "sources": [[source.shard.name, report.rows, f"{report.counts['digest']:016x}"]
                    for source, report in zip(sources, counted.reports, strict=True)],
    }  # fmt: skip


def _claim(out: Dataset, plan: dict[str, Any]) -> None:
    """Write the plan into `out`, unless it is there. Raises CurateError where `out` holds something else."""
    before = out.folder.read_json(PLAN) if out.folder.exists(PLAN) else None
    if before == plan:
        out.folder.sweep()
        return
    if before is not None:
        raise CurateError(f"{out.url} holds another export; choose another --out or delete it")
    if out.folder.exists(MANIFEST) or out.shards:
        raise CurateError(f"{out.url} holds a dataset that is no export; choose another --out")
    if others := out.folder.names("**"):
        raise CurateError(f"{out.url} holds other files, such as {others[0]}; choose another --out")
    out.folder.write_json(PLAN, plan)


def _targets(sources: list[tuple[Source, int]], shard_size: int) -> list[Target]:
    """Cut the sources, laid end to end, into shards of `shard_size`."""
    parts: list[list[tuple[Source, int, int]]] = [[]]
    room = shard_size
    for source, copies in sources:
        start = 0
        while start < copies:
            if not room:
                parts.append([])
                room = shard_size
            stop = min(copies, start + room)
            parts[-1].append((source, start, stop))
            room -= stop - start
            start = stop
    return [Target(f"{index:05d}", tuple(part)) for index, part in enumerate(parts)]


def _digits(shard_size: int) -> int:
    return max(KEY_DIGITS, len(str(shard_size - 1)))


def _schema(datasets: Sequence[Dataset], signals: bool) -> pa.Schema:
    """The columns of every source, so that all shards of the export have the same."""
    schemas = []
    for dataset in datasets:
        schema, owner = schema_of(dataset)
        schemas.append(pa.schema([field for field in schema if signals or field.name not in owner]))
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        names = ", ".join(dataset.url for dataset in datasets)
        reason = " ".join(str(error).split())
        raise CurateError(f"the tables of {names} do not fit together ({reason}); export them one by one") from error


def _conformed(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    """The tables one after another, in the columns of `schema`; null where one has no such column."""
    table = pa.concat_tables(tables, promote_options="permissive")
    first = [name for name in ("uid", "key", "status") if name in table.column_names]
    fields = [table.schema.field(name) for name in first] + [field for field in schema if field.name not in first]
    columns = [table[field.name].cast(field.type) if field.name in table.column_names
               else pa.nulls(len(table), field.type) for field in fields]  # fmt: skip
    return pa.table(columns, names=[field.name for field in fields])


def _with_history(out: Dataset, datasets: Sequence[Dataset]) -> Dataset:
    """`out` with the history of its sources in front, each step with the dataset it belongs to where there are many."""
    if out.history:
        return out
    history = [step if len(datasets) == 1 else {"dataset": dataset.url, **step}
               for dataset in datasets for step in dataset.history]  # fmt: skip
    return replace(out, manifest={**out.manifest, "history": history})
