"""What is compared: selections of datasets, and beside each a random one of the same size from the same pool."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import EVERYTHING, Dataset, fingerprint
from curate.errors import CurateError
from curate.evaluate.order import by_hash

STAGE = "eval-data"


@dataclass(frozen=True)
class Arm:
    """One side of the comparison."""

    name: str
    url: str
    selections: dict[str, str]  # seed -> the selection that this run is trained on
    pairs: int  # in an epoch, weights counted
    control_of: str | None = None

    @property
    def slug(self) -> str:
        """A folder name."""
        return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in self.name)


@dataclass(frozen=True)
class Rows:
    """The rows of a selection: uids and weights (int32) of each shard."""

    uids: list[pa.Array]
    weights: list[np.ndarray]

    @property
    def pairs(self) -> int:
        return int(sum(weights.sum() for weights in self.weights))

    @property
    def size(self) -> int:
        return sum(len(weights) for weights in self.weights)


def arms_of(data: Sequence[str], pool: str | None, seeds: Iterable[int], control: bool) -> list[Arm]:
    """The arms in their order, each followed by its control. Selections of controls, and of everything where that is
    compared, are added to the datasets. Raises CurateError for what does not exist, and for one arm alone."""
    seeds, parsed = list(seeds), [_parsed(text) for text in data]
    for url, selection in parsed:
        if parsed.count((url, selection)) > 1:
            raise CurateError(f"{url}:{selection or EVERYTHING} is named twice")
    arms: list[Arm] = []
    for url, selection in parsed:
        dataset = Dataset.open(url)
        dataset.check_tars()
        chosen = _rows(dataset, selection)
        if not chosen.size:
            raise CurateError(f"{url}:{selection or EVERYTHING} keeps no pair: nothing to train on")
        name = _free(selection or EVERYTHING, url, [arm.name for arm in arms])
        trained = selection or _write(dataset, f"{EVERYTHING}-{_sum(dataset, None)}", None, chosen, chosen.weights)
        arms.append(Arm(name, url, {str(seed): trained for seed in seeds}, chosen.pairs))
        start = _pool_of(dataset, selection, pool)
        if not control or selection is None:
            continue
        whole = _rows(dataset, start)
        if whole.size < chosen.size:
            raise CurateError(f"--pool {pool} has {whole.size:,} pairs, fewer than the {chosen.size:,} of {name}")
        if whole.size == chosen.size:
            continue  # a random selection of the same size would be the same pairs
        drawn = {str(seed): _control(dataset, start, whole, chosen, seed) for seed in seeds}
        arms.append(Arm(f"random, as many as {name}", url, drawn, chosen.pairs, name))
    if len(arms) < 2:
        raise CurateError("one arm alone is no comparison: name another selection (DATASET:all is every pair)")
    return arms


def _parsed(text: str) -> tuple[str, str | None]:
    """(dataset, selection; None for every row) of DATASET, DATASET:SELECTION, DATASET:all."""
    head, colon, tail = text.rpartition(":")
    if not colon or "/" in tail:  # s3://bucket/dataset
        return text, Dataset.open(text).selection
    dataset = Dataset.open(head)
    if tail == EVERYTHING:
        return head, None
    dataset.check_selection(tail)
    return head, tail


def _pool_of(dataset: Dataset, selection: str | None, pool: str | None) -> str | None:
    if pool is not None:
        dataset.check_selection(None if pool == EVERYTHING else pool)
        return None if pool == EVERYTHING else pool
    return dataset.manifest["selections"][selection]["parent"] if selection else None


def _free(name: str, url: str, taken: Sequence[str]) -> str:
    """The name, with its dataset's before it where another dataset has taken it."""
    long = f"{url.rstrip('/').rsplit('/', 1)[-1]}:{name}"
    return next(each for each in (name, long, f"{url}:{name}") if each not in taken)


def _rows(dataset: Dataset, selection: str | None) -> Rows:
    uids, weights = [], []
    for shard in dataset.shards:
        kept = dataset.kept(shard, selection)
        table = shard.rows(["uid"]).select(["uid"]) if kept is None else kept
        uids.append(table["uid"].combine_chunks())
        weights.append(np.ones(len(table), np.int32) if kept is None else table["weight"].to_numpy().astype(np.int32))
    return Rows(uids, weights)


def _control(dataset: Dataset, start: str | None, whole: Rows, chosen: Rows, seed: int) -> str:
    """Write a random selection of `whole` with the same number of pairs and the same weights as `chosen`; its name."""
    keys = [uid for uids in whole.uids for uid in uids.to_pylist()]
    weights = np.zeros(len(keys), np.int32)
    weights[by_hash(keys, seed)[: chosen.size]] = np.sort(np.concatenate(chosen.weights))[::-1]
    # by the hash the heaviest weights go to no particular kind of pair
    ends = np.cumsum([len(uids) for uids in whole.uids])
    parts = np.split(weights, ends[:-1])
    name = f"random-{fingerprint([_sum(dataset, start), np.bincount(weights).tolist(), seed])}"
    return _write(dataset, name, start, whole, parts)


def _write(dataset: Dataset, name: str, parent: str | None, rows: Rows, weights: Sequence[np.ndarray]) -> str:
    """A selection beside the others; the current one of the dataset stays what it is."""
    dataset = Dataset.open(dataset.url)  # an arm before may have added another
    if name in dataset.manifest["selections"]:
        return name
    for shard, uids, weight in zip(dataset.shards, rows.uids, weights, strict=True):
        reason = pc.if_else(pa.array(weight > 0), pa.scalar(None, pa.string()), pa.scalar("random"))
        table = pa.table({"uid": uids, "weight": pa.array(weight, pa.int32()), "reason": reason})
        dataset.folder.write_table(f"selections/{name}/{shard.name}.parquet", table, {"stage": STAGE})
    kept, of = int(sum((weight > 0).sum() for weight in weights)), rows.size
    entry = {"stage": STAGE, "parent": parent, "kept": kept, "of": of}
    selections = {**dataset.manifest["selections"], name: entry}
    summary = f"{STAGE}: {kept:,} of {of:,} pairs as {name}"
    dataset.after(STAGE, {"name": name, "parent": parent}, summary, entry, selections=selections).save()
    return name


def _sum(dataset: Dataset, selection: str | None) -> str:
    """Changes with the shards and with what the selection is."""
    about = dataset.manifest["selections"][selection] if selection else None
    return fingerprint([dataset.shards_fingerprint(), selection, about])
