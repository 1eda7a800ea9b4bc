"""Exact limits over all shards, found by tasks: the driver holds a histogram and a few ranks, never a column.

One limit: every shard writes its ranks once and counts them by their first 16 bits (a radix selection); the driver then
takes those alone that share the bits of the limit. Where they are more than FEW, tasks count them by their next 16 bits
first. One limit a group: the ranks are spread over buckets of groups, each bucket is sorted alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from curate.errors import CurateError
from curate.files import Folder
from curate.filter import keys, predicate
from curate.filter.considered import Considered
from curate.filter.rules import Limit, Rules
from curate.filter.steps import Cap, Sample, Top
from curate.memory import keep_freed_memory
from curate.shard import Shard
from curate.work import Engine, Number, Outcome, Report, run_all

DIGIT = 16  # bits looked at in one pass
FEW = 2_000_000  # ranks that the driver reads: 16 MB, 48 where uids break ties
PER_BUCKET = 4_000_000  # rows of groups that are sorted at a time


@dataclass(frozen=True)
class Rank:
    """Write the ranks that the next step compares, of one shard: uint64 .npy [words, ranks]."""

    rules: Rules
    considered: Considered
    scratch: str

    def __call__(self, shard: Shard) -> Report:
        keep_freed_memory()
        words, alive, _ = _ranked(self, shard)
        words = words if alive.all() else tuple(word[alive] for word in words)
        ranks = np.stack([word.ravel() for word in words])
        shard.folder.write_array(f"{self.scratch}/{shard.name}.npy", ranks, lasting=False)
        counts = {**_told(ranks[0], 64 - DIGIT), "survivors": int(alive.sum())}
        return Report(str(shard), ranks.shape[1], counts)


@dataclass(frozen=True)
class Look:
    """Count the ranks of a shard that agree with the bits found so far, by the next bits."""

    folder: Folder
    scratch: str
    found: tuple[int, ...]  # words that are known whole
    prefix: int  # of the next word
    bits: int  # that `prefix` has

    def __call__(self, shard: str) -> Report:
        word = self.ranks(shard)[len(self.found)]
        return Report(shard, len(word), _told(word, 64 - self.bits - DIGIT))

    def ranks(self, shard: str) -> np.ndarray:
        """uint64 [words, ranks]: those of a shard that agree with what is found."""
        words = np.asarray(self.folder.read_array(f"{self.scratch}/{shard}.npy"))  # a memmap is slow to be sliced
        for number, known in enumerate(self.found):
            words = words[:, words[number] == known]
        if self.bits:
            words = words[:, words[len(self.found)] >> np.uint64(64 - self.bits) == self.prefix]
        return words


@dataclass(frozen=True)
class Spread:
    """Write group and rank of every row of one shard, a row group for each bucket of groups."""

    rules: Rules
    considered: Considered
    scratch: str
    buckets: int

    def __call__(self, shard: Shard) -> Report:
        words, alive, table = _ranked(self, shard)
        rule = self.rules.per[len(self.rules.limits)]
        assert rule
        rows, names = predicate.groups(table, rule)
        here = alive[rows]
        rows, names = rows[here], names.filter(pa.array(here))
        distinct = names.dictionary_encode()
        bucket = np.array([xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")) % self.buckets
                           for name in distinct.dictionary.to_pylist()], np.int64)  # fmt: skip
        bucket = bucket[distinct.indices.to_numpy()] if len(bucket) else np.zeros(0, np.int64)
        padded = [*words, *[np.zeros(len(alive), np.uint64)] * (3 - len(words))]
        every = pa.table({"group": names, **{f"word{i}": word[rows] for i, word in enumerate(padded)}})
        with (
            shard.folder.writing(f"{self.scratch}/{shard.name}.parquet") as path,
            pq.ParquetWriter(path, every.schema, compression="zstd") as file,
        ):
            for number in range(self.buckets):
                file.write_table(every.filter(pa.array(bucket == number)), row_group_size=1 << 30)
        return Report(str(shard), len(rows))


@dataclass(frozen=True)
class Groups:
    """Write the limit of every group of one bucket."""

    folder: Folder
    scratch: str
    shards: tuple[str, ...]
    step: Top | Cap

    def __call__(self, bucket: int) -> Report:
        tables = []
        for shard in self.shards:
            with self.folder.local(f"{self.scratch}/{shard}.parquet") as path, pq.ParquetFile(path) as file:
                tables.append(file.read_row_group(bucket))
        table = pa.concat_tables(tables).combine_chunks()
        code = table["group"].combine_chunks().dictionary_encode()
        group, words = code.indices.to_numpy(), [table[f"word{i}"].to_numpy() for i in range(3)]
        order = np.lexsort((~words[2], ~words[1], ~words[0], group))
        sizes = np.bincount(group, minlength=len(code.dictionary))
        if isinstance(self.step, Cap):
            wanted = np.minimum(sizes, self.step.most)
        else:
            wanted = np.array([self.step.rows(int(size)) for size in sizes], np.int64)
        last = order[np.cumsum(sizes) - sizes + wanted - 1] if len(sizes) else np.zeros(0, np.int64)
        limits = [word[last] for word in words]
        if isinstance(self.step, Top) and self.step.least is not None:
            floor = keys.of_values(np.array([self.step.least]))[0]
            below = limits[0] < floor
            limits = [np.where(below, floor if i == 0 else np.uint64(0), limit) for i, limit in enumerate(limits)]
        found = pa.table({"group": code.dictionary, **{f"word{i}": limit for i, limit in enumerate(limits)}})
        self.folder.write_table(f"{self.scratch}/limits/{bucket:05d}.parquet", found.sort_by("group"))
        return Report(f"bucket {bucket}", len(found))


def one(rules: Rules, considered: Considered, scratch: str, shards: Sequence[Shard], engine: str | Engine
        ) -> tuple[Limit, Outcome]:  # fmt: skip
    """The limit of a step over all shards. Raises CurateError where nothing can be ranked."""
    step = rules.steps[len(rules.limits)]
    assert isinstance(step, Top | Sample)
    outcome = run_all(Rank(rules, considered, scratch), shards, engine, f"rank by {step.by}")
    ranked, survivors = outcome.rows, int(outcome.total("survivors"))
    _some(ranked, step, outcome)
    wanted = min(ranked, step.rows(survivors))
    names = [report.item.rsplit("/", 1)[-1] for report in outcome.reports]
    ties = isinstance(step, Sample) or not step.exact
    words = _limit(outcome.reports, wanted, Look(considered.dataset.folder, scratch, (), 0, 0), names, ties, engine)
    if isinstance(step, Top) and step.least is not None:
        floor = int(keys.of_values(np.array([step.least]))[0])
        words = (floor,) if floor > words[0] else words
    return Limit(words), outcome


def _limit(reports: Sequence[Report], wanted: int, look: Look, names: list[str], ties: bool, engine: str | Engine
           ) -> tuple[int, ...]:  # fmt: skip
    """The words of the `wanted`-th largest rank, or the first of them where all ranks that share it are wanted, from
    the counts of the first bits; with `ties` there is one word."""
    while True:
        digit, wanted, inside = _narrowed(reports, wanted)
        look = replace(look, prefix=look.prefix << DIGIT | digit, bits=look.bits + DIGIT)
        if inside <= FEW:
            ranks = np.concatenate([look.ranks(name) for name in names], axis=1)
            if len(ranks) == 1:
                return (int(np.partition(ranks[0], -wanted)[-wanted]),)
            return tuple(int(word) for word in ranks[:, np.lexsort(ranks[::-1])[-wanted]])
        if look.bits == 64:
            look = replace(look, found=(*look.found, look.prefix), prefix=0, bits=0)
            if ties or wanted == inside or len(look.found) == 3:
                return look.found
        reports = run_all(look, names, engine).whole("run again").reports


def grouped(rules: Rules, considered: Considered, scratch: str, shards: Sequence[Shard], engine: str | Engine
            ) -> tuple[Limit, Outcome]:  # fmt: skip
    """The limit of every group, written under `scratch`/limits."""
    step = rules.steps[len(rules.limits)]
    assert isinstance(step, Top | Cap)
    buckets = min(1024, max(1, len(shards) * 10_000 // PER_BUCKET))
    outcome = run_all(Spread(rules, considered, scratch, buckets), shards, engine, f"rank per {step.per}")
    if isinstance(step, Top):
        _some(outcome.rows, step, outcome)
    names = tuple(report.item.rsplit("/", 1)[-1] for report in outcome.reports)
    if names:
        task = Groups(considered.dataset.folder, scratch, names, step)
        run_all(task, range(buckets), engine).whole("run again")
    return Limit(groups=f"{scratch}/limits"), outcome


def _some(ranked: int, step: Top | Sample, outcome: Outcome) -> None:
    if not ranked:
        reason = next(iter(outcome.failures.values()), None)
        raise CurateError(f"step '{step.name}': no row has a value of '{step.by}' to rank by" +
                          (f" ({reason})" if reason else ""))  # fmt: skip


def _ranked(task: Rank | Spread, shard: Shard) -> tuple[Any, np.ndarray, pa.Table]:
    """The ranks of a shard, which rows take part, and its table."""
    index = len(task.rules.limits)
    step = task.rules.steps[index]
    deep = not isinstance(step, Top) or step.of == "survivors"  # it depends on the steps before
    steps = range(0 if deep else index, index + 1)
    considered = task.considered.only(task.rules.reads(steps, task.considered.names))
    table = considered.read(shard, "text" if task.rules.uses_uids(steps) else "").table
    words, null = task.rules.ranks(table, index)
    alive = ~null
    if deep:
        for copies, _ in task.rules.verdicts(table, shard.folder):
            alive &= copies > 0
    return words, alive, table


def _told(word: np.ndarray, shift: int) -> dict[str, Number]:
    """How many of the ranks have each value of the 16 bits above `shift`."""
    digits = (word >> np.uint64(shift)).ravel().view(np.int64)
    if shift + DIGIT < 64:
        digits &= (1 << DIGIT) - 1
    least = int(digits.min(initial=1 << DIGIT))
    counts = np.bincount(digits - least)  # few of the digits occur, side by side
    there = np.flatnonzero(counts)
    return dict(zip(map(str, (there + least).tolist()), counts[there].tolist(), strict=True))


def _narrowed(reports: Sequence[Report], wanted: int) -> tuple[int, int, int]:
    """The digit that holds the `wanted`-th largest rank, which it is there, and how many share the digit."""
    counts = np.zeros(1 << DIGIT, np.int64)
    for report in reports:
        for name, count in report.counts.items():
            if name.isdigit():
                counts[int(name)] += count
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, wanted))
    digit = (1 << DIGIT) - 1 - place
    return digit, int(wanted - above[place] + counts[digit]), int(counts[digit])
