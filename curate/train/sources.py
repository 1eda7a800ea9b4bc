"""What the arguments of train-clip name: curate datasets, folders of tars, globs, single tars."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from curate.dataset import MANIFEST, Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.shard import Shard


@dataclass(frozen=True)
class Source:
    """Shards of one place, the selection that says which of their rows count, and its weight in a mixture."""

    url: str
    shards: list[Shard]
    dataset: Dataset | None = None
    selection: str | None = None
    weight: float = 1.0


def of(data: Sequence[str], selection: str | None, weights: Sequence[float] = ()) -> list[Source]:
    """The shards of each of `data`; weights: of each of them, 1 where they end.

    Raises CurateError for a place without tars, a dataset that lacks one of its own, and a selection that a dataset
    does not have.
    """
    found = []
    for number, url in enumerate(data):
        weight = weights[number] if number < len(weights) else 1.0
        if not 0 < weight < float("inf"):
            raise CurateError(f"the weight {weight:g} of {url} is not a positive number")
        folder = Folder(url.rstrip("/"))
        if folder.exists(MANIFEST) or folder.names("shards/*.tar"):
            dataset = Dataset.open(url)
            dataset.check_selection(selection)
            dataset.check_tars()
            found.append(Source(url, dataset.shards, dataset, selection or dataset.selection, weight))
            continue
        if selection:
            raise CurateError(f"{url} is no curate dataset and has no selection '{selection}'; leave --selection out")
        found.append(Source(url, _plain_shards(url, folder), weight=weight))
    return found


def _plain_shards(url: str, folder: Folder) -> list[Shard]:
    shards = []
    for pattern in _braces(url):
        parent, _, name = pattern.rstrip("/").rpartition("/")
        if folder.fs.isdir(folder.path()):
            parent, name = pattern.rstrip("/"), "*.tar"
        place = Folder(parent or ".")
        shards += [Shard(place, tar_name.removesuffix(".tar"), "") for tar_name in place.names(name)
                   if tar_name.endswith(".tar")]  # fmt: skip
    if not shards:
        raise CurateError(f"{url} is neither a dataset nor a folder, glob or file of .tar shards")
    return shards


def _braces(pattern: str) -> list[str]:
    """webdataset's {00000..00012} written out."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [rest for number in numbers for rest in _braces(pattern[: match.start()] + number + pattern[match.end() :])]
