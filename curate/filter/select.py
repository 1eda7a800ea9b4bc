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
from curate.filter.rules import Limit, Rules, expression_of, per_of
from curate.filter.steps import Cap, Sample, Step, Top, Weight, Where, expression
from curate.filter.uids import beside
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
        uids = "text" if self.rules.uses_uids(range(len(self.rules.steps))) else "stored"
        taken = self.considered.read(shard, uids)
        verdicts = self.rules.verdicts(taken.table, shard.folder)
        failed = [~(copies if copies.dtype == bool else copies > 0) for copies, _ in verdicts]
        errors = [step.on_null == "error" for step in self.rules.steps]
        counts = tally(failed, [null for _, null in verdicts], errors, len(taken))
        marks = bits(failed, len(taken))
        weights = _weights(shard, taken, [copies for copies, _ in verdicts], marks == 0)
        counts["weight"] = int(weights.sum(dtype=np.int64))
        chosen = {"weight": arrays.column(weights), "reason": self._reasons(marks),
                  "failed": arrays.column(marks.astype(np.uint64))}  # fmt: skip
        write(shard.folder, target, taken, chosen, {"fingerprint": self.fingerprint, "counts": counts})
        return Report(str(shard), len(taken), counts)

    def _reasons(self, marks: np.ndarray) -> pa.DictionaryArray:
        """The name of the first step that a row fails, the lowest of its bits; null where it is kept."""
        first = np.bitwise_count(~marks & (marks - 1)).astype(np.int8)
        names = arrays.texts([step.name for step in self.rules.steps])
        return pa.DictionaryArray.from_arrays(arrays.column(np.where(marks, first, 0), marks > 0), names)


def bits(failed: list[np.ndarray], rows: int) -> np.ndarray:
    """unsigned [rows], of as many bytes as it takes: bit i says what bool [rows] number i does."""
    kind = np.min_scalar_type(2 ** len(failed) - 1)
    found = np.zeros(rows, kind)
    for index, step in enumerate(failed):
        found |= step.astype(kind) << kind.type(index)
    return found


def write(folder: Folder, target: str, taken: Taken, columns: dict[str, pa.Array], made_by: dict[str, Any]) -> None:
    """A selection: the uids of the rows taken, as they lie in another file where they do, and the columns."""
    if taken.stored is None:
        table = pa.table({"uid": taken.table["uid"], **columns, "reason": columns["reason"].cast(pa.string())})
        folder.write_table(target, table, made_by, list(columns), {"uid": "DELTA_BYTE_ARRAY"})
        return
    with folder.writing(target) as path, open(path, "wb") as file:
        file.writelines(beside(taken.stored, pa.table(columns), metadata_of(made_by)))


def _weights(shard: Shard, taken: Taken, copies: list[np.ndarray], kept: np.ndarray) -> np.ndarray:
    """int32 [rows]: the weights before, times the copies that the steps make. Raises CurateError."""
    weights = kept.astype(np.int32) if taken.weights is None else np.where(kept, taken.weights, 0)
    numbers = [each for each in copies if each.dtype != bool]
    if numbers:
        product = np.prod([weights, *numbers], axis=0, dtype=np.int64)
        if len(product) and product.max() >= 2**31:
            raise CurateError(f"{shard}: a pair would stand {product.max():,} times; weights lie below 2^31")
        weights = product.astype(np.int32)
    return weights


def tally(failed: list[np.ndarray], null: list[np.ndarray], errors: list[bool], rows: int) -> dict[str, Number]:
    """Counts of one shard by "<name> <number of step>": alone passes it, kept passes it and all before it, only fails
    it and no other, null has no value for it, undecided came to it without a value that `errors` says it must have."""
    counts: dict[str, Number] = {"of": rows}
    reached, once, twice = np.ones(rows, bool), np.zeros(rows, bool), np.zeros(rows, bool)
    for index, fails in enumerate(failed):
        counts[f"alone {index}"] = rows - int(np.count_nonzero(fails))
        counts[f"null {index}"] = int(np.count_nonzero(null[index]))
        counts[f"undecided {index}"] = int(np.count_nonzero(reached & null[index])) if errors[index] else 0
        twice |= once & fails
        once |= fails
        np.logical_not(once, out=reached)
        counts[f"kept {index}"] = int(np.count_nonzero(reached))
    for index, fails in enumerate(failed):
        counts[f"only {index}"] = int(np.count_nonzero(fails & ~twice))
    return {**counts, "kept": int(np.count_nonzero(reached))}


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
