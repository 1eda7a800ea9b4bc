"""Keep the pairs that a recipe wants. Signals are measured once; a selection is a list of uids, made in seconds.

A recipe is an ordered list of named steps (recipe.py), each an SQL condition on one row (predicate.py) or the top share
by a column. The thresholds are exact over all shards, so worker count and order change nothing (select.py). Nothing is
edited: what is kept can be exported as a fresh dataset (export.py).
"""

import importlib
import re
from dataclasses import replace
from typing import Any

from curate import named
from curate.dataset import Dataset, check_name, fingerprint
from curate.errors import CurateError
from curate.files import Folder
from curate.filter import export, subset
from curate.filter.considered import Considered
from curate.filter.recipe import DEFAULT, Recipe, combined, decided, implicit, load
from curate.filter.rules import Rules
from curate.filter.select import Ids, Select, check, decide, funnel, scratch_of
from curate.filter.steps import Subset
from curate.work import Engine, Outcome, run_all


def run(dataset: Dataset, recipe: str | None = None, where: tuple[str, ...] = (), top: str | None = None,
        by: str | None = None, of: str = "pool", signals: tuple[str, ...] = (), name: str | None = None,
        out: str | None = None, start: str | None = None, on_null: str | None = None, subset_file: str | None = None,
        sample_ids: str | None = None, engine: str | Engine = "local") -> Dataset:  # fmt: skip
    """Select what every step of the recipe, then of `where` and `top`/`by`, keeps; the rows considered are those that
    the stage before kept. With nothing asked for the recipe is 'basic'. The dataset comes back with the new selection
    as its current one; with `out`, the exported dataset comes back instead.

    `on_null` decides for steps that do not: drop or keep rows without a value; they are an error else. `subset_file`:
    consider only the uids that this .npy lists; `sample_ids`: write those that are kept to such a file.

    Raises CurateError: a step that does not fit, nothing kept, a name taken by other rules.
    """
    steps = implicit(where, top, by, of, on_null)
    if recipe is None and not steps and subset_file is None:
        recipe = DEFAULT
    rules_of = decided(combined(load(recipe) if recipe else None, steps), on_null)
    if subset_file is not None:
        rules_of = replace(rules_of, steps=(subset.opened(subset_file), *rules_of.steps))
    if name is not None:
        check_name(name)
    dataset.check_tars()
    dataset = _measured(dataset, (*rules_of.signals, *signals), engine)
    _check_needs(dataset, rules_of)
    dataset.folder.sweep()
    parent = dataset.parent_for("filter", start)
    considered = check(dataset, rules_of.steps, parent, dict(rules_of.needs))
    try:
        rules, ranking = decide(dataset, rules_of.steps, considered, engine)
        made_by = _fingerprint(dataset, rules, considered)
        name = name or f"filter-{made_by}"
        taken = dataset.manifest["selections"].get(name)
        if taken is not None and taken.get("fingerprint") != made_by:
            raise CurateError(f"{dataset.url} has a selection '{name}' already, made by {taken['stage']} in another "
                              f"way; choose another --name")  # fmt: skip
        try:
            outcome = run_all(Select(rules, considered, name, made_by), dataset.shards, engine, "filter")
        except CurateError as error:
            if "choose another --name" not in str(error):
                _forget(dataset, name)
            raise
    finally:
        dataset.folder.remove(scratch_of(rules_of.steps))
    selected = _after(dataset, rules_of, rules, parent, name, made_by, outcome, ranking).save()
    if sample_ids:
        write_ids(selected, name, sample_ids, engine)
    return export.run([selected], Dataset.create(out), selection=name, engine=engine) if out else selected


def write_ids(dataset: Dataset, selection: str, path: str, engine: str | Engine = "local") -> None:
    """DataComp's sample_ids.npy of a selection: (high, low) uint64 of every uid it keeps, as often as its weight,
    sorted; the driver holds 16 bytes for each. Raises CurateError where uids are not 32 hex digits."""
    scratch = f"work/filter/ids-{selection}"
    try:
        done = [shard for shard in dataset.shards if str(shard) not in dataset.failures]
        run_all(Ids(selection, scratch), done, engine, "sample_ids").whole("run again")
        every = [dataset.folder.read_rows(f"{scratch}/{shard.name}.npy") for shard in done]
        place, _, file = path.rpartition("/")
        Folder(place or ".").write_array(file, subset.ordered(every))
    finally:
        dataset.folder.remove(scratch)


def text_of(recipe: str | None) -> str:
    """A recipe as it was written; the default one where none is named. Raises CurateError."""
    return load(recipe or DEFAULT).text


def _measured(dataset: Dataset, signals: tuple[str, ...], engine: str | Engine) -> Dataset:
    """The dataset with these signals on every shard; where they all are there already, nothing is done.
    Raises CurateError where one was measured by other weights than its spec names now."""
    todo = [spec for spec in dict.fromkeys(signals) if not _complete(dataset, named.parse(spec))]
    for spec in dict.fromkeys(signals):
        if spec not in todo:
            _measuring().check_current(dataset, named.parse(spec))
    return _measuring().measure(dataset, todo, engine) if todo else dataset


