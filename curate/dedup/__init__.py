"""Find duplicates inside a pool and against benchmarks: one image of each group is kept, with all of its texts.

Signals say which images are alike (equal, near in bits, near in angle); `groups` turns that into stars around the best
image; `overlap` streams the pool past each benchmark. Nothing is deleted: a selection says which rows stay, and why
the others go. Pairs with one image and different texts are duplicates: one pair is kept, and every text of the group
stands beside it in reports/duplicates-<selection>.parquet.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from curate.benchmark import Benchmark, open_benchmark
from curate.dataset import Dataset, check_name, fingerprint
from curate.dedup import overlap, overlap_report, selection
from curate.dedup.calibrate import calibrate
from curate.dedup.codes import Comparison, comparisons
from curate.dedup.decide import Rule, counts, decide
from curate.dedup.decided import name_rows
from curate.dedup.faiss_install import faiss_conflict, load_search
from curate.dedup.groups_report import GROUPS, groups_tables
from curate.dedup.hamming import RECALL
from curate.dedup.likeness import Search
from curate.dedup.measured import Measured, prepare
from curate.dedup.pool import collect
from curate.dedup.predictions import read as read_predictions
from curate.dedup.thorough import Views
from curate.dedup.whitened import whiten_pool
from curate.errors import CurateError
from curate.files import Folder
from curate.measure import measure
from curate.words import counted
from curate.work import Engine

__all__ = ["calibrate", "faiss_conflict", "run"]


def run(dataset: Dataset, signals: Sequence[str] = ("exact", "pdq"), thresholds: Mapping[str, float] | None = None,
        against: Sequence[str] = (), against_signals: Sequence[str] = (),
        against_thresholds: Mapping[str, float] | None = None, verify: bool = True, candidates: int = 10,
        predictions: Sequence[str] = (),
        closure: bool = False, semdedup: float = 0.0, distinct_colours: bool = False, whiten: bool | None = None,
        recall: float = RECALL, thorough: bool = False, name: str | None = None, start: str | None = None,
        engine: str | Engine = "local", device: str = "auto") -> Dataset:  # fmt: skip
    """Write the selection `name` (told by its content by default), its groups, and a report for each benchmark.

    against_signals and against_thresholds hold between the pool and the benchmarks, where they differ from those inside
    the pool. verify: look at the `candidates` of each benchmark image that signals alone cannot tell. predictions: what
    a model said of the benchmarks' images, as BENCHMARK=FILE, or the folder that `curate eval` wrote.
    closure, semdedup: other rules than stars (see `Rule`). distinct_colours: a recoloured picture is another one.
    whiten: embeddings on the pool; None where it is large enough. recall: of the pairs right at the threshold, where
    codes are too long for an exact search. thorough: compare what stays with itself as with a benchmark, too.

    Raises CurateError for a signal that tells no duplicates, a folder that is no benchmark, two FAISS packages.
    """
    dataset.check_tars()
    if name is not None:
        check_name(name)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise CurateError(f"--device {device}: there are auto, cpu and cuda, or cuda:1 for the second GPU")
    thresholds = thresholds or {}
    compared = comparisons(signals, thresholds)
    looser = against_thresholds or {}
    benchmarks = _opened(against, dataset)
    compared_against = []
    if candidates < 0:
        raise CurateError(f"--candidates {candidates}: it is a number of pictures, 0 or more")
    if benchmarks or thorough:
        compared_against = overlap.compare_by(signals, against_signals, thresholds, looser)
    elif against_signals or looser:
        option = "--against-signal" if against_signals else "--against-threshold"
        raise CurateError(f"{option} tells how benchmarks are compared; name one with --against, or ask for --thorough")
    told = read_predictions(predictions, [benchmark.name for benchmark in benchmarks])
    if compared_against or any(comparison.kind == "cosine" for comparison in compared):
        search_module = load_search()
        if compared_against:
            search_module.gpu_number(device)
    rule = _rule(closure, semdedup, recall, compared)
    parent = dataset.parent_for("dedup", start)
    more = [
        *(overlap.measured_by(compared_against) if benchmarks else []),
        *(["thumbprint"] if distinct_colours else []),
    ]
    measured = [prepare(benchmark, dataset.folder, compared_against, engine) for benchmark in benchmarks]
    overlap_report.check_predictions(told, measured)
    dataset = measure(dataset, list(dict.fromkeys([*signals, *more])), engine)
    pool = collect(dataset, compared, parent, distinct_colours, engine)
    if dataset.shards and not pool.shards:
        reason = next(iter({**dataset.failures, **pool.failures}.values()), "no shard was measured")
        raise CurateError(f"dedup could read no shard of {dataset.url} ({reason}); nothing was selected")
    pool, whitenings = whiten_pool(pool, whiten, thresholds, engine)
    compared = list({codes.comparison.signal: codes.comparison for codes in pool.codes}.values()) or compared
    compared_against = overlap.at_scale(compared_against, len(pool), verify, {**thresholds, **looser})
    looked_at = candidates if verify else 0
    found = {m.name: overlap.find(dataset, pool.shards, m, compared_against, len(pool), looked_at, engine, device)
             for m in measured}  # fmt: skip
    options = {
        "signals": [comparison.spec for comparison in compared],
        "thresholds": _thresholds(compared),
        "against_thresholds": _thresholds(compared_against),
        "against_signals": [comparison.spec for comparison in compared_against],
        "against": {m.name: m.digest for m in measured},
        "candidates": looked_at if compared_against else 0,
        "rule": "closure" if closure else "stars",
        "semdedup": semdedup,
        "distinct_colours": distinct_colours,
        "whitened": sorted(whitenings),
        "recall": recall,
        **({"thorough": True} if thorough else {}),
    }
    made_by = {"stage": "dedup", "parent": parent, "ranked_by": _ranked_by(dataset), **options}
    name = name or f"dedup-{fingerprint([made_by, dataset.shards_fingerprint(), [s.name for s in pool.shards]])}"
    _refuse_other_options(dataset, name, made_by)
    search = Search(f"{overlap.WORK}/pool-{fingerprint(made_by)}", recall, whitenings, engine)
    views = Views(dataset.folder.within(search.folder), compared_against, looked_at, engine, device)
    overlaps = {name: each.matches for name, each in found.items()}
    decided, crowds = decide(pool, overlaps, search, rule, views if thorough else None)
    hanging, named = name_rows(decided, pool.ranking, engine)
    files = selection.write(pool, name, decided, hanging, made_by, engine)
    groups = groups_tables(decided, files, len(pool.ranking.ranges), int(named.total("in groups")), engine)
    dataset.folder.write_tables(f"reports/duplicates-{name}.parquet", GROUPS, groups, made_by)
    numbers = counts(pool, decided.said, crowds, named, [comparison.signal for comparison in compared])
    numbers["overlap"] = {
        m.name: overlap_report.write(dataset.folder, pool, m, found[m.name], made_by) for m in measured
    }
    if told:
        numbers["contamination"] = overlap_report.contamination(dataset.folder, told, measured, found)
    changes = dataset.with_selection(name, "dedup", parent, **options)
    dataset = dataset.after("dedup", options, _summary(numbers, measured), numbers, pool.failures, **changes).save()
    for folder in (search.folder, pool.source):
        dataset.folder.remove(folder)
    dataset.folder.sweep()  # what a killed worker left, whose work another did
    return dataset


def _rule(closure: bool, semdedup: float, recall: float, compared: Sequence[Comparison]) -> Rule:
    """Raises CurateError for options that make no sense."""
    if not 0 <= semdedup < 1:
        raise CurateError(f"--semdedup {semdedup:g}: it is 1 - a cosine similarity, above 0 and below 1; 0.05, say")
    if semdedup and not any(comparison.kind == "cosine" for comparison in compared):
        raise CurateError("--semdedup compares embeddings: add --signal embedding, or another one that gives vectors")
    if not 0 < recall <= 1:
        raise CurateError(f"--recall {recall:g}: it is a share of the pairs at the threshold, above 0 and up to 1")
    return Rule(closure, semdedup)


def _ranked_by(dataset: Dataset) -> dict[str, Any] | None:
    """What made the CLIP scores that rank keepers, or None where there are none: another ranking, another selection."""
    if "clip" not in dataset.signals or not dataset.shards:
        return None
    return dataset.folder.made_by(f"signals/clip/{dataset.shards[0].name}.parquet")


def _thresholds(compared: Sequence[Comparison]) -> dict[str, float]:
    return {comparison.signal: comparison.threshold for comparison in compared if comparison.kind != "equal"}


def _opened(against: Sequence[str], dataset: Dataset) -> list[Benchmark]:
    """The benchmarks, checked before any work starts."""
    benchmarks = [open_benchmark(path) for path in against]
    names = [benchmark.name for benchmark in benchmarks]
    for path, name in zip(against, names, strict=True):
        if _place(Folder(path)) == _place(dataset.folder):
            raise CurateError(f"--against {path}: a dataset is no benchmark for itself")
        if names.count(name) > 1:
            raise CurateError(f"two benchmarks are called '{name}'; rename a folder, their reports carry its name")
    return benchmarks


def _place(folder: Folder) -> tuple[bool, str]:
    """Two ways to write one folder have the same."""
    return folder.is_local, os.path.realpath(folder.root)


def _refuse_other_options(dataset: Dataset, name: str, made_by: dict[str, Any]) -> None:
    for shard in dataset.shards:
        before = dataset.folder.made_by(f"selections/{name}/{shard.name}.parquet")
        if before is not None and before != made_by:
            changed = ", ".join(sorted(key for key in {*made_by, *before} if before.get(key) != made_by.get(key)))
            raise CurateError(f"selection '{name}' was made with another {changed}; choose another --name")


def _summary(numbers: dict[str, Any], measured: Sequence[Measured]) -> str:
    duplicates = ", ".join(f"{count:,} {signal}" for signal, count in numbers["duplicates"].items())
    crowds = numbers["crowds"]
    largest = max((crowd["codes"] for crowd in crowds), default=0)
    parts = [
        f"dedup: {numbers['kept']:,} of {numbers['of']:,} pairs kept",
        f"{duplicates} duplicates in {counted(numbers['groups'], 'group')}",
        *[f"{counted(len(crowds), 'crowd')} of up to {largest:,} images nearly alike, each compared with the best only"]
        * bool(crowds),
        *[f"{counted(numbers['undecodable'], 'image')} could not be decoded and were compared by bytes alone"]
        * bool(numbers["undecodable"]),
        *(overlap_report.summary(each, numbers["overlap"][each.name]) for each in measured),
    ]
    table = [overlap_report.table(numbers["contamination"])] if "contamination" in numbers else []
    return "\n".join(["; ".join(parts), *table])
