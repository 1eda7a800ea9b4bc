"""What of the pool a benchmark holds: the benchmark is the index, the pool streams past it, a shard at a time.

What lies within the threshold is certain; what lies beyond it, as far as a copy may, is a candidate that local
features must confirm (`verify`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from curate import named
from curate.dataset import Dataset, fingerprint
from curate.dedup import verify
from curate.dedup.codes import Codes, Comparison, check_images_only, comparisons, read
from curate.dedup.index import Index, Near, Side, load
from curate.dedup.measured import WORK, Measured
from curate.errors import CurateError
from curate.shard import Shard
from curate.work import Engine, Report, run_all

TRIMMED = {"pdq": "trimmed"}  # what shows the pool's pictures without their borders, to the same index
# PDQ on 3.7e6 pairs of unlike photographs, half of them of garments alone: one in 2e6 lies within 55 bits of a view,
# and ten times fewer for each 10 bits less. An image of a benchmark shall have a false partner in 1 of 100.
LOOSEST, ROWS_AT_LOOSEST, STRICTEST, PER_DECADE = 55, 20_000, 20, 10
CONFIDENT = 31  # bits: where local features tell the rest, there is no need to go further
GRAY_BITS, GRAY_SIMILARITY = 35, 0.3  # beyond the threshold: how far a copy may lie that features must confirm
THUMBNAILS = 31  # bits, where most images of the benchmark are under 64 pixels
FOUND = pa.schema(
    [("image", pa.int32()), ("uid", pa.string()), ("signal", pa.string()), ("distance", pa.float64()),
     ("view", pa.string()), ("certain", pa.bool_())]
)  # fmt: skip
SCHEMA = pa.schema(
    [("benchmark_key", pa.string()), ("uid", pa.string()), ("signal", pa.string()), ("distance", pa.float64()),
     ("view", pa.string()), ("verified", pa.bool_()), ("inliers", pa.int32())]
)  # fmt: skip
ORDER = [(name, "ascending") for name in ("benchmark_key", "uid", "signal", "shard")]


@dataclass(frozen=True)
class Overlap:
    """matches: SCHEMA and the shard, sorted. compared: images of the benchmark that could match. numbers: of
    candidates, for the history."""

    matches: pa.Table
    compared: int
    numbers: dict[str, int]


def compare_by(signals: Sequence[str], against: Sequence[str], thresholds: Mapping[str, float],
               against_thresholds: Mapping[str, float]) -> list[Comparison]:  # fmt: skip
    """What tells overlap: the signals `against`, or, where none is named, PDQ and those `signals` of the pool that are
    no hashes: in many views a hash of 64 bits is near to anything. Raises CurateError."""
    hashes = {text for text in signals if getattr(named.load("signals", text), "distance", None) == "hamming"}
    chosen = list(against) or [*(text for text in signals if text not in hashes), "pdq"]
    slugs = {named.parse(text).slug for text in chosen}
    shared = {name: value for name, value in thresholds.items() if name in slugs}
    found = comparisons(chosen, {**shared, **against_thresholds}, "--against-threshold")
    check_images_only(found)
    return found


def at_scale(compared: Sequence[Comparison], rows: int, verify: bool, given: Mapping[str, float]) -> list[Comparison]:
    """The same with PDQ's threshold for a pool of so many rows, unless it is among the `given` ones."""
    chosen = min(pdq_threshold(rows), CONFIDENT) if verify else pdq_threshold(rows)
    return [replace(each, threshold=float(chosen)) if second_look(each) and each.signal not in given else each
            for each in compared]  # fmt: skip


def measured_by(compared: Sequence[Comparison]) -> list[str]:
    """The signals that the pool must be measured by."""
    looks = [look for each in compared for look in (each, second_look(each)) if look]
    return [look.text for look in looks]


def pdq_threshold(rows: int) -> int:
    """Bits of 256 within which a pool of so many rows may be trusted: 55 up to 20,000 rows, 10 fewer for each tenfold,
    never under 20."""
    decades = math.log10(max(rows, ROWS_AT_LOOSEST) / ROWS_AT_LOOSEST)
    return max(STRICTEST, int(LOOSEST - PER_DECADE * decades))


def reach(comparison: Comparison, rows: int) -> float | None:
    """How far from its image a candidate may lie, in bits or as the least similarity; None where there are none."""
    if comparison.kind == "cosine":
        return comparison.threshold - GRAY_SIMILARITY
    if second_look(comparison) is None:
        return None
    return max(comparison.threshold, pdq_threshold(rows)) + GRAY_BITS