def _measuring() -> Any:
    """curate.measure, and OpenCV with it, once a signal is to be measured."""
    return importlib.import_module("curate.measure")


def _complete(dataset: Dataset, spec: named.Spec) -> bool:
    files = {f"signals/{spec.slug}/{shard.name}.parquet" for shard in dataset.shards}
    return dataset.signals.get(spec.slug) == str(spec) and files <= set(
        dataset.folder.names(f"signals/{spec.slug}/*.parquet")
    )


def _check_needs(dataset: Dataset, recipe: Recipe) -> None:
    """Raises CurateError where a signal that the recipe names was measured by another model than it asks for."""
    for signal, wanted in recipe.needs:
        found, spec = dataset.signals.get(signal), named.parse(wanted)
        if found is None:
            continue
        before, model = named.parse(found), dict(spec.options).get("model")
        if before.name != spec.name or (model and dict(before.options).get("model") != model):
            raise CurateError(f"{recipe.name} needs '{signal}' measured as {wanted}, {dataset.url} has it as {found}; "
                              f"delete signals/{signal} and measure again, or copy the recipe (--show) and set its "
                              f"'needs' to yours")  # fmt: skip


def _fingerprint(dataset: Dataset, rules: Rules, considered: Considered) -> str:
    """Of everything that decides the selection."""
    return fingerprint({
        "steps": [repr(step) if not isinstance(step, Subset) else step.sha256 for step in rules.steps],
        "limits": [limit and limit.words for limit in rules.limits],
        "parent": considered.parent and [considered.parent, dataset.manifest["selections"][considered.parent]],
        "shards": dataset.shards_fingerprint(),
        "signals": considered.made_by,
    })  # fmt: skip


def _after(dataset: Dataset, recipe: Recipe, rules: Rules, parent: str | None, name: str, made_by: str,
           outcome: Outcome, ranking: Outcome) -> Dataset:  # fmt: skip
    """The dataset with the selection in its manifest. Raises CurateError where a null is undecided or nothing is kept,
    leaving no file."""
    failures = {item: reason for item, reason in {**ranking.failures, **outcome.failures}.items()
                if item not in dataset.failures}  # fmt: skip
    steps, of, kept = funnel(rules, outcome), int(outcome.total("of")), int(outcome.total("kept"))
    shown = ", ".join(f"{step['step']} {step['kept']:,}{_cut_at(step)}" for step in steps)
    if trouble := _undecided(rules, outcome):
        _forget(dataset, name)
        raise CurateError(trouble)
    if not kept:
        _forget(dataset, name)
        reason = next(iter({**dataset.failures, **failures}.values()), None)
        raise CurateError(f"filter would keep none of {of:,} pairs ({reason or shown}); nothing was written")
    counts: dict[str, Any] = {"of": of, "kept": kept, "weight": int(outcome.total("weight")), "funnel": steps,
                              "selection": name,
                              "skipped": sum(report.skipped for report in outcome.reports)}  # fmt: skip
    null = ", ".join(f"{step['null']:,} have no value for {step['step']} ({step['on_null']})" for step in steps
                     if step["null"] and step["on_null"] != "error")  # fmt: skip
    title = f" by recipe {recipe.name}" if recipe.name else ""
    times = f", {counts['weight']:,} with their weights," if counts["weight"] != kept else ""
    listed = _listed(rules, steps, counts)
    summary = f"filter: kept {kept:,}{times} of {of:,} pairs{title} ({shown})" + (f"; {null}" if null else "") + listed
    options = {"recipe": recipe.name or None, "steps": [{step["step"]: step["rule"]} for step in steps],
               "signals": list(recipe.signals), "name": name}  # fmt: skip
    facts = {"fingerprint": made_by, "kept": kept, "of": of}
    changes = dataset.with_selection(name, "filter", parent, **facts)
    return dataset.after("filter", options, summary, counts, failures, **changes)


def _listed(rules: Rules, steps: list[dict[str, Any]], counts: dict[str, Any]) -> str:
    """How many of the uids of a --subset are there; also for the counts."""
    for step, found in zip(rules.steps, steps, strict=True):
        if isinstance(step, Subset):
            ids, _ = subset.listed(step.path)
            counts["subset"] = {"listed": ids, "found": found["alone"]}
            return f"; of {ids:,} uids listed {found['alone']:,} are there"
    return ""


def _undecided(rules: Rules, outcome: Outcome) -> str | None:
    for index, step in enumerate(rules.steps):
        count = int(outcome.total(f"undecided {index}"))
        if count:
            division = " (a division by zero has none)" if re.search(r"[/%]", step.rule.replace("%", "", 1)) else ""
            return (f"step '{step.name}': {count:,} pairs have no value for '{step.rule}'{division}; say what becomes "
                    f"of them: on_null: drop or keep in the recipe, or --on-null drop")  # fmt: skip
    return None


def _forget(dataset: Dataset, name: str) -> None:
    if name not in dataset.manifest["selections"]:
        dataset.folder.remove(f"selections/{name}")


def _cut_at(step: dict[str, Any]) -> str:
    return f" (>= {step['threshold']:.6g})" if "threshold" in step else ""
