"""Which rows a recipe keeps: exact global limits first, then one small table of verdicts for each shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curate.dataset import Dataset, fingerprint
from curate.errors import CurateError
from curate.files import Folder, metadata_of
from curate.filter import arrays, keys, limits, subset
from curate.filter.considered import Considered, Taken, considered, schema_of
from curate.filter.marks import Marks
from curate.filter.pages import Coded, coded
from curate.filter.rules import Limit, Rules, expression_of, per_of
from curate.filter.steps import Cap, Sample, Step, Top, Weight, Where, expression
from curate.filter.uids import beside
from curate.memory import keep_freed_memory
from curate.shard import Shard
from curate.work import Engine, Outcome, Report

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
        keep_freed_memory()
        uids = "text" if self.rules.uses_uids(range(len(self.rules.steps))) else "stored"
        taken = self.considered.read(shard, uids)
        verdicts = self.rules.verdicts(taken.table, shard.folder)
        marks = Marks.of([copies if copies.dtype == bool else copies > 0 for copies, _ in verdicts], len(taken))
        errors = [step.on_null == "error" for step in self.rules.steps]
        counts = marks.counts([null for _, null in verdicts], errors)
        weights = _weights(shard, taken, [copies for copies, _ in verdicts], marks)
        counts["weight"] = int(counts["kept"] if weights is None else weights.sum(dtype=np.int64))
        reasons = marks.reasons([step.name for step in self.rules.steps])
        kept = marks.kept if weights is None else coded(weights)
        chosen = {"weight": kept, "reason": reasons, "failed": marks.failed}
        write(shard.folder, target, taken, chosen, {"fingerprint": self.fingerprint, "counts": counts})
        return Report(str(shard), len(taken), counts)


def write(folder: Folder, target: str, taken: Taken, columns: dict[str, Coded], made_by: dict[str, Any]) -> None:
    """A selection: the uids of the rows taken, as they lie in another file where they do, and the columns."""
    if taken.stored is None:
        table = pa.table({"uid": taken.table["uid"], **{name: column.array for name, column in columns.items()}})
        folder.write_table(target, table, made_by, list(columns), {"uid": "DELTA_BYTE_ARRAY"})
        return
    with folder.writing(target) as path, open(path, "wb") as file:
        file.writelines(beside(taken.stored, columns, metadata_of(made_by)))


def _weights(shard: Shard, taken: Taken, copies: list[np.ndarray], marks: Marks) -> np.ndarray | None:
    """int32 [rows]: the weights before, times the copies that the steps make; None: 1 of what is kept. Raises
    CurateError."""
    numbers = [each for each in copies if each.dtype != bool]
    if taken.weights is None and not numbers:
        return None
    kept = marks.kept.codes
    weights = kept.astype(np.int32) if taken.weights is None else np.where(kept, taken.weights, 0)
    if numbers:
        product = np.prod([weights, *numbers], axis=0, dtype=np.int64)
        if len(product) and product.max() >= 2**31:
            raise CurateError(f"{shard}: a pair would stand {product.max():,} times; weights lie below 2^31")
        weights = product.astype(np.int32)
    return weights


@dataclass(frozen=True)
class Ids:
    """Write the uids that a selection keeps of one shard, each as often as its weight, for sample_ids.npy."""

    selection: str
    scratch: str

    def __call__(self, shard: Shard) -> Report:
        keep_freed_memory()
        with shard.folder.parquet(f"selections/{self.selection}/{shard.name}.parquet") as (file, _):
            table = file.read(["uid", "weight"], use_threads=False)
        found = subset.array(table["uid"].combine_chunks(), arrays.numbers(table["weight"].combine_chunks()))
        shard.folder.write_array(f"{self.scratch}/{shard.name}.npy", found, lasting=False)
        return Report(str(shard), len(found))


def check(dataset: Dataset, steps: Sequence[Step], parent: str | None, needs: dict[str, str]) -> Considered:
    """What the steps read, once every one of them fits the dataset. Raises CurateError before any scan."""
    if len(steps) > 64:
        raise CurateError(f"{len(steps)} steps are more than a selection can tell apart (64); join some with AND")
    expressions = [expression_of(step) for step in steps]
    schema, owner = schema_of(dataset)
    empty = pa.Table.from_batches([], schema)
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
            kept = [] if limit.groups is None else dataset.folder.names(f"{scratch}/{index}/*")
            for name in kept or [f"{scratch}/{index}"]:
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
