"""Keep the pairs that a recipe wants. Signals are measured once; a selection is a list of uids, made in seconds.

A recipe is an ordered list of named steps (recipe.py), each an SQL condition on one row (predicate.py) or the top share
by a column. The thresholds are exact over all shards, so worker count and order change nothing (select.py). Nothing is
edited: what is kept can be exported as a fresh dataset (export.py).
"""

import re
from typing import Any

from curate import named
from curate.dataset import Dataset, fingerprint
from curate.errors import CurateError
from curate.filter import export
from curate.filter.recipe import DEFAULT, Recipe, combined, implicit, load
from curate.filter.select import Considered, Rules, Select, check, decide, funnel
from curate.measure import measure
from curate.work import Engine, Outcome, run_all


def run(dataset: Dataset, recipe: str | None = None, where: tuple[str, ...] = (), top: str | None = None,
        by: str | None = None, of: str = "pool", signals: tuple[str, ...] = (), name: str | None = None,
        out: str | None = None, start: str | None = None,
        engine: str | Engine = "local") -> Dataset:  # fmt: skip
    """Select what every step of the recipe, then of `where` and `top`/`by`, keeps; the rows considered are those that
    the stage before kept. With nothing asked for the recipe is 'basic'. The dataset comes back with the new selection
    as its current one; with `out`, the exported dataset comes back instead.

    Raises CurateError: a step that does not fit, nothing kept, a name taken by other rules.
    """
    steps = implicit(where, top, by, of)
    if recipe is None and not steps:
        recipe = DEFAULT
    rules_of = combined(load(recipe) if recipe else None, steps)
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise CurateError(f"'{name}' cannot name a selection; use letters, digits, '-', '_' and '.'")
    dataset = _measured(dataset, (*rules_of.signals, *signals), engine)
    dataset.folder.sweep()
    parent = dataset.parent_for("filter", start)
    considered = check(dataset, rules_of.steps, parent)
    rules, ranking = decide(dataset, rules_of.steps, considered, engine)
    made_by = _fingerprint(dataset, rules, considered)
    name = name or f"filter-{made_by}"
    taken = dataset.manifest["selections"].get(name)
    if taken is not None and taken.get("fingerprint") != made_by:
        raise CurateError(f"{dataset.url} has a selection '{name}' already, made by {taken['stage']} in another way; "
                          f"choose another --name")  # fmt: skip
    outcome = run_all(Select(rules, considered, name, made_by), dataset.shards, engine, "filter")
    selected = _after(dataset, rules_of, rules, parent, name, made_by, outcome, ranking).save()
    return export.run([selected], Dataset.create(out), selection=name, engine=engine) if out else selected


def text_of(recipe: str | None) -> str:
    """A recipe as it was written; the default one where none is named. Raises CurateError."""
    return load(recipe or DEFAULT).text


def _measured(dataset: Dataset, signals: tuple[str, ...], engine: str | Engine) -> Dataset:
    """The dataset with these signals on every shard; where they all are there already, nothing is done."""
    todo = [spec for spec in dict.fromkeys(signals) if not _complete(dataset, named.parse(spec))]
    return measure(dataset, todo, engine) if todo else dataset


def _complete(dataset: Dataset, spec: named.Spec) -> bool:
    files = {f"signals/{spec.slug}/{shard.name}.parquet" for shard in dataset.shards}
    return dataset.signals.get(spec.slug) == str(spec) and files <= set(
        dataset.folder.names(f"signals/{spec.slug}/*.parquet")
    )


def _fingerprint(dataset: Dataset, rules: Rules, considered: Considered) -> str:
    """Of everything that decides the selection."""
    first = {name: dataset.folder.names(f"signals/{name}/*.parquet")[:1] for name in considered.signals}
    return fingerprint({
        "steps": [(step.name, step.rule) for step in rules.steps],
        "thresholds": rules.thresholds,
        "parent": considered.parent and [considered.parent, dataset.manifest["selections"][considered.parent]],
        "shards": dataset.shards_fingerprint(),
        "signals": {name: dataset.folder.made_by(file) for name, files in first.items() for file in files},
    })  # fmt: skip


def _after(dataset: Dataset, recipe: Recipe, rules: Rules, parent: str | None, name: str, made_by: str,
           outcome: Outcome, ranking: Outcome) -> Dataset:  # fmt: skip
    """The dataset with the selection in its manifest. Raises CurateError where nothing is kept, leaving no file."""
    failures = {item: reason for item, reason in {**ranking.failures, **outcome.failures}.items()
                if item not in dataset.failures}  # fmt: skip
    steps, of, kept = funnel(rules, outcome), int(outcome.total("of")), int(outcome.total("kept"))
    shown = ", ".join(f"{step['step']} {step['kept']:,}{_cut_at(step)}" for step in steps)
    if not kept:
        if name not in dataset.manifest["selections"]:
            dataset.folder.remove(f"selections/{name}")
        reason = next(iter({**dataset.failures, **failures}.values()), None)
        raise CurateError(f"filter would keep none of {of:,} pairs ({reason or shown}); nothing was written")
    counts: dict[str, Any] = {"of": of, "kept": kept, "funnel": steps, "selection": name,
                              "skipped": sum(report.skipped for report in outcome.reports)}  # fmt: skip
    null = ", ".join(f"{step['null']:,} have no value for {step['step']}" for step in steps if step["null"])
    title = f" by recipe {recipe.name}" if recipe.name else ""
    summary = f"filter: kept {kept:,} of {of:,} pairs{title} ({shown})" + (f"; dropped, {null}" if null else "")
    options = {"recipe": recipe.name or None, "steps": [{step["step"]: step["rule"]} for step in steps],
               "signals": list(recipe.signals), "name": name}  # fmt: skip
    facts = {"fingerprint": made_by, "kept": kept, "of": of}
    changes = dataset.with_selection(name, "filter", parent, **facts)
    return dataset.after("filter", options, summary, counts, failures, **changes)


def _cut_at(step: dict[str, Any]) -> str:
    return f" (>= {step['threshold']:.6g})" if "threshold" in step else ""
