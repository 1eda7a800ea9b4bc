"""What a selection decides about a row: its conditions and global cuts, applied again to values from elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.dataset import Dataset
from curate.errors import CurateError
from curate.filter import predicate
from curate.filter.predicate import Expression

TOP = re.compile(r"top \S+ by (?P<by>.+) of (pool|survivors)(, at least \S+?)?(, exact count)?", re.DOTALL)


@dataclass(frozen=True)
class Cut:
    """A step of a selection that looks at one row alone: an SQL condition, or an SQL number and its least value."""

    step: str
    sql: str
    least: float | None = None

    @property
    def expression(self) -> Expression:
        return Expression(self.sql, f"step '{self.step}'")

    def passed(self, table: pa.Table) -> np.ndarray:
        """bool [rows]; a row without a value does not pass."""
        if self.least is None:
            ((passed, _),) = predicate.conditions(table, [self.expression])
            return passed
        return predicate.numbers(table, self.expression) >= self.least


def cuts_of(dataset: Dataset, selection: str | None, columns: Sequence[str]) -> tuple[str | None, tuple[Cut, ...]]:
    """(selection, its cuts on any of `columns`). Without a name it is the newest selection that has such cuts, or
    (None, ()) where none has. Raises CurateError for a name that has none."""
    dataset.check_selection(selection)
    for step in reversed(dataset.history):
        name = step["counts"].get("selection")
        if name is None or (selection is not None and name != selection):
            continue
        cuts = tuple(cut for row in step["counts"].get("funnel", ()) if (cut := _cut(row, columns)))
        if cuts:
            return name, cuts
    if selection is not None:
        raise CurateError(f"selection '{selection}' has no cut on {', '.join(columns)}; leave --selection out")
    return None, ()


def _cut(row: dict, columns: Sequence[str]) -> Cut | None:
    """A row of a funnel as a cut, where it is one on these columns; caps and draws weigh rows against each other."""
    found = TOP.fullmatch(row["rule"])
    if found and "threshold" not in row:
        return None  # a cut for each group
    cut = Cut(row["step"], found["by"], float(row["threshold"])) if found else Cut(row["step"], row["rule"])
    try:
        return cut if cut.expression.used(list(columns)) else None
    except CurateError:
        return None  # not a condition
