"""One shard of a round, before it is written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One shard of a round: the pairs whose place lies in the number-th of `of` equal ranges."""

    number: int
    of: int
    first: int = 0  # shards of the rounds before
    width: int = 5  # digits of its name

    def __str__(self) -> str:
        return f"shards/{self.name}"

    @property
    def name(self) -> str:
        return f"{self.first + self.number:0{self.width}d}"
