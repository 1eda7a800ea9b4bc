"""What one selection keeps and another does not: of two datasets, or of one; pairs are the same where their uid is."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import curate
from curate.dataset import EVERYTHING, Dataset
from curate.errors import CurateError
from curate.report import collect, distributions, rows
from curate.report.rows import Rows

SHOWN = 25  # rows of a table of changes
VALUES = 20  # of a column of words
NOT_THERE = "not in its shards"


@dataclass
class Side:
    """One of the two: a dataset seen from a selection (None: everything is kept)."""

    name: str
    dataset: Dataset
    selection: str | None
    rows: Rows

    @cached_property
    def kept(self) -> pa.Table:
        return self.rows.table.filter(self.rows.table["kept"])


def sides(dataset: Dataset, selection: str | None, other: str) -> tuple[Side, Side]:
    """`dataset` at `selection`, and `other`: a selection of the same dataset ("all": every pair) or another dataset at
    its current selection. Raises CurateError where it is neither."""
    if other == EVERYTHING or other in dataset.manifest["selections"]:
        there, chosen = dataset, None if other == EVERYTHING else other
        names = [selection or EVERYTHING, other]
    else:
        try:
            there = Dataset.open(other)
        except CurateError as error:
            known = ", ".join([*dataset.manifest["selections"], EVERYTHING])
            raise CurateError(f"--diff: '{other}' is no selection of {dataset.url} ({known}), and {error}") from error
        chosen = there.selection
        names = [one.url.rstrip("/").rsplit("/", 1)[-1] for one in (dataset, there)]
    if names[0] == names[1]:
        names = [f"{names[0]} (A)", f"{names[1]} (B)"]
    first = Side(names[0], dataset, selection, rows.read(dataset, selection))
    return first, Side(names[1], there, chosen, rows.read(there, chosen))


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Counts, overlaid histograms and changes by value, host and query, of the pairs that each side keeps."""
    one, two = a.kept, b.kept
    only_a, only_b = only(a, b), only(b, a)
    return {
        "curate": curate.__version__,
        "a": _about(a),
        "b": _about(b),
        "both": len(one) - len(only_a),
        "only_a": len(only_a),
        "only_b": len(only_b),
        "why_not_b": reasons(only_a["uid"], b),
        "why_not_a": reasons(only_b["uid"], a),
        "columns": [column for name in _shared(a, b) if (column := _column(name, one, two))],
        "domains": changes(a.rows.hosts.kept, b.rows.hosts.kept),
        "queries": {
            **changes(a.rows.queries.kept, b.rows.queries.kept),
            "only_a": _without(a.rows.queries.kept, b.rows.queries.kept),
            "only_b": _without(b.rows.queries.kept, a.rows.queries.kept),
        },
    }  # fmt: skip


def _shared(a: Side, b: Side) -> list[str]:
    """The columns that both have, the measured ones first, without those that only repeat another."""
    same = a.rows.fold(set())
    names = [name for name in a.rows.columns if name in b.rows.columns and name not in same]
    return sorted(names, key=lambda name: (name not in a.rows.owners, name))


def only(one: Side, other: Side) -> pa.Table:
    """The rows that one side keeps and the other does not."""
    kept = one.kept
    return kept.filter(pc.invert(pc.is_in(kept["uid"], other.kept["uid"].combine_chunks())))


def reasons(uids: pa.ChunkedArray, side: Side) -> dict[str, int]:
    """Why a side does not keep these pairs, the most frequent first."""
    table = side.rows.table
    place = pc.index_in(uids, value_set=table["uid"].combine_chunks())
    found = table["reason"].cast(pa.string()).take(place.drop_null())
    counts = Counter({NOT_THERE: place.null_count} if place.null_count else {})
    for row in pc.value_counts(found).to_pylist():
        counts[row["values"] or "dropped"] += row["counts"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def changes(a: Counter[str], b: Counter[str]) -> dict[str, Any]:
    """How many words each side has, and those whose counts differ most: value, a, b."""
    ranked = sorted({*a, *b}, key=lambda word: (-abs(b[word] - a[word]), str(word)))
    told = [{"value": word, "a": a[word], "b": b[word]} for word in ranked if a[word] != b[word]]
    present = [sum(count > 0 for count in counts.values()) for counts in (a, b)]
    return {"count_a": present[0], "count_b": present[1], "changed": len(told), "largest": told[:SHOWN]}


def _without(one: Counter[str], other: Counter[str]) -> dict[str, Any]:
    """The words of one side that the other has none of."""
    ranked = sorted((word for word in one if one[word] and not other[word]), key=lambda word: (-one[word], str(word)))
    return {"count": len(ranked), "largest": [{"value": word, "count": one[word]} for word in ranked[:SHOWN]]}


def _about(side: Side) -> dict[str, Any]:
    step = collect.step_of(side.dataset, side.rows, "filter")
    return {
        "name": side.name,
        "url": side.dataset.url,
        "selection": side.selection,
        "rows": len(side.rows.table),
        "kept": int(pc.sum(side.rows.table["kept"]).as_py() or 0),
        "recipe": collect.recipe_of(step, side.dataset, side.rows),
    }


def _column(name: str, one: pa.Table, two: pa.Table) -> dict[str, Any] | None:
    """A histogram of both sides on the same edges, or the counts of each value; None where they cannot be compared."""
    kinds = [table[name].type for table in (one, two)]
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        values = [distributions.finite(table[name]) for table in (one, two)]
        every = np.concatenate(values)
        if not len(every) or every.min() == every.max():
            return None
        whole = all(map(pa.types.is_integer, kinds))
        logarithmic = distributions.is_logarithmic(every)
        edges = distributions.edges_of(every, logarithmic, whole)
        counts = [np.histogram(side, edges)[0].tolist() for side in values]
        means = [float(side.mean()) if len(side) else None for side in values]
        medians = [float(np.median(side)) if len(side) else None for side in values]
        return {"column": name, "kind": "numbers", "logarithmic": logarithmic, "edges": [float(edge) for edge in edges],
                "a": counts[0], "b": counts[1], "mean_a": means[0], "mean_b": means[1], "median_a": medians[0],
                "median_b": medians[1]}  # fmt: skip
    if any(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return None
    counted = [Counter(distributions.counts_of(table[name].combine_chunks())) for table in (one, two)]
    values_of = sorted({*counted[0], *counted[1]}, key=lambda value: (-counted[0][value] - counted[1][value], value))
    if len(values_of) < 2:
        return None
    told = [{"value": value, "a": counted[0][value], "b": counted[1][value]} for value in values_of[:VALUES]]
    if rest := values_of[VALUES:]:
        sums = [sum(side[value] for value in rest) for side in counted]
        told.append({"value": f"{len(rest)} others", "a": sums[0], "b": sums[1]})
    return {"column": name, "kind": "words", "values": told}
