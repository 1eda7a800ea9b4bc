"""Run one small, picklable task for every item, on any engine, and account for each of them."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from curate import named
from curate.errors import BadShard, CurateError

Item = TypeVar("Item")
Number = int | float


@dataclass(frozen=True)
class Report:
    """What a task did with one item: numbers only, never an image."""

    item: str
    rows: int = 0
    counts: dict[str, Number] = field(default_factory=dict)
    skipped: bool = False  # already done by an earlier run


@dataclass
class Outcome:
    """The reports in the order of the items, and the items that failed with the reason of each."""

    reports: list[Report] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def total(self, count: str) -> Number:
        return sum(report.counts.get(count, 0) for report in self.reports)

    @property
    def rows(self) -> int:
        return sum(report.rows for report in self.reports)

    def whole(self, way_out: str) -> "Outcome":
        """This outcome, for a step that the next one needs whole. Raises CurateError where an item failed."""
        if self.failures:
            raise CurateError(f"{next(iter(self.failures.values()))}; {way_out}")
        return self


Task = Callable[[Any], Report]  # a frozen dataclass with __call__: picklable, and safe to run twice


class Engine(Protocol):
    """Runs tasks somewhere. See docs/add-an-engine.md."""

    def map(self, task: Task, items: Sequence[Any]) -> Iterator[tuple[int, Report | BadShard]]:
        """Yield (index of the item, its report or the BadShard it raised) in any order. Other errors are raised."""
        ...


def engine(spec: "str | Engine") -> Engine:
    """An engine from "local", "local(workers=4)", "ray(address=auto)", or the engine itself."""
    return named.load("engines", spec) if isinstance(spec, str) else spec


def run_all(task: Task, items: Iterable[Any], engine_spec: "str | Engine" = "local", label: str = "",
            quiet: bool | None = None, postfix: Callable[[Report], str] | None = None) -> Outcome:  # fmt: skip
    """Run `task` on every item; a BadShard costs its item only. Shows a progress bar when the label is given, and
    behind it what `postfix` says after each report."""
    todo = list(items)
    reports: list[Report | None] = [None] * len(todo)
    outcome = Outcome()
    silent = quiet if quiet is not None else (not label or QUIET)
    results = engine(engine_spec).map(task, todo)
    with tqdm(total=len(todo), desc=label, disable=silent, unit="shard", leave=True) as bar, _closed(results):
        for index, result in results:
            if isinstance(result, BadShard):
                outcome.failures[str(todo[index])] = str(result)
            else:
                reports[index] = result
                if postfix:
                    bar.set_postfix_str(postfix(result), refresh=False)
            bar.update()
    outcome.reports = [report for report in reports if report is not None]
    outcome.failures = dict(sorted(outcome.failures.items()))
    return outcome


@contextlib.contextmanager
def _closed(results: Iterator[Any]) -> Iterator[None]:
    """Whatever happens in the block, an engine that is still at work hears of its end."""
    try:
        yield
    finally:
        if isinstance(results, Generator):
            results.close()


QUIET = False  # set by `curate -q`: no progress bars