def find(dataset: Dataset, pool: Sequence[Shard], measured: Measured, compared: Sequence[Comparison], rows: int,
         candidates: int, engine: str | Engine, device: str, everywhere: bool = False) -> Overlap:  # fmt: skip
    """The rows of every pool shard that show an image of the benchmark, with the name of their shard, sorted.

    rows: of the pool. candidates: how many of each image local features look at, 0 for none. everywhere: pictures that
    have only a background in common are no copies.
    """
    if measured.thumbnails:
        compared = [_strict(comparison) for comparison in compared]
        candidates = 0
    reaches = tuple(reach(comparison, rows) if candidates else None for comparison in compared)
    task = Against(dataset, measured, tuple(compared), reaches, candidates, device)
    outcome = _all_of(run_all(task, pool, engine, f"against {measured.name}"))
    certain, doubtful = [], verify.Chosen(candidates, _vectors(compared))
    for shard in pool:
        found = dataset.folder.read_table(task.output(shard)).replace_schema_metadata()
        found = found.append_column("shard", pa.array([shard.name] * len(found), pa.string()))
        certain.append(found.filter(found["certain"]))
        doubtful.add(found.filter(pa.compute.invert(found["certain"])))
    parts = [_matches(measured, table) for table in certain]
    chosen = doubtful.table()
    numbers = {"candidates": int(outcome.total("candidates")), "checked": len(chosen), "confirmed": 0}
    if len(chosen):
        confirmed = verify.confirm(dataset, pool, measured, chosen, task.folder, engine, everywhere)
        numbers["confirmed"] = len(confirmed)
        parts.append(_confirmed(measured, confirmed))
    empty = SCHEMA.append(pa.field("shard", pa.string())).empty_table()
    comparable = load(measured.folder.url, tuple(compared), "cpu").compared
    return Overlap(pa.concat_tables([empty, *parts]).sort_by(ORDER), comparable, numbers)


@dataclass(frozen=True)
class Against:
    """Write what of one pool shard lies near a measured benchmark, unless the file is there already: all that is
    certain, and of each benchmark image the `candidates` nearest that are not."""

    dataset: Dataset
    measured: Measured
    comparisons: tuple[Comparison, ...]
    reaches: tuple[float | None, ...]
    candidates: int
    device: str

    def __call__(self, shard: Shard) -> Report:
        made_by, name = self._made_by(shard), self.output(shard)
        if (before := shard.folder.made_by(name)) is not None and _without_counts(before) == made_by:
            return Report(str(shard), 0, {"candidates": before["candidates_found"]}, skipped=True)
        index = load(self.measured.folder.url, self.comparisons, self.device)
        uids = self.dataset.measured(shard, self.comparisons[0].signal)["uid"].combine_chunks()
        certain, doubtful = [], []
        for side, codes, limit in self._looks(shard, index):
            near = side.near(codes, limit)
            sure = near.distance <= _limit(codes.comparison)
            certain.append((codes.comparison.signal, _those(near, sure)))
            doubtful.append((codes.comparison.signal, _those(near, ~sure)))
        known = _pairs([near for _, near in certain], index.count)
        doubtful = [(signal, _those(near, ~np.isin(_pairs([near], index.count), known))) for signal, near in doubtful]
        count = len(np.unique(_pairs([near for _, near in doubtful], index.count)))
        tables = [_table(signal, near, uids, index, True) for signal, near in certain]
        tables += [_table(signal, near, uids, index, False) for signal, near in doubtful]
        found = pa.concat_tables([FOUND.empty_table(), *tables])
        sure = found.filter(found["certain"])
        gray = found.filter(pa.compute.invert(found["certain"]))
        rest = verify.nearest(gray, self.candidates, _vectors(self.comparisons))
        order = [(column, "ascending") for column in ("image", "uid", "signal")]
        found = pa.concat_tables([sure, rest]).sort_by(order)
        shard.folder.write_table(name, found, {**made_by, "candidates_found": count})
        return Report(str(shard), len(sure), {"candidates": count})

    @property
    def folder(self) -> str:
        how = fingerprint([[str(comparison) for comparison in self.comparisons], self.reaches, self.candidates])
        return f"{WORK}/{self.measured.name}-{self.measured.digest}-{how}"

    def output(self, shard: Shard) -> str:
        return f"{self.folder}/{shard.name}.parquet"

    def _looks(self, shard: Shard, index: Index) -> list[tuple[Side, Codes, float | None]]:
        """Every index with the codes that are looked up in it, and how far."""
        looks: list[tuple[Side, Codes, float | None]] = []
        sides = iter(index.sides)
        for comparison, limit in zip(self.comparisons, self.reaches, strict=True):
            second = second_look(comparison)
            for codes in read(self.dataset, shard, comparison):
                side = next(sides)
                looks.append((side, codes, limit))
                looks += [(side, more, limit) for more in (read(self.dataset, shard, second) if second else ())]
        return looks

    def _made_by(self, shard: Shard) -> dict[str, Any]:
        signals = [each.signal for one in self.comparisons for each in (one, second_look(one)) if each]
        return {
            "benchmark": self.measured.digest,
            "comparisons": [str(comparison) for comparison in self.comparisons],
            "reaches": list(self.reaches),
            "candidates": self.candidates,
            "signals": {name: shard.folder.made_by(f"signals/{name}/{shard.name}.parquet") for name in signals},
        }


