"""Which rows a recipe keeps: exact global limits first, then one small table of verdicts for each shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dataset import Dataset, fingerprint
from curate.errors import CurateError
from curate.filter import keys, limits, subset
from curate.filter.considered import Considered, considered, schema_of
from curate.filter.rules import Limit, Rules, expression_of, per_of
from curate.filter.steps import Cap, Sample, Step, Top, Weight, Where, expression
from curate.shard import Shard
from curate.work import Engine, Number, Outcome, Report

NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
           "UHUGEINT", "FLOAT", "DOUBLE")  # fmt: skip
SCALARS = (*NUMBERS, "VARCHAR", "BOOLEAN")


@dataclass(frozen=True)
class Select:
    """Write selections/<name>/<shard>.parquet: uid, weight (0 = dropped), reason (the first step that it failed) and
    failed (bit i: step i would drop it, whatever the others say)."""

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
        copies, null = self.rules.verdicts(table, shard.folder)
        passed = copies > 0
        weights = weights * copies.prod(axis=0, dtype=np.int64)
        if len(weights) and weights.max() >= 2**31:
            raise CurateError(f"{shard}: a pair would stand {weights.max():,} times; weights lie below 2^31")
        errors = np.array([step.on_null == "error" for step in self.rules.steps])
        counts = {**tally(passed, null, errors), "weight": int(weights.sum())}
        names = pa.array([*(step.name for step in self.rules.steps), None], pa.string())
        failed = np.where(passed.all(axis=0), len(self.rules.steps), np.argmin(passed, axis=0))
        columns = {
            "uid": table["uid"],
            "weight": pa.array(weights.astype(np.int32), pa.int32()),
            "reason": names.take(pa.array(failed)),
            "failed": pa.array(bits(~passed)),
        }
        made_by = {"fingerprint": self.fingerprint, "counts": counts}
        # a uid stands once: a dictionary of them would cost time and save nothing
        shard.folder.write_table(target, pa.table(columns), made_by, dictionary=["weight", "reason", "failed"])
        return Report(str(shard), len(table), counts)


def bits(failed: np.ndarray) -> np.ndarray:
    """uint64 [rows]: bit i says what row i of bool [steps, rows] does."""
    found = np.zeros(failed.shape[1], np.uint64)
    for index, step in enumerate(failed):
        found |= step.astype(np.uint64) << np.uint64(index)
    return found


def tally(passed: np.ndarray, null: np.ndarray, errors: np.ndarray) -> dict[str, Number]:
    """Counts of one shard by "<number> <name of step>": alone passes it, kept passes it and all before it, only fails
    it and no other, null has no value for it, undecided came to it without a value that `errors` says it must have."""
    counts: dict[str, Number] = {"of": int(passed.shape[1]), "kept": int(passed.all(axis=0).sum())}
    failures = (~passed).sum(axis=0)
    reached = np.ones(passed.shape[1], bool)
    for index in range(len(passed)):
        counts[f"alone {index}"] = int(passed[index].sum())
        counts[f"undecided {index}"] = int((reached & null[index]).sum()) if errors[index] else 0
        reached = reached & passed[index]
        counts[f"kept {index}"] = int(reached.sum())
        counts[f"only {index}"] = int((~passed[index] & (failures == 1)).sum())
        counts[f"null {index}"] = int(null[index].sum())
    return counts


@dataclass(frozen=True)
class Ids:
    """Write the uids that a selection keeps of one shard, each as often as its weight, for sample_ids.npy."""

    dataset: Dataset
    selection: str
    scratch: str

    def __call__(self, shard: Shard) -> Report:
        kept = self.dataset.kept(shard, self.selection)
        assert kept is not None
        found = subset.array(kept["uid"].combine_chunks(), kept["weight"].to_numpy())
        shard.folder.write_array(f"{self.scratch}/{shard.name}.npy", subset.ordered([found]))
        return Report(str(shard), len(found))


def check(dataset: Dataset, steps: Sequence[Step], parent: str | None, needs: dict[str, str]) -> Considered:
    """What the steps read, once every one of them fits the dataset. Raises CurateError before any scan."""
    if len(steps) > 64:
        raise CurateError(f"{len(steps)} steps are more than a selection can tell apart (64); join some with AND")
    expressions = [expression_of(step) for step in steps]
    schema, owner = schema_of(dataset)
    empty = schema.empty_table()
    for step, rule in zip(steps, expressions, strict=True):
        per = per_of(step)
        if per is not None:
            kind = per.bind(empty, dataset.url, needs).removesuffix("[]")
            if kind not in SCALARS:
                raise CurateError(f"step '{step.name}': '{per.sql}' is {kind}, not words or numbers to group by")
        if rule is None:
            continue
        kind, sql = rule.bind(empty, dataset.url, needs), expression(step)
        number = kind in NUMBERS or kind.startswith("DECIMAL")
        if isinstance(step, Where):
            if kind != "BOOLEAN":
                raise CurateError(f"step '{step.name}': '{sql}' is {kind}, not a condition such as clip > 0.28")
        elif not number:
            raise CurateError(f"step '{step.name}': '{sql}' is {kind}, not a number to "
                              f"{'weigh' if isinstance(step, Weight) else 'rank'} by")  # fmt: skip
    every = [rule for rule in (*expressions, *map(per_of, steps)) if rule is not None]
    used = {name for rule in every for name in rule.used(schema.names)}
    return considered(dataset, parent, used, owner)


def decide(dataset: Dataset, steps: tuple[Step, ...], considered: Considered, engine: str | Engine
           ) -> tuple[Rules, Outcome]:  # fmt: skip
    """The rules with the limit of every step that ranks, found over all shards; the outcome of the last pass. The
    limits of groups stay in `scratch_of(steps)` until the selection is made."""
    rules, outcome = Rules(steps), Outcome()
    scratch = scratch_of(steps)
    dataset.folder.remove(scratch)
    for index, step in enumerate(steps):
        limit: Limit | None = None
        if isinstance(step, Top | Cap | Sample):
            found = limits.one if getattr(step, "per", None) is None else limits.grouped
            limit, outcome = found(rules, considered, f"{scratch}/{index}", dataset.shards, engine)
            for name in dataset.folder.names(f"{scratch}/{index}/*"):
                dataset.folder.remove(name)
        rules = Rules(steps, (*rules.limits, limit))
    return rules, outcome


def scratch_of(steps: tuple[Step, ...]) -> str:
    return f"work/filter/{fingerprint([repr(step) for step in steps])}"


def funnel(rules: Rules, outcome: Outcome) -> list[dict[str, Any]]:
    """For each step: name, rule, threshold (of a top step), what becomes of nulls, and how many rows pass it alone,
    pass it after all steps before it (kept), are dropped by it only, have no value for it (null)."""
    rows = []
    for index, (step, limit) in enumerate(zip(rules.steps, rules.limits, strict=True)):
        numbers = {kind: int(outcome.total(f"{kind} {index}")) for kind in ("alone", "kept", "only", "null")}
        cut_at = {"threshold": keys.value_of(limit.words[0])} if isinstance(step, Top) and limit and limit.words else {}
        rows.append({"step": step.name, "rule": step.rule, "on_null": step.on_null, **cut_at, **numbers})
    return rows
