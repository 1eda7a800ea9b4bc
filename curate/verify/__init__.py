"""Measure a sample of rows again by the plainest means, and say what the difference does to the selection.

Signals are fast because they leave out what should not matter (padding, float images, one image at a time). What really
differs on this machine, with these weights and images, is measured here: each signal has a reference in references/, a
file named as the signal, which knows nothing of the fast way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import named
from curate.dataset import Dataset, fingerprint
from curate.errors import CurateError
from curate.verify import decisions, remeasure
from curate.words import counted
from curate.work import Engine, run_all

REPORT = "reports/verify.parquet"


@dataclass(frozen=True)
class Finding:
    """How far one column lies from its reference."""

    column: str
    values: int
    largest: float
    mean: float
    missing: int  # rows that only one of the two has a value for
    tolerance: float

    @property
    def equal(self) -> bool:
        return not self.missing and self.largest == 0

    @property
    def text(self) -> str:
        missing = f", {self.missing:,} have a value on one side only" if self.missing else ""
        return f"{self.column} differs by at most {self.largest:.2g}, {self.mean:.2g} on average{missing}"

    @property
    def trouble(self) -> str | None:
        """Why this is not what was expected, or None."""
        if self.missing:
            return f"{self.missing:,} of {self.values:,} rows have a value of {self.column} on one side only"
        if self.largest > self.tolerance:
            return f"{self.column} differs from the reference by up to {self.largest:.3g}, more than {self.tolerance:g}"
        return None


def run(dataset: Dataset, signals: Sequence[str] = (), sample: int = 200, selection: str | None = None,
        tolerance: float | None = None, seed: int = 0, engine: str | Engine = "local") -> Dataset:  # fmt: skip
    """Compare `signals` (all measured ones that have a reference by default) with their references on `sample` rows;
    write the values to reports/verify.parquet. Columns over `tolerance` (each reference's own by default) are failures.

    Raises CurateError: nothing to verify, an unknown signal or selection, a missing package.
    """
    if sample < 1:
        raise CurateError(f"--sample {sample}: at least one row is needed")
    if tolerance is not None and not tolerance >= 0:
        raise CurateError(f"--tolerance {tolerance:g}: it is a difference, 0 or more")
    dataset.check_tars()
    signals = _checked(dataset, signals)
    columns = sorted({name for shard in dataset.shards[:1] for signal in signals
                      for name in dataset.measured(shard, signal).column_names if name != "uid"})  # fmt: skip
    name, cuts = decisions.cuts_of(dataset, selection, columns)
    parts = remeasure.draw(dataset, signals, sample, seed)
    scratch = f"work/verify/{fingerprint([signals, sample, seed])}"
    outcome = run_all(remeasure.Remeasure(dataset.light, signals, cuts, scratch), parts, engine, "verify")
    tables = [dataset.folder.read_table(f"{scratch}/{report.item.rsplit('/', 1)[-1]}.parquet")
              for report in outcome.reports]  # fmt: skip
    dataset.folder.remove(scratch)
    if not tables:
        raise CurateError(f"nothing could be verified: {next(iter(outcome.failures.values()))}")
    table = pa.concat_tables(tables).sort_by([("column", "ascending"), ("uid", "ascending")])
    dataset.folder.write_table(REPORT, table)
    findings = [finding for signal in signals for finding in _findings(dataset, signal, table, tolerance)]
    flipped = int(outcome.total("flipped"))
    flips = f"{counted(flipped, 'decision')} of {name} {'flips' if flipped == 1 else 'flip'}"
    decided = flips if name else "no selection cuts by them"
    if unmeasured := [shard for shard in dataset.shards if not remeasure.is_measured(dataset, shard, signals)]:
        decided += f"; {counted(len(unmeasured), 'shard')} without one of them left out, the first is {unmeasured[0]}"
    others = sorted(set(dataset.signals) - set(signals))
    decided += f"; not verified: {', '.join(others)}" if others else ""
    same = ", ".join(found.column for found in findings if found.equal)
    texts = [found.text for found in findings if not found.equal] + ([f"equal: {same}"] if same else [])
    summary = f"verify: {counted(outcome.rows, 'pair')}; {'; '.join(texts)}; {decided}"
    failures = {found.column: found.trouble for found in findings if found.trouble}
    counts = {"rows": outcome.rows, "flipped": flipped if name else None, "selection_verified": name,
              "columns": {found.column: vars(found) for found in findings}}  # fmt: skip
    options = {"signals": list(signals), "sample": sample, "tolerance": tolerance, "seed": seed}
    return dataset.after("verify", options, summary, counts, {**outcome.failures, **failures}).save()


def _checked(dataset: Dataset, signals: Sequence[str]) -> tuple[str, ...]:
    """The names of the signals to verify. Raises CurateError before anything is measured."""
    known = named.available(remeasure.KIND)
    with_reference = [slug for slug, spec in dataset.signals.items() if named.parse(spec).name in known]
    for signal in signals:
        if signal not in dataset.signals:
            measured = ", ".join(dataset.signals) or "none yet"
            raise CurateError(f"{dataset.url} has no signal '{signal}'; measured are: {measured}")
        if signal not in with_reference:
            raise CurateError(f"'{signal}' has no reference to verify it by; there is one of: {', '.join(known)}")
    chosen = tuple(signals) or tuple(sorted(with_reference))
    if not chosen:
        raise CurateError(f"{dataset.url} has no signal with a reference; first: curate measure {dataset.url} SIGNAL "
                          f"(one of {', '.join(known)})")  # fmt: skip
    for signal in chosen:
        remeasure.reference(dataset.signals[signal])
    return chosen


def _findings(dataset: Dataset, signal: str, table: pa.Table, tolerance: float | None) -> list[Finding]:
    found = []
    least = remeasure.reference(dataset.signals[signal]).tolerance if tolerance is None else tolerance
    table = table.filter(pc.equal(table["signal"], signal))
    for column in pc.unique(table["column"]).to_pylist():
        differences = table.filter(pc.equal(table["column"], column))["difference"].to_numpy()
        there = differences[~np.isnan(differences)]
        largest, mean = (float(there.max()), float(there.mean())) if len(there) else (0.0, 0.0)
        found.append(Finding(column, len(differences), largest, mean, len(differences) - len(there), least))
    return found
