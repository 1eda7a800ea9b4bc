"""The kinds of step a recipe has: a condition, a top share, a cap, soft-cap sampling, a weight."""

from dataclasses import dataclass
from fractions import Fraction

ON_NULL = ("error", "drop", "keep")
POOLS = ("pool", "survivors")


@dataclass(frozen=True)
class Where:
    """Keep the rows for which an SQL condition holds."""

    name: str
    sql: str
    on_null: str = "error"

    @property
    def rule(self) -> str:
        return self.sql


@dataclass(frozen=True)
class Top:
    """Keep the rows whose value of `by` is among the largest: a share ("30%") of the rows that have a value, or a
    number of them, counted among all rows considered ("pool") or those that the steps before kept ("survivors").

    Rows that tie with the last one kept are all in, unless `exact`: then the smallest uids are. `least` is a floor that
    the value must reach too. With `per`, a column of words or lists, all of this holds within each of its groups, and a
    row of several groups is kept where one of them keeps it.
    """

    name: str
    amount: str
    by: str
    of: str = "pool"
    least: float | None = None
    exact: bool = False
    per: str | None = None
    on_null: str = "error"

    @property
    def rule(self) -> str:
        floor = "" if self.least is None else f", at least {self.least:g}"
        per = "" if self.per is None else f" per {self.per}"
        return f"top {self.amount} by {self.by} of {self.of}{per}{floor}{', exact count' if self.exact else ''}"

    def rows(self, ranked: int) -> int:
        """How many of `ranked` rows are kept, ties aside."""
        return rows_of(self.amount, ranked)


@dataclass(frozen=True)
class Cap:
    """Keep at most `most` survivors of each group of `per`: those with the largest value of `by`, or, without it, those
    that a seeded hash of the uid draws; equals by uid. A row of several groups is kept where one of them keeps it; a
    row of none is kept."""

    name: str
    most: int
    per: str
    by: str | None = None
    seed: int = 0
    on_null: str = "error"

    @property
    def rule(self) -> str:
        return (
            f"at most {self.most:,} per {self.per}, {f'best by {self.by}' if self.by else f'drawn, seed {self.seed}'}"
        )


@dataclass(frozen=True)
class Sample:
    """Soft-cap sampling (Shechter and Carmon 2025, FLYT, arXiv:2503.08805): draw `amount` copies of the survivors, each
    draw with a chance proportional to exp(by) times exp(-soft_cap * times drawn before), at most `most` times a row.

    The draws are the first arrivals of exponential clocks (one for each row; a clock slows down with every arrival),
    which is exactly that sampling one draw at a time, and needs no order: an arrival is a seeded hash of uid and draw.
    """

    name: str
    amount: str
    by: str
    soft_cap: float = 0.15
    most: int = 16
    seed: int = 0
    on_null: str = "error"

    @property
    def rule(self) -> str:
        return (
            f"sample {self.amount} by {self.by}, soft cap {self.soft_cap:g}, at most {self.most} each, seed {self.seed}"
        )

    def rows(self, survivors: int) -> int:
        return rows_of(self.amount, survivors, bounded=False)


@dataclass(frozen=True)
class Weight:
    """Multiply the weight by an SQL number: its whole part, and one more with the chance of its fraction (seeded)."""

    name: str
    sql: str
    seed: int = 0
    on_null: str = "error"

    @property
    def rule(self) -> str:
        return f"weight {self.sql}{f', seed {self.seed}' if self.seed else ''}"


@dataclass(frozen=True)
class Subset:
    """Keep the rows whose uid a file lists (subset.py), as often as it does."""

    path: str
    sha256: str
    name: str = "subset"
    on_null: str = "error"

    @property
    def rule(self) -> str:
        return f"in {self.path.rpartition('/')[2]}"


Step = Where | Top | Cap | Sample | Weight | Subset


def expression(step: Step) -> str | None:
    """The SQL of a step; None for a cap that draws and for a list of uids."""
    if isinstance(step, Subset):
        return None
    return step.sql if isinstance(step, Where | Weight) else step.by


def rows_of(amount: str, ranked: int, bounded: bool = True) -> int:
    """ "30%" or "1000" of so many rows: a share is rounded down, at least one."""
    wanted = max(1, int(Fraction(amount[:-1]) * ranked / 100)) if amount.endswith("%") else int(amount)
    return min(ranked, wanted) if bounded else wanted
