"""Which steps each row fails, as one number a row; what a selection says and counts follows from the few that occur."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from curate.filter import arrays
from curate.filter.pages import Coded
from curate.work import Number


@dataclass(frozen=True)
class Marks:
    """Bit i of `values[codes]` is set where a row fails step i."""

    values: np.ndarray  # uint64, ascending: 0, no step fails, is the first if it occurs
    codes: np.ndarray  # unsigned [rows]
    rows: np.ndarray  # int64: how many have each value

    @classmethod
    def of(cls, passed: list[np.ndarray], rows: int) -> "Marks":
        """From bool [rows] passes it, of every step."""
        marks = np.zeros(rows, np.min_scalar_type(2 ** len(passed) - 1))
        for step, passes in enumerate(passed):  # a bool less one has all bits where it is False
            marks |= (passes.view(np.uint8).astype(marks.dtype) - marks.dtype.type(1)) & marks.dtype.type(1 << step)
        if marks.itemsize == 1:
            every = np.bincount(marks, minlength=2 ** len(passed))
            return cls(np.arange(len(every), dtype=np.uint64), marks, every)
        values, codes, found = np.unique(marks, return_inverse=True, return_counts=True)
        return cls(values.astype(np.uint64), codes.astype(np.min_scalar_type(max(len(values) - 1, 0))), found)

    @property
    def failed(self) -> Coded:
        """uint64: the marks themselves."""
        return Coded(self.values, self.codes)

    @cached_property
    def kept(self) -> Coded:
        """int32: 1 where a row fails no step, else 0."""
        return Coded(np.array([0, 1], np.int32), self._each(self.values == 0))

    def reasons(self, names: list[str]) -> Coded:
        """The name of the first step that a row fails, the lowest of its bits; null where it is kept."""
        first = np.bitwise_count(~self.values & (self.values - np.uint64(1)))
        return Coded(names, self._each(np.where(self.values > 0, first, len(names))), len(names))

    def counts(self, null: list[np.ndarray], errors: list[bool]) -> dict[str, Number]:
        """By "<name> <number of step>": alone passes it, kept passes it and all before it, only fails it and no other,
        null has no value for it (bool [rows]), undecided came to it without a value that `errors` says it must have."""
        bit = np.uint64(1) << np.arange(len(null), dtype=np.uint64)[:, None]
        passes, reached = self.values & bit == 0, self.values & (bit - np.uint64(1)) == 0
        sums = {"alone": passes @ self.rows, "kept": (passes & reached) @ self.rows,
                "only": (self.values == bit) @ self.rows}  # fmt: skip
        found: dict[str, Number] = {"of": len(self.codes)}
        for step, without in enumerate(null):
            found |= {f"{name} {step}": int(rows[step]) for name, rows in sums.items()}
            found[f"null {step}"] = int(np.count_nonzero(without))
            asked = errors[step] and found[f"null {step}"]
            here = self._each(reached[step]).view(bool) if asked else without[:0]
            found[f"undecided {step}"] = int(np.count_nonzero(here & without)) if asked else 0
        return {**found, "kept": int(self.rows[self.values == 0].sum())}

    def _each(self, said: np.ndarray) -> np.ndarray:
        """uint8 [rows]: what is said of the value of each row."""
        return arrays.looked_up(said.astype(np.uint8), self.codes)
