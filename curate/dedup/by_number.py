"""What tasks found, in files by numbers: of rows, or digests. Other tasks read a range of these."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from curate import ranges
from curate.files import Folder
from curate.shuffle import Gather, Ranged, shuffled
from curate.work import Engine


@dataclass(frozen=True)
class ByNumber:
    """Tables of a schema, sorted by its first column, uint64. A range of it lies in few of the files."""

    folder: Folder
    schema: pa.Schema
    files: Ranged

    def between(self, start: int, stop: int) -> pa.Table:
        """What has a number from `start` up to `stop`, of one file after the other. Raises BadShard."""
        names = self.files.over(start, stop)
        held = [ranges.between(self.folder, names, self.schema.names[0], start, stop)] if names else []
        return pa.concat_tables([self.schema.empty_table(), *held])


def in_files(folder: Folder, schema: pa.Schema, *names: str) -> ByNumber:
    """What few files below `folder` hold, or none."""
    return ByNumber(folder, schema, Ranged((names,)))


def by_number(folder: Folder, names: Sequence[str], schema: pa.Schema, held: int, of: int,
              engine: str | Engine) -> ByNumber:  # fmt: skip
    """What files below `folder` hold, `held` records in all, of numbers below `of`: joined into fewer files, where they
    are many. Raises CurateError."""
    column = schema.names[0]
    files, outcome = shuffled(Gather(folder, "whole", column), names, held, 0, f"joined-{column}", engine, max(of, 1))
    outcome.whole("run it again")
    return ByNumber(folder, schema, files)
