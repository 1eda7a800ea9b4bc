"""The numbers of the report: counts at every stage, what signals measured, what each selection kept and why not."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

import curate
from curate.dataset import Dataset
from curate.errors import BadShard
from curate.report import distributions, duplicates, queries, rows, tallies, thresholds
from curate.report.recipe_text import recipe_text
from curate.report.rows import Rows
from curate.signal_files import OF_THE_SHARD


@dataclass
class Gathered:
    """The numbers (all JSON), and the rows behind them for choosing samples."""

    numbers: dict[str, Any]
    rows: Rows
    failures: dict[str, str] = field(default_factory=dict)


def gather(dataset: Dataset, selection: str | None) -> Gathered:
    """Everything the page tells of a dataset, seen from a selection. A damaged shard is left out, and in `failures`."""
    found = rows.read(dataset, selection)
    filtered = step_of(dataset, found, "filter")
    steps = (filtered or {"counts": {}})["counts"].get("funnel", [])
    same = found.fold({name for step in steps for name in re.findall(r"\w+", step["rule"])})
    deduped = step_of(dataset, found, "dedup")
    numbers = {
        "dataset": dataset.url,
        "curate": curate.__version__,
        "written": dataset.history[-1]["date"] if dataset.history else None,
        "steps": dataset.history,
        "rows": len(found.table),
        "kept": int(pc.sum(found.table["kept"]).as_py() or 0),
        "shards": len(dataset.shards),
        "signals": dataset.signals,
        "models": _models(dataset),
        "selection": selection,
        "selections": [chosen.told() for chosen in found.selections],
        "harvest": _harvest(dataset),
        "failures": _download_failures(dataset),
        "columns": distributions.describe(found, distributions.cuts(steps)),
        "same": same,
        "domains": tallies.domains(found.hosts),
        "queries": queries.survival(found.queries),
        "filter": filtered,
        "recipe": recipe_of(filtered, dataset, found),
        "dedup": deduped,
        "groups": duplicates.sizes(found.duplicates),
        "contamination": (deduped or {"counts": {}})["counts"].get("contamination"),
        "thresholds": thresholds.explorer(found, steps),
    }
    numbers["funnel"] = _funnel(numbers)
    return Gathered(numbers, found, found.failures)


def step_of(dataset: Dataset, found: Rows, stage: str) -> dict[str, Any] | None:
    """The step of the history that made the newest selection of a stage in the chain; None where there is none."""
    name = next((chosen.name for chosen in reversed(found.selections) if chosen.stage == stage), None)
    steps = [step for step in dataset.history if step["stage"] == stage]
    made = [step for step in steps if name is not None and step["counts"].get("selection") == name]
    found_steps = made or (steps if name is not None else [])
    return found_steps[-1] if found_steps else None


def _models(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """What the files of each signal say of how it was measured: options, hashes of weights, precision."""
    found = {}
    for name in dataset.signals:
        files = dataset.folder.names(f"signals/{name}/*.parquet")
        try:
            made_by = dataset.folder.made_by(files[0]) if files else None
        except BadShard:  # damaged, and named where its rows are read
            made_by = None
        found[name] = {
            key: value for key, value in (made_by or {}).items() if key not in ("tar", "counts", *OF_THE_SHARD)
        }
    return found


def recipe_of(step: dict[str, Any] | None, dataset: Dataset, found: Rows) -> dict[str, Any] | None:
    """The steps that were applied, as a recipe, and what they were applied to."""
    if step is None:
        return None
    chosen = next(chosen for chosen in reversed(found.selections) if chosen.stage == "filter")
    return {
        "name": step["options"].get("recipe"),
        "text": recipe_text(step["counts"].get("funnel", [])),
        "fingerprint": dataset.manifest["selections"][chosen.name].get("fingerprint"),
        "selection": chosen.name,
        "parent": chosen.parent,
    }


def _harvest(dataset: Dataset) -> dict[str, Any] | None:
    step = next((step for step in reversed(dataset.history) if step["stage"] == "harvest"), None)
    if step is None:
        return None
    cap = step["counts"].get("cap", step["options"].get("cap"))
    return {**step["counts"], "cap": cap, "long_tail": queries.long_tail(dataset.folder, cap)}


def _download_failures(dataset: Dataset) -> dict[str, int]:
    """Cause -> pairs without an image, most first: of the harvest, else as the stats of img2dataset's shards count."""
    harvests = [step for step in dataset.history if step["stage"] == "harvest"]
    counts: Counter[str] = Counter(harvests[-1]["counts"].get("failed") or {} if harvests else {})
    for name in [] if harvests else dataset.folder.names("shards/*_stats.json"):
        for cause, count in (dataset.folder.read_json(name).get("status_dict") or {}).items():
            counts[cause] += count
    counts.pop("success", None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _funnel(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """label and count of every stage, from the pool to what is selected."""
    harvest = numbers["harvest"] or {}
    drawn = "drawn under the cap" if harvest.get("cap") else "taken, each once"
    told = [("pool", "rows of url and text read"), ("matched", "texts that hold a query"), ("selected", drawn),
            ("downloaded", "images downloaded")]  # fmt: skip
    funnel = [{"stage": "harvest", "label": label, "count": harvest[name]} for name, label in told if name in harvest]
    if "downloaded" not in harvest:
        funnel.append({"stage": "dataset", "label": "pairs with an image", "count": numbers["rows"]})
    for selection in numbers["selections"]:
        funnel.append(
            {"stage": selection["stage"], "label": f"kept by {selection['name']}", "count": selection["kept"]}
        )
    return funnel
