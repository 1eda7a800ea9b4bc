"""The steps with the limits found so far, and what they say of the rows of a shard."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from curate.arrow import compute
from curate.errors import CurateError
from curate.files import Folder
from curate.filter import answers, keys, predicate, subset
from curate.filter.predicate import Expression
from curate.filter.steps import Cap, Sample, Step, Subset, Top, Weight, Where, expression

Words = tuple[np.ndarray, ...]  # uint64 [rows] each; rows are ordered by the first, then by the next; largest is best


@dataclass(frozen=True)
class Limit:
    """What a row must reach: one smallest rank over all shards, or one for each group, in parquet files of a folder."""

    words: tuple[int, ...] = ()
    groups: str | None = None


@dataclass(frozen=True)
class Rules:
    """The steps, and, for each that ranks and whose turn has come, its limit (None for a step that does not rank)."""

    steps: tuple[Step, ...]
    limits: tuple[Limit | None, ...] = ()

    @cached_property
    def expressions(self) -> list[Expression | None]:
        return [expression_of(step) for step in self.steps]

    @cached_property
    def per(self) -> list[Expression | None]:
        return [per_of(step) for step in self.steps]

    def reads(self, steps: range, names: list[str]) -> set[str]:
        """Those of the columns `names` that some steps read."""
        every = [rule for index in steps for rule in (self.expressions[index], self.per[index]) if rule is not None]
        return {name for rule in every for name in rule.used(names)}

    def uses_uids(self, steps: range) -> bool:
        """Whether some steps look at the uids: to break ties, to draw, to look them up, or in their SQL."""
        plain = (isinstance(step, Where) or (isinstance(step, Top) and not step.exact)
                 for step in self.steps[steps.start : steps.stop])  # fmt: skip
        return not all(plain) or bool(self.reads(steps, ["uid"]))

    def verdicts(self, table: pa.Table, folder: Folder) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each step decided so far, alone: bool or int32 [rows] copies, bool [rows] had no value."""
        where = [index for index in range(len(self.limits)) if isinstance(self.steps[index], Where)]
        conditions = answers.conditions(table, [rule for index in where if (rule := self.expressions[index])])
        found = dict(zip(where, conditions, strict=True))
        verdicts = []
        for index, step in enumerate(self.steps[: len(self.limits)]):
            copies, null = found[index] if index in found else self._copies(index, table, folder)
            if null.any():
                copies = np.where(null, np.array(step.on_null == "keep", copies.dtype), copies)
            verdicts.append((copies, null))
        return verdicts

    def ranks(self, table: pa.Table, index: int) -> tuple[Words, np.ndarray]:
        """The ranks of a step that ranks, and bool [rows] had no value. For a Sample uint64 [rows, most] instead."""
        step, rule = self.steps[index], self.expressions[index]
        ties = isinstance(step, Top) and not step.exact
        high, low = (np.zeros(0, np.uint64),) * 2 if ties else keys.of_uids(table["uid"].combine_chunks())
        if isinstance(step, Cap) and rule is None:
            return (keys.drawn(high, low, step.seed), ~high, ~low), np.zeros(len(table), bool)
        assert rule
        values = predicate.numbers(table, rule)
        null = np.isnan(values)
        if null.any():
            values = np.where(null, 0.0, values)
        if isinstance(step, Sample):
            return (_arrivals(step, values, high, low),), null
        return (keys.of_values(values),) if ties else (keys.of_values(values), ~high, ~low), null

    def _copies(self, index: int, table: pa.Table, folder: Folder) -> tuple[np.ndarray, np.ndarray]:
        step, limit = self.steps[index], self.limits[index]
        if isinstance(step, Subset):
            return subset.copies(step.path, table["uid"].combine_chunks()), np.zeros(len(table), bool)
        if isinstance(step, Weight):
            return self._weights(step, index, table)
        assert limit
        if isinstance(step, Top) and limit.groups is None and not step.exact:
            rule = self.expressions[index]
            assert rule
            values = predicate.numbers(table, rule)
            return values >= np.float64(keys.value_of(limit.words[0])), np.isnan(values)
        words, null = self.ranks(table, index)
        if limit.groups is None:
            copies = reach(words, tuple(np.uint64(word) for word in limit.words))
            return (copies.sum(axis=1) if isinstance(step, Sample) else copies), null
        rule = self.per[index]
        assert rule
        rows, names = predicate.groups(table, rule)
        without = np.ones(len(table), bool)
        without[rows] = False
        rows, names = rows[~null[rows]], names.filter(pa.array(~null[rows]))
        inside = _within(folder, limit.groups, names, tuple(word[rows] for word in words), isinstance(step, Cap))
        copies = np.zeros(len(table), bool)
        copies[rows[inside]] = True
        if isinstance(step, Cap):
            return copies | without, null & ~without
        return copies, null | without

    def _weights(self, step: Weight, index: int, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        rule = self.expressions[index]
        assert rule
        values = predicate.numbers(table, rule)
        null = np.isnan(values)
        values = np.where(null, 0.0, values)
        if (values < 0).any() or (values >= 2**31).any():
            wrong = values[(values < 0) | (values >= 2**31)][0]
            raise CurateError(f"step '{step.name}': a weight of {wrong:g}; weights lie between 0 and 2^31")
        return rounded(values, table["uid"].combine_chunks(), step.seed), null


def rounded(values: np.ndarray, uids: pa.Array, seed: int) -> np.ndarray:
    """int32 [rows]: the whole part, and one more with the chance of the fraction, drawn by uid and seed."""
    whole = np.floor(values)
    if (whole != values).any():
        whole = whole + (keys.uniform(keys.drawn(*keys.of_uids(uids), seed)) < values - whole)
    return whole.astype(np.int32)


def expression_of(step: Step) -> Expression | None:
    sql = expression(step)
    return None if sql is None else Expression(sql, f"step '{step.name}'")


def per_of(step: Step) -> Expression | None:
    """What tells the groups of a step; "query" is every query that a pair matches."""
    per = getattr(step, "per", None)
    return None if per is None else Expression("queries" if per == "query" else per, f"step '{step.name}'")


def reach(words: Words, limits: tuple[np.uint64 | np.ndarray, ...]) -> np.ndarray:
    """bool: whether ranks are at least their limits; where there are fewer limits than words, ties are in."""
    reached = np.ones(words[0].shape, bool)
    for word, limit in reversed(list(zip(words, limits, strict=False))):
        reached = (word > limit) | ((word == limit) & reached)
    return reached


def _arrivals(step: Sample, scores: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """uint64 [rows, most]: how early each draw of a row comes, earliest largest."""
    time, found = np.zeros(len(scores)), []
    for number in range(step.most):
        wait = -np.log(keys.uniform(keys.drawn(high, low, step.seed, number)))
        with np.errstate(over="ignore"):
            time = time + wait * np.exp(step.soft_cap * number - scores)
        found.append(keys.of_values(-time))
    return np.stack(found, axis=1)


def _within(folder: Folder, place: str, names: pa.Array, words: Words, free: bool) -> np.ndarray:
    """Whether ranks reach the limit of their group; a group without one is `free` or keeps nothing."""
    table, limits = _limits(folder, place)
    pc = compute()
    found = pc.index_in(names, value_set=table)
    known = pc.is_valid(found).to_numpy(zero_copy_only=False)
    at = pc.fill_null(found, 0).to_numpy()
    if not len(table):
        return np.full(len(names), free)
    return np.where(known, reach(words, tuple(limit[at] for limit in limits[: len(words)])), free)


@functools.lru_cache(maxsize=2)
def _limits(folder: Folder, place: str) -> tuple[pa.Array, Words]:
    tables = list(_tables(folder, place))
    table = pa.concat_tables(tables).combine_chunks()
    words = tuple(table[name].to_numpy() for name in ("word0", "word1", "word2"))
    return table["group"].combine_chunks(), words


def _tables(folder: Folder, place: str) -> Iterator[pa.Table]:
    for name in folder.names(f"{place}/*.parquet"):
        yield folder.read_table(name)
