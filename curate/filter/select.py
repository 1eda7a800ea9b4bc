"""Which rows a recipe keeps: exact global thresholds first, then one small table of verdicts for each shard."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dataset import Dataset, fingerprint
from curate.errors import BadShard, CurateError
from curate.filter import predicate
from curate.filter.predicate import Expression
from curate.filter.recipe import Step, Top
from curate.shard import Shard
from curate.work import Engine, Number, Outcome, Report, run_all

NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
           "UHUGEINT", "FLOAT", "DOUBLE")  # fmt: skip
SCHEMA_SHARDS = 8  # a column without a single value in so many shards is taken for an untyped one


@dataclass(frozen=True)
class Rules:
    """The steps, and, for each `top` step whose turn has come, the smallest value that it keeps."""

    steps: tuple[Step, ...]
    thresholds: tuple[float | None, ...] = ()  # one for each step decided so far; None for a condition

    @cached_property
    def expressions(self) -> list[Expression]:
        return [expression_of(step) for step in self.steps]

    def verdicts(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Of the steps decided so far, each alone: bool [steps, rows] passed, bool [steps, rows] had no value."""
        decided = len(self.thresholds)
        passed, null = np.ones((decided, len(table)), bool), np.zeros((decided, len(table)), bool)
        where = [index for index in range(decided) if not isinstance(self.steps[index], Top)]
        found = predicate.conditions(table, [self.expressions[index] for index in where])
        for index, (holds, missing) in zip(where, found, strict=True):
            passed[index], null[index] = holds, missing
        for index, threshold in enumerate(self.thresholds):
            if threshold is not None:
                values = predicate.numbers(table, self.expressions[index])
                passed[index], null[index] = values >= threshold, np.isnan(values)
        return passed, null


@dataclass(frozen=True)
class Considered:
    """The rows that a run may keep: those that the parent selection keeps, with the columns that its rules read."""

    dataset: Dataset
    parent: str | None
    signals: tuple[str, ...]
    columns: tuple[str, ...]

    def read(self, shard: Shard) -> tuple[pa.Table, np.ndarray]:
        """(uid and the columns, sorted by uid; int32 [rows] weights). Raises BadShard."""
        table, weights = kept_rows(self.dataset, shard, self.parent, list(self.signals))
        absent = [name for name in self.columns if name not in table.column_names]
        if absent:
            raise BadShard(f"{shard}: its tables lack the column '{absent[0]}' that other shards have")
        return table.select(["uid", *self.columns]), weights


def kept_rows(dataset: Dataset, shard: Shard, selection: str | None, signals: list[str]) -> tuple[pa.Table, np.ndarray]:
    """The joined rows of a shard that a selection keeps, sorted by uid, and their int32 weights. Raises BadShard where
    the selection names rows that the shard does not hold."""
    table = dataset.joined(shard, signals)
    kept = dataset.kept(shard, selection)
    if kept is None:
        return table, np.ones(len(table), np.int32)
    uids = table["uid"].combine_chunks()
    found = pa.compute.index_in(kept["uid"].combine_chunks(), value_set=uids)
    if found.null_count:
        raise BadShard(f"{shard}: selection '{selection}' keeps {found.null_count:,} pairs that this shard does not "
                       f"hold; it was made on other data, select again")  # fmt: skip
    return table.take(found), kept["weight"].to_numpy().astype(np.int32)


@dataclass(frozen=True)
class Rank:
    """Write the values that the next `top` step ranks, of one shard, as float64 .npy without the nulls."""

    rules: Rules
    considered: Considered
    scratch: str

    def __call__(self, shard: Shard) -> Report:
        table, _ = self.considered.read(shard)
        index = len(self.rules.thresholds)
        step = self.rules.steps[index]
        assert isinstance(step, Top)
        values = predicate.numbers(table, self.rules.expressions[index])
        if step.of == "survivors":
            values = values[self.rules.verdicts(table)[0].all(axis=0)]
        values = values[~np.isnan(values)]
        shard.folder.write_array(f"{self.scratch}/{shard.name}.npy", values)
        return Report(str(shard), len(values))


@dataclass(frozen=True)
class Select:
    """Write selections/<name>/<shard>.parquet: uid, weight (0 = dropped), reason (the first step that it failed)."""

    rules: Rules
    considered: Considered
    name: str
    fingerprint: str

    def __call__(self, shard: Shard) -> Report:
        target = f"selections/{self.name}/{shard.name}.parquet"
        before = shard.folder.made_by(target)
        if before is not None and before.get("fingerprint") != self.fingerprint:
            raise CurateError(f"{shard.folder.url}/selections/{self.name} was made by other rules or on other data; "
                              f"choose another --name or delete it")  # fmt: skip
        if before is not None:
            return Report(str(shard), before["counts"]["of"], before["counts"], skipped=True)
        table, weights = self.considered.read(shard)
        passed, null = self.rules.verdicts(table)
        counts = tally(passed, null)
        names = pa.array([*(step.name for step in self.rules.steps), None], pa.string())
        failed = np.where(passed.all(axis=0), len(self.rules.steps), np.argmin(passed, axis=0))
        columns = {
            "uid": table["uid"],
            "weight": pa.array(np.where(passed.all(axis=0), weights, 0), pa.int32()),
            "reason": names.take(pa.array(failed)),
        }
        shard.folder.write_table(target, pa.table(columns), {"fingerprint": self.fingerprint, "counts": counts})
        return Report(str(shard), len(table), counts)


