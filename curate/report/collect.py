"""The numbers of the report: counts at every stage, what signals measured, what each selection kept and why not."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import curate
from curate.dataset import Dataset
from curate.errors import BadShard
from curate.report import distributions, queries


@dataclass
class Gathered:
    """The numbers (all JSON), and the rows behind them for choosing samples."""

    numbers: dict[str, Any]
    rows: pa.Table  # uid, shard (index), caption, considered, kept, and every measured column
    choices: dict[str, pa.Table]  # selection -> uid, weight, reason, keeper, signal, distance, shard
    failures: dict[str, str] = field(default_factory=dict)


def gather(dataset: Dataset) -> Gathered:
    """Everything the page tells. A damaged shard is left out and reported in `failures`."""
    failures: dict[str, str] = {}
    chain = selections(dataset)
    choices = {name: _choices(dataset, name, failures) for name in chain}
    rows = _rows(dataset, choices, chain, failures)
    cuts = distributions.cuts(dataset)
    numbers = {
        "dataset": dataset.url,
        "curate": curate.__version__,
        "written": _last_date(dataset),
        "steps": dataset.history,
        "rows": len(rows),
        "kept": int(pc.sum(rows["kept"]).as_py() or 0),
        "shards": len(dataset.shards),
        "signals": dataset.signals,
        "selection": dataset.selection,
        "selections": [_selection(dataset, name, choices[name]) for name in chain],
        "harvest": _harvest(dataset),
        "columns": distributions.describe(rows, dataset, cuts),
        "filter": latest(dataset, "filter"),
        "dedup": latest(dataset, "dedup"),
        "contamination": (latest(dataset, "dedup") or {"counts": {}})["counts"].get("contamination"),
    }
    numbers["funnel"] = _funnel(numbers)
    return Gathered(numbers, rows, choices, failures)


def selections(dataset: Dataset) -> list[str]:
    """The current selection and those it was made from, oldest first."""
    chain, name = [], dataset.selection
    while name is not None:
        chain.append(name)
        name = dataset.manifest["selections"][name]["parent"]
    return chain[::-1]


def latest(dataset: Dataset, stage: str) -> dict[str, Any] | None:
    """The newest step of a stage, or None where it never ran."""
    return next((step for step in reversed(dataset.history) if step["stage"] == stage), None)


def _last_date(dataset: Dataset) -> str | None:
    return dataset.history[-1]["date"] if dataset.history else None


def _rows(dataset: Dataset, choices: dict[str, pa.Table], chain: list[str], failures: dict[str, str]) -> pa.Table:
    parts = []
    for index, shard in enumerate(dataset.shards):
        try:
            table = dataset.joined(shard)
        except BadShard as error:
            failures[str(shard)] = str(error)
            continue
        wanted = ["uid", "caption", *_measured_columns(dataset, table)]
        table = table.select(list(dict.fromkeys(wanted)))
        parts.append(table.append_column("shard", pa.array(np.full(len(table), index, np.int32))))
    rows = pa.concat_tables(parts, promote_options="permissive") if parts else _no_rows()
    last = choices[chain[-1]] if chain else None
    everything = pa.array(np.ones(len(rows), bool))
    considered = everything if last is None else pc.is_in(rows["uid"], last["uid"])
    kept = everything if last is None else pc.is_in(rows["uid"], last.filter(pc.greater(last["weight"], 0))["uid"])
    return rows.append_column("considered", considered).append_column("kept", kept)


def _no_rows() -> pa.Table:
    text = pa.array([], pa.string())
    return pa.table({"uid": text, "caption": text, "shard": pa.array([], pa.int32())})


def _measured_columns(dataset: Dataset, table: pa.Table) -> list[str]:
    return [name for name in table.column_names if any(name.startswith(signal) for signal in dataset.signals)]


def _choices(dataset: Dataset, selection: str, failures: dict[str, str]) -> pa.Table:
    parts = []
    for index, shard in enumerate(dataset.shards):
        try:
            table = dataset.folder.read_table(f"selections/{selection}/{shard.name}.parquet")
        except BadShard as error:
            failures[str(shard)] = str(error)
            continue
        parts.append(table.append_column("shard", pa.array(np.full(len(table), index, np.int32))))
    empty = pa.table({"uid": pa.array([], pa.string()), "weight": pa.array([], pa.int32()),
                      "reason": pa.array([], pa.string()), "shard": pa.array([], pa.int32())})  # fmt: skip
    return pa.concat_tables(parts, promote_options="permissive") if parts else empty


def _selection(dataset: Dataset, name: str, table: pa.Table) -> dict[str, Any]:
    about = dataset.manifest["selections"][name]
    dropped = Counter(reason for reason in table["reason"].to_pylist() if reason)
    return {
        "name": name,
        "stage": about["stage"],
        "parent": about["parent"],
        "of": len(table),
        "kept": int(pc.sum(pc.greater(table["weight"], 0)).as_py() or 0),
        "reasons": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
    }


def _harvest(dataset: Dataset) -> dict[str, Any] | None:
    step = latest(dataset, "harvest")
    if step is None:
        return None
    cap = step["counts"].get("cap", step["options"].get("cap"))
    return {**step["counts"], "cap": cap, "long_tail": queries.long_tail(dataset.folder, cap)}


def _funnel(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """label and count of every stage, from the pool to what is selected now."""
    harvest = numbers["harvest"] or {}
    told = [("pool", "rows of url and text read"), ("matched", "texts that hold a query"),
            ("selected", "drawn under the cap"), ("downloaded", "images downloaded")]  # fmt: skip
    funnel = [{"stage": "harvest", "label": label, "count": harvest[name]} for name, label in told if name in harvest]
    if "downloaded" not in harvest:
        funnel.append({"stage": "dataset", "label": "pairs with an image", "count": numbers["rows"]})
    for selection in numbers["selections"]:
        funnel.append(
            {"stage": selection["stage"], "label": f"kept by {selection['name']}", "count": selection["kept"]}
        )
    return funnel
