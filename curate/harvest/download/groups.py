"""Some shards read together: the pairs they hold, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate.files import Folder
from curate.harvest.choose.entries import Entries, entries_of, query_names, read_limits
from curate.shard import SUCCESS, Shard

SHARDS = 32  # in a group: 320,000 rows of three columns


@dataclass(frozen=True)
class Group:
    """Shards one after another, by name."""

    number: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"shards/{self.names[0]} to {self.names[-1]}"

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


def groups(names: Sequence[str]) -> list[Group]:
    """The groups of these shards."""
    starts = range(0, len(names), SHARDS)
    return [Group(number, tuple(names[start : start + SHARDS])) for number, start in enumerate(starts)]


@dataclass(frozen=True)
class Images:
    """The pairs of a group that have an image, each with the queries within whose limit it lies."""

    folder: Folder
    limits: str  # file
    seed: int
    state: str  # changes with the limits and with the shards

    def __call__(self, group: Group) -> Entries:
        columns = ["uid", "status", "queries"]
        tables = [self.folder.read_table(Shard(self.folder, name).parquet, columns) for name in group.names]
        table = pa.concat_tables(tables)
        table = table.filter(pc.equal(table["status"], SUCCESS))
        entries = entries_of(table, query_names(self.folder, self.state), self.seed)
        return entries.within(read_limits(self.folder, self.limits, self.state))