def tally(passed: np.ndarray, null: np.ndarray) -> dict[str, Number]:
    """Counts of one shard by "<number> <name of step>": alone passes it, kept passes it and all before it, only fails
    it and no other, null has no value for it."""
    counts: dict[str, Number] = {"of": int(passed.shape[1]), "kept": int(passed.all(axis=0).sum())}
    cumulative = np.logical_and.accumulate(passed, axis=0)
    failures = (~passed).sum(axis=0)
    for index in range(len(passed)):
        counts[f"alone {index}"] = int(passed[index].sum())
        counts[f"kept {index}"] = int(cumulative[index].sum())
        counts[f"only {index}"] = int((~passed[index] & (failures == 1)).sum())
        counts[f"null {index}"] = int(null[index].sum())
    return counts


def expression_of(step: Step) -> Expression:
    return Expression(step.by if isinstance(step, Top) else step.sql, f"step '{step.name}'")


def check(dataset: Dataset, steps: Sequence[Step], parent: str | None) -> Considered:
    """What the steps read, once every one of them fits the dataset. Raises CurateError before any scan."""
    expressions = [expression_of(step) for step in steps]
    schema, owner = schema_of(dataset)
    empty = schema.empty_table()
    for step, expression in zip(steps, expressions, strict=True):
        kind = expression.bind(empty, dataset.url)
        if isinstance(step, Top) and kind not in NUMBERS and not kind.startswith("DECIMAL"):
            raise CurateError(f"step '{step.name}': '{step.by}' is {kind}, not a number to rank by")
        if not isinstance(step, Top) and kind != "BOOLEAN":
            raise CurateError(f"step '{step.name}': '{step.sql}' is {kind}, not a condition such as clip > 0.28")
    used = {name for expression in expressions for name in expression.used(schema.names)} - {"uid"}
    signals = sorted({owner[name] for name in used if name in owner})
    return Considered(for_tasks(dataset), parent, tuple(signals), tuple(sorted(used)))


def schema_of(dataset: Dataset) -> tuple[pa.Schema, dict[str, str]]:
    """The columns that every row has, and the signal that each measured one belongs to. Raises BadShard."""
    schema, owner, trouble = None, {}, BadShard(f"{dataset.url} has no shards")
    for shard in dataset.shards:
        try:
            found = dataset.joined(shard).schema
            owner = {name: signal for signal in dataset.signals
                     for name in dataset.measured(shard, signal).column_names if name != "uid"}  # fmt: skip
        except BadShard as error:
            trouble = error
            continue
        schema = found if schema is None else pa.unify_schemas([schema, found], promote_options="permissive")
        untyped = any(pa.types.is_null(field.type) for field in schema)
        if not untyped or shard in dataset.shards[SCHEMA_SHARDS:]:
            break
    if schema is None:
        raise trouble
    return schema.remove_metadata(), owner


def for_tasks(dataset: Dataset) -> Dataset:
    """The dataset without what grows with its shards, so that it travels with every task at little cost."""
    return replace(dataset, manifest={**dataset.manifest, "shards": [], "history": []}, failures={})


def decide(dataset: Dataset, steps: tuple[Step, ...], considered: Considered, engine: str | Engine
           ) -> tuple[Rules, Outcome]:  # fmt: skip
    """The rules with the threshold of every `top` step, found over all shards; the outcome of the last pass."""
    rules, outcome = Rules(steps), Outcome()
    scratch = f"work/filter/{fingerprint([step.rule for step in steps])}"
    for step in steps:
        threshold = None
        if isinstance(step, Top):
            label = f"rank by {step.by}"
            outcome = run_all(Rank(rules, considered, scratch), dataset.shards, engine, label)
            parts = [dataset.folder.read_array(f"{scratch}/{report.item.rsplit('/', 1)[-1]}.npy")
                     for report in outcome.reports]  # fmt: skip
            threshold = cut(np.concatenate([*parts, np.zeros(0)]), step)
            del parts  # memory-mapped: closed before they are removed
            dataset.folder.remove(scratch)
        rules = Rules(steps, (*rules.thresholds, threshold))
    return rules, outcome


def cut(values: np.ndarray, step: Top) -> float:
    """The smallest value that a `top` step keeps, exactly; rows that tie with it are all kept."""
    if not len(values):
        raise CurateError(f"step '{step.name}': no row has a value of '{step.by}' to rank by")
    place = len(values) - step.rows(len(values))
    threshold = float(np.partition(values, place)[place])
    return threshold if step.least is None else max(threshold, float(step.least))


def funnel(rules: Rules, outcome: Outcome) -> list[dict[str, Any]]:
    """For each step: name, rule, threshold (of a top step), and how many rows pass it alone, pass it after all steps
    before it (kept), are dropped by it only, have no value for it (null; these are dropped)."""
    rows = []
    for index, (step, threshold) in enumerate(zip(rules.steps, rules.thresholds, strict=True)):
        numbers = {kind: int(outcome.total(f"{kind} {index}")) for kind in ("alone", "kept", "only", "null")}
        cut_at = {} if threshold is None else {"threshold": threshold}
        rows.append({"step": step.name, "rule": step.rule, **cut_at, **numbers})
    return rows
