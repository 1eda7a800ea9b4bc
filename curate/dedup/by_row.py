"""What tasks found of the rows of a pool, in files by their numbers, of which other tasks read a range."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from curate import ranges
from curate.files import Folder
from curate.shuffle import Gather, Ranged, shuffled
from curate.work import Engine

NO_FILES = Ranged(((),))


@dataclass(frozen=True)
class ByRow:
    """Tables of a schema, sorted by its first column, uint64: numbers of rows. A range of rows lies in few of the
    files."""

    folder: Folder
    schema: pa.Schema
    files: Ranged

    def between(self, start: int, stop: int) -> pa.Table:
        """Of the rows from `start` up to `stop`, one file after the other. Raises BadShard."""
        names = self.files.over(start, stop)
        held = [ranges.between(self.folder, names, self.schema.names[0], start, stop)] if names else []
        return pa.concat_tables([self.schema.empty_table(), *held])


def by_row(folder: Folder, names: Sequence[str], schema: pa.Schema, held: int, of: int, engine: str | Engine) -> ByRow:
    """What files below `folder` hold, `held` records in all, of a pool of so many rows: joined into fewer files, where
    they are many. Raises CurateError."""
    column = schema.names[0]
    files, outcome = shuffled(Gather(folder, "whole", column), names, held, 0, f"joined-{column}", engine, max(of, 1))
    outcome.whole("run it again")
    return ByRow(folder, schema, files)
