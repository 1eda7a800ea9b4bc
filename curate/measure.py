"""Measure several signals over every shard in one pass over its tar; what is measured already is left alone."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from curate import images, named
from curate.dataset import Dataset
from curate.errors import BadShard, CurateError
from curate.named import Spec
from curate.rows import DECODED, FROM_IMAGE, Rows
from curate.shard import Shard
from curate.signal_files import COMPUTED_BY, OF_THE_SHARD, TAR_SAMPLE, changed, rows_hash, tar_now
from curate.words import counted
from curate.work import Engine, Report, run_all

BATCH = 128  # images decoded at a time: 25 MB of pixels at 256 x 256
MOST_PIXELS = 1 << 25  # of all images of a batch: 100 MB, unless a single one has more


def measure(dataset: Dataset, specs: Sequence[str], engine: str | Engine = "local") -> Dataset:
    """Write signals/<name>/<shard>.parquet (+ .npy for an embedding) for every shard that lacks them.

    Raises CurateError for a signal that cannot be built, or that was measured with other options under this name, and
    for a tar that is gone.
    """
    parsed = tuple(named.parse(spec) for spec in specs)
    if not parsed:
        raise CurateError(f"no signal named; choose from: {', '.join(named.available('signals'))}")
    _build.cache_clear()  # files of weights may have changed since the last call
    dataset.check_tars()
    for spec in parsed:
        _check(dataset, spec, parsed)
    slugs: dict[str, Spec] = {}
    for spec in parsed:
        if (other := slugs.setdefault(spec.slug, spec)) != spec:
            raise CurateError(f"{other} and {spec} are both called '{spec.slug}'; call one otherwise: {_aliased(spec)}")
    dataset.folder.sweep()
    outcome = run_all(Measure(parsed), dataset.shards, engine, f"measure {', '.join(spec.slug for spec in parsed)}")
    there = [spec for spec in parsed if _files(dataset, spec)]  # not where every shard failed
    signals = {**dataset.signals, **{spec.slug: str(spec) for spec in there}}
    undecodable = int(outcome.total("undecodable"))
    trouble = f", {counted(undecodable, 'image')} could not be decoded" if undecodable else ""
    trouble += "".join(f"; {column} has no value for any of them" for column in _empty(outcome.reports))
    summary = (
        f"measure: {', '.join(map(str, parsed))} on {counted(outcome.rows, 'pair')} in "
        f"{counted(len(outcome.reports), 'shard')}{trouble}"
    )
    counts = {"rows": outcome.rows, "undecodable": undecodable, "skipped": sum(r.skipped for r in outcome.reports)}
    options = {"signals": [str(spec) for spec in parsed]}
    return dataset.after("measure", options, summary, counts, outcome.failures, signals=signals).save()


def _check(dataset: Dataset, spec: Spec, parsed: Sequence[Spec]) -> None:
    """Raises CurateError where a signal cannot be measured under its name."""
    of = _of(spec)
    before = dataset.signals.get(spec.slug)
    if before is not None and before != str(spec) and _files(dataset, spec):
        raise CurateError(
            f"{dataset.url}/signals/{spec.slug} was measured as {before}, not {spec}; "
            f"give the new one a name of its own: {_aliased(spec)}"
        )
    if of is not None and of not in {*dataset.signals, *(other.slug for other in parsed)}:
        raise CurateError(f"{spec} reads the embeddings of '{of}', which {dataset.url} does not have; "
                          f"first: curate measure {dataset.url} '{of}(...)'")  # fmt: skip


def _files(dataset: Dataset, spec: Spec) -> list[str]:
    return dataset.folder.names(f"signals/{spec.slug}/*.parquet")


@dataclass(frozen=True)
class Measure:
    """Write what each signal measures of one shard, unless the file is there already."""

    specs: tuple[Spec, ...]

    def __call__(self, shard: Shard) -> Report:
        table = shard.rows()
        about = {**tar_now(shard), "rows": rows_hash(table)}
        counts: dict[str, int] = {"undecodable": 0}
        skipped = True
        heads = {spec for spec in self.specs if _of(spec) is not None}
        # what reads the embeddings of another comes after it
        for specs in ([s for s in self.specs if s not in heads], [s for s in self.specs if s in heads]):
            made_by = {spec: _made_by(spec, shard, about) for spec in specs}
            todo = [spec for spec in specs if not _done(shard, spec, made_by[spec])]
            if todo:
                skipped = False
                found = _measured(shard, table, {spec: made_by[spec] for spec in todo})
                counts |= found | {"undecodable": counts["undecodable"] + found["undecodable"]}
        return Report(str(shard), len(table), dict(counts), skipped=skipped)


def _measured(shard: Shard, table: pa.Table, todo: dict[Spec, dict[str, Any]]) -> dict[str, int]:
    """Measure and write signals in one pass over a shard: {"undecodable": images, "null NAME": rows without a value}"""
    parts: dict[Spec, list[dict[str, Any]]] = {spec: [] for spec in todo}
    counts = {"undecodable": 0}
    wanted = {name for spec in todo for name in _build(spec).reads}
    embeddings = {of: _embeddings(shard, of, table) for spec in todo if (of := _of(spec)) is not None}
    threads = max(getattr(_build(spec), "decode_threads", 0) for spec in todo) if wanted & DECODED else 0
    batches = _batches(shard, table, wanted, embeddings)
    for rows in _ahead(batches, threads) if threads else batches:
        for spec in todo:
            parts[spec].append(_checked(spec, _build(spec).measure(rows), len(rows)))
        if wanted & DECODED:
            counts["undecodable"] += sum(pixels is None for pixels in rows.pixels)
    for spec, made_by in todo.items():
        library = getattr(_build(spec), COMPUTED_BY, None)
        about = made_by if library is None else {**made_by, COMPUTED_BY: library}
        written = _write(shard, spec, table, parts[spec], about)
        counts |= {f"null {name}": written[name].null_count for name in written.column_names if name != "uid"}
    return counts


def _empty(reports: Sequence[Report]) -> list[str]:
    """The columns that no row of what was measured has a value of."""
    nulls: dict[str, int] = {}
    rows: dict[str, int] = {}
    for report in reports:
        for name, count in report.counts.items():
            if name.startswith("null "):
                nulls[name] = nulls.get(name, 0) + int(count)
                rows[name] = rows.get(name, 0) + report.rows
    return [name.removeprefix("null ") for name in nulls if nulls[name] == rows[name] > 0]


def embedding_name(signal: str, shard: Shard) -> str:
    """Where the embeddings of a signal lie: fp16 [rows, dimensions], in the order of its parquet file."""
    return f"signals/{signal}/{shard.name}.npy"


@lru_cache(maxsize=16)
def _build(spec: Spec) -> Any:
    return named.load("signals", spec)


def _of(spec: Spec) -> str | None:
    """The signal whose stored embeddings this one reads, or None."""
    return getattr(_build(spec), "of", None)


def _made_by(spec: Spec, shard: Shard, about: dict[str, Any]) -> dict[str, Any]:
    """All that decides the values of a signal on a shard: another of it, and they are not to be mixed."""
    made_by = getattr(_build(spec), "made_by", {})
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in spec.options}  # as in JSON
    if (of := _of(spec)) is not None:
        under = shard.folder.made_by(f"signals/{of}/{shard.name}.parquet")
        if under is None:
            raise BadShard(f"{shard}: signals/{of}, whose embeddings {spec.slug} reads, is not measured; "
                           f"run: curate measure {shard.folder.url} '{of}(...)'")  # fmt: skip
        made_by = {**made_by, "of": {name: value for name, value in under.items() if name not in OF_THE_SHARD}}
    return {"signal": spec.name, "options": options, **about, **made_by}


def _embeddings(shard: Shard, signal: str, table: pa.Table) -> np.ndarray:
    """float16 [rows, dimensions] that a signal stored of these rows. Raises BadShard, CurateError."""
    if not shard.folder.exists(embedding_name(signal, shard)):
        raise CurateError(f"{shard.folder.url}/signals/{signal} holds no embeddings; of= names a signal that does: "
                          "clip, embedding")  # fmt: skip
    uids = shard.folder.read_table(f"signals/{signal}/{shard.name}.parquet", ["uid"])["uid"].to_pylist()
    found = shard.folder.read_array(embedding_name(signal, shard))
    if uids != table["uid"].to_pylist() or len(found) != len(uids):
        raise BadShard(f"{shard}: signals/{signal} was measured on other rows; delete it and measure again")
    return found


def check_current(dataset: Dataset, spec: Spec) -> None:
    """Raises CurateError where a signal that is measured would be measured otherwise today: the weights behind its path
    are others, a library has another version."""
    _build.cache_clear()
    for shard in dataset.shards[:1]:  # they agree, or whoever ranks them says so
        before = shard.folder.made_by(f"signals/{spec.slug}/{shard.name}.parquet")
        made_by = _made_by(spec, shard, {})
        if before is not None and (others := set(changed(before, made_by)) - set(OF_THE_SHARD)):
            raise CurateError(f"{dataset.url}/signals/{spec.slug} was measured with another "
                              f"{', '.join(sorted(others))} than {spec} has now; {_way_out(spec)}")  # fmt: skip


def _done(shard: Shard, spec: Spec, made_by: dict[str, Any]) -> bool:
    name = f"signals/{spec.slug}/{shard.name}.parquet"
    before = shard.folder.made_by(name)
    if before is None:
        return False
    others = changed({TAR_SAMPLE: made_by[TAR_SAMPLE], **before}, made_by)
    if not others:
        return True
    if set(others) <= set(OF_THE_SHARD):
        raise BadShard(f"{shard.folder.url}/{name} was measured on another {shard.name}.tar; "
                       "delete this file and measure again")  # fmt: skip
    raise BadShard(f"{shard.folder.url}/{name} was measured with another {', '.join(others)}; {_way_out(spec)}")


def _way_out(spec: Spec) -> str:
    return f"delete signals/{spec.slug} or measure under another name: {_aliased(spec)}"


def _aliased(spec: Spec) -> str:
    return named.called(str(spec), f"{spec.slug}2")


def _batches(shard: Shard, table: pa.Table, wanted: set[str], embeddings: dict[str, np.ndarray]) -> Iterator[Rows]:
    if not wanted & FROM_IMAGE:
        yield Rows(table, embeddings=embeddings)
        return
    keys = table["key"].to_pylist()
    remembered: dict[Any, Any] = {}
    with shard.images() as encoded:
        missing = [key for key in keys if key not in encoded]
        if missing:
            raise BadShard(
                f"{shard}: its tar lacks {counted(len(missing), 'image')} of its parquet, the first is {missing[0]}"
            )
        start = 0
        for files in _chunks((encoded[key] for key in keys), bool(wanted & DECODED)):
            end = start + len(files)
            yield Rows(table.slice(start, len(files)), files, remembered,
                       {name: found[start:end] for name, found in embeddings.items()})  # fmt: skip
            start = end


def _ahead(batches: Iterable[Rows], threads: int) -> Iterator[Rows]:
    """The same batches; while one is measured (by a GPU) threads decode the next."""
    with ThreadPoolExecutor(threads) as pool:
        before: Rows | None = None
        for rows in batches:
            rows.decode_in(pool)
            if before is not None:
                yield before
            before = rows
        if before is not None:
            yield before


def _chunks(files: Iterable[bytes], decoded: bool) -> Iterator[list[bytes]]:
    """At most BATCH files at a time, and at most MOST_PIXELS pixels where they will be decoded; at least one list."""
    chunk: list[bytes] = []
    pixels = 0
    for file in files:
        size = images.pixel_count(file) if decoded else 0
        if chunk and (len(chunk) == BATCH or pixels + size > MOST_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(file)
        pixels += size
    yield chunk


def _checked(spec: Spec, columns: dict[str, Any], rows: int) -> dict[str, Any]:
    for name, values in columns.items():
        if len(values) != rows:
            raise RuntimeError(f"signal {spec} gave {len(values)} values of '{name}' for {rows} rows")
    return {_column(spec, name): values for name, values in columns.items()}


def _column(spec: Spec, name: str) -> str:
    """Columns carry the alias, so that two measurements of one signal can stand in one query."""
    if not spec.alias:
        return name
    plain = Spec(spec.name).slug
    return spec.alias + name.removeprefix(plain) if name.startswith(plain) else f"{spec.alias}_{name}"


def _write(shard: Shard, spec: Spec, rows: pa.Table, parts: list[dict[str, Any]], made_by: dict[str, Any]) -> pa.Table:
    """The table that was written. Raises CurateError where an alias makes a column that the shards have."""
    if spec.alias and (taken := sorted({*parts[0]} & {*rows.column_names})):
        raise CurateError(f"as={spec.alias} makes a column '{taken[0]}', which the shards have; choose another name")
    columns = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if isinstance(values[0], np.ndarray) and values[0].ndim == 2:
            shard.folder.write_array(embedding_name(spec.slug, shard), np.concatenate(values).astype(np.float16))
        else:
            columns[name] = pa.chunked_array([pa.array(value) for value in values]).combine_chunks()
    table = pa.table({"uid": rows["uid"].combine_chunks(), **columns})
    shard.folder.write_table(f"signals/{spec.slug}/{shard.name}.parquet", table, made_by)
    return table
