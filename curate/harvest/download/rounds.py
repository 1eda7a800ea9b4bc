"""The rounds of a download: each offers some pairs, as shards whose numbers go on where the round before ended.

Round 0 is what candidates.py drew. Every later one leaves a record in DATASET/candidates/rounds: which shards are its,
and how deep each query was drawn. From that and the candidates its pairs can be found again, whatever became of them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from curate.errors import CurateError
from curate.files import Folder
from curate.harvest.choose.matches import WORK
from curate.harvest.choose.select import LIMITS
from curate.harvest.download.place import Place

RECORDS = "candidates/rounds"
DRAW, TOP_UP, RETRY = "draw", "top-up", "retry"


@dataclass(frozen=True)
class Round:
    """`shards` shards from number `first`; `retried`: why the pairs of a retry had failed before, and how many."""

    number: int
    kind: str
    first: int
    shards: int
    pairs: int
    retried: dict[str, int] = field(default_factory=dict)

    @property
    def record(self) -> str:
        """The file with the depth of its queries, or with the shards whose failures a retry takes."""
        return f"{RECORDS}/{self.number:05d}.parquet" if self.number else LIMITS

    @property
    def work(self) -> str:
        return work_of(self.number)

    @property
    def end(self) -> int:
        return self.first + self.shards


def work_of(number: int) -> str:
    """Where a round keeps what can be made again."""
    return f"{WORK}/rounds/{number:05d}"


def draw(selected: int, shard_size: int) -> Round:
    """Round 0."""
    return Round(0, DRAW, 0, max(1, -(-selected // shard_size)), selected)


def after(rounds: Sequence[Round], kind: str, pairs: int, shard_size: int,
          retried: dict[str, int] | None = None) -> Round:  # fmt: skip
    """One more round."""
    return Round(len(rounds), kind, rounds[-1].end, -(-pairs // shard_size), pairs, retried or {})


def places(found: Round, first: Round) -> list[Place]:
    """The shards of a round; `first` is round 0, which decides how names are written.

    Raises CurateError where a number no longer fits into the names.
    """
    # one width for all shards of a dataset, with room for later rounds: keys, the name and a number, stay unique
    width = max(5, len(str(4 * first.shards - 1)))
    if found.end > 10**width:
        raise CurateError(f"more than {10**width:,} shards: harvest into a new dataset with a larger --shard-size")
    return [Place(number, found.shards, found.first, width) for number in range(found.shards)]


def write(folder: Folder, found: Round, table: pa.Table, harvest: str) -> None:
    """Note a round, once its pairs are known. `harvest` is the fingerprint of pools and options."""
    folder.write_table(found.record, table, {**asdict(found), "harvest": harvest})


def read(folder: Folder, first: Round, harvest: str) -> list[Round]:
    """All rounds so far. Raises CurateError where their records belong to another harvest or other shards."""
    rounds = [first]
    for name in folder.names(f"{RECORDS}/*.parquet"):
        about: dict[str, Any] = dict(folder.made_by(name) or {})
        of = about.pop("harvest", None)
        found = Round(**about)
        if of != harvest or found.number != len(rounds) or found.first != rounds[-1].end:
            raise CurateError(
                f"{folder.url}/{name} belongs to another harvest or another --shard-size; choose another --out, or "
                f"delete the folders shards and {RECORDS}"
            )
        rounds.append(found)
    return rounds