def second_look(comparison: Comparison) -> Comparison | None:
    """The signal that shows the pool's pictures without their borders to the index of this one, or None."""
    name = TRIMMED.get(named.parse(comparison.spec).name)
    return replace(comparison, spec=name, signal=name) if name else None


def _vectors(compared: Sequence[Comparison]) -> list[str]:
    return [comparison.signal for comparison in compared if comparison.kind == "cosine"]


def _strict(comparison: Comparison) -> Comparison:
    """For thumbnails."""
    if named.parse(comparison.spec).name not in TRIMMED:
        return comparison
    return replace(comparison, threshold=min(comparison.threshold, THUMBNAILS))


def _limit(comparison: Comparison) -> float:
    """The largest distance that is certain."""
    return {"equal": 0.0, "hamming": comparison.threshold, "cosine": 1 - comparison.threshold + 1e-9}[comparison.kind]


def _those(near: Near, wanted: np.ndarray) -> Near:
    return Near(*(column[wanted] for column in near))


def _pairs(nears: Sequence[Near], images: int) -> np.ndarray:
    """One number for each pair of a pool row and a benchmark row."""
    return np.concatenate([near.row.astype(np.int64) * images + near.image for near in nears])


def _table(signal: str, near: Near, uids: pa.Array, index: Index, certain: bool) -> pa.Table:
    """FOUND, one row for each pair: a signal with several columns may find one twice."""
    _, first = np.unique(_pairs([near], index.count), return_index=True)
    near = _those(near, first)
    count = len(first)
    columns = [pa.array(near.image, pa.int32()), uids.take(pa.array(near.row)), pa.array([signal] * count, pa.string()),
               pa.array(near.distance, pa.float64()), pa.array(index.views, pa.string()).take(pa.array(near.view)),
               pa.array([certain] * count, pa.bool_())]  # fmt: skip
    return pa.table(columns, schema=FOUND)


def _matches(measured: Measured, found: pa.Table) -> pa.Table:
    count = len(found)
    return pa.table(
        {"benchmark_key": measured.keys.take(found["image"].combine_chunks()), "uid": found["uid"],
         "signal": found["signal"], "distance": found["distance"], "view": found["view"],
         "verified": pa.array([False] * count, pa.bool_()), "inliers": pa.nulls(count, pa.int32()),
         "shard": found["shard"]}
    )  # fmt: skip


def _confirmed(measured: Measured, found: pa.Table) -> pa.Table:
    """What local features confirmed: signal "orb", distance the number of inliers."""
    count = len(found)
    return pa.table(
        {"benchmark_key": measured.keys.take(found["image"].combine_chunks()), "uid": found["uid"],
         "signal": pa.array(["orb"] * count, pa.string()), "distance": found["inliers"].cast(pa.float64()),
         "view": found["view"], "verified": pa.array([True] * count, pa.bool_()), "inliers": found["inliers"],
         "shard": found["shard"]}
    )  # fmt: skip


def _without_counts(made_by: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in made_by.items() if key != "candidates_found"}


def _all_of(outcome: Any) -> Any:
    if outcome.failures:  # these very files were read a moment ago
        raise CurateError("; ".join(outcome.failures.values()))
    return outcome
