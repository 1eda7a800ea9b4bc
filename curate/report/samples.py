"""Which pictures the page shows: by score, around each cut, by the reason they were dropped.

Everything is chosen by value and uid, so the same dataset shows the same pictures.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset
from curate.report import galleries
from curate.report.collect import Gathered
from curate.report.conjunctions import split
from curate.report.galleries import Strip
from curate.report.thumbnails import Picture, Thumbnails

BINS = 8  # of the score column
PER_BIN = 16
BAND = 8  # pictures on each side of a cut
COLUMNS = 6  # with a cut, that are shown
PER_REASON = 8
REASONS = 8


@dataclass
class Shown:
    """What `choose` found: (title, note, pictures) strips and groups, and what the sliders know of the pictures."""

    column: str | None = None  # whose values order the strips of `scores`
    scores: list[tuple[str, str, list[Picture]]] = field(default_factory=list)
    cuts: list[tuple[str, str, list[Picture]]] = field(default_factory=list)
    reasons: list[tuple[str, str, list[Picture]]] = field(default_factory=list)
    groups: list[tuple[str, str, list[Picture]]] = field(default_factory=list)
    overlaps: list[tuple[str, str, list[tuple[Picture, Picture]]]] = field(default_factory=list)
    sliding: list[dict[str, Any]] = field(default_factory=list)  # uid, mask, value of each column
    failures: dict[str, str] = field(default_factory=dict)
    left_out: int = 0  # pictures that would make the page too large

    @property
    def count(self) -> int:
        strips = [pictures for _, _, pictures in [*self.scores, *self.cuts, *self.reasons, *self.groups]]
        every = [*strips, *([p for pair in pairs for p in pair] for _, _, pairs in self.overlaps)]
        return len({picture.uid for pictures in every for picture in pictures})


def choose(dataset: Dataset, gathered: Gathered, blur: str = "nsfw") -> Shown:
    """The pictures of the page, read in one pass over the shards that hold them."""
    column = score_column(gathered)
    scores, cuts, reasons = _by_score(gathered, column), _around_cuts(gathered), _by_reason(gathered)
    groups, overlaps = galleries.duplicates(gathered.rows.duplicates), galleries.overlaps(dataset)
    wanted = {uid for _, _, rows in [*scores, *cuts, *reasons, *groups] for uid, _ in rows}
    wanted |= {pair["uid"] for _, _, pairs in overlaps for pair in pairs}
    thumbnails = Thumbnails.read(dataset, gathered.rows.table, wanted, blur)
    shown = Shown(column, failures=dict(thumbnails.failures))
    for there, found in ((shown.scores, scores), (shown.cuts, cuts), (shown.reasons, reasons), (shown.groups, groups)):
        for title, note, rows in found:
            there.append((title, note, [thumbnails.picture(uid, words) for uid, words in rows]))
    for name, note, pairs in overlaps:
        shown.overlaps.append((name, note, galleries.side_by_side(dataset, name, pairs, thumbnails)))
    shown.sliding = _sliding(gathered, {uid for _, _, rows in [*scores, *cuts, *reasons] for uid, _ in rows})
    shown.left_out = thumbnails.left_out
    return shown


def score_column(gathered: Gathered) -> str | None:
    """The column whose values are shown in pictures: an image-text score if there is one, else what a rule cut."""
    numbers = [column for column in gathered.numbers["columns"] if column["kind"] == "numbers"]
    varied = [column for column in numbers if column["least"] < column["most"]]
    clip = [column for column in varied if column["signal"].split("(")[0] == "clip"]
    cut = [column for column in varied if column["cuts"]]
    measured = [column for column in varied if column["signal"]]
    chosen = [*clip, *cut, *measured, *varied]
    return chosen[0]["column"] if chosen else None


def _by_score(gathered: Gathered, name: str | None) -> list[Strip]:
    """A few pairs of each of BINS equal ranges of a column, by uid; the ends hold what lies beyond them."""
    if name is None:
        return []
    rows = gathered.rows.table
    rows = rows.filter(pc.and_(rows["considered"], pc.is_valid(rows[name]))).select(["uid", "kept", name])
    values = rows[name].cast(pa.float64()).to_numpy()
    if not len(values):
        return []
    low, high = np.quantile(values, [0.01, 0.99])
    edges = np.linspace(low, high, BINS + 1) if low < high else np.array([low, high])
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    kept = rows["kept"].to_numpy(zero_copy_only=False)
    strips = []
    for at in range(len(edges) - 1):
        here = np.flatnonzero(place == at)
        if not len(here):
            continue
        part = rows.take(pa.array(here)).sort_by("uid").slice(0, PER_BIN).sort_by([(name, "ascending")])
        words = [f"{value:.4g}" for value in part[name].to_pylist()]
        told = f"{name} {edges[at]:.3g} to {edges[at + 1]:.3g}"
        note = f"{int(kept[here].sum()):,} of {len(here):,} kept"
        strips.append((told, note, list(zip(part["uid"].to_pylist(), words, strict=True))))
    return strips


def _around_cuts(gathered: Gathered) -> list[Strip]:
    """Of every step that is one comparison: the pairs nearest to its cut on both sides."""
    strips: list[Strip] = []
    columns = (gathered.numbers["thresholds"] or {"columns": []})["columns"]
    for column in [column for column in columns if column["cut"] is not None][:COLUMNS]:
        name, cut = column["column"], column["edges"][column["cut"]]
        rows = gathered.rows.table
        rows = rows.filter(pc.and_(rows["considered"], pc.is_valid(rows[name]))).select(["uid", name])
        values = rows[name].cast(pa.float64())
        under = pc.less_equal(values, cut) if column["over"] else pc.less(values, cut)
        for side, order, inside in (("below", "descending", under), ("above", "ascending", pc.invert(under))):
            part = rows.filter(inside).sort_by([(name, order), ("uid", "ascending")]).slice(0, BAND)
            part = part.sort_by([(name, "ascending"), ("uid", "ascending")])
            words = [f"{value:.4g}" for value in part[name].to_pylist()]
            dropped = (side == "below") == column["above"]
            note = "dropped by this step" if dropped else "kept by this step"
            sign = ("≤" if column["over"] else "<") if side == "below" else (">" if column["over"] else "≥")
            if len(part):
                strips.append(
                    (f"{name} {sign} {cut:.4g}", note, list(zip(part["uid"].to_pylist(), words, strict=True)))
                )
    return strips


def _by_reason(gathered: Gathered) -> list[Strip]:
    """What the newest filter dropped, a few of each step; those that only this step drops first."""
    last = next((one for one in reversed(gathered.rows.selections) if one.stage == "filter"), None)
    if last is None:
        return []
    rows = gathered.rows.table
    steps = (gathered.numbers["filter"] or {"counts": {}})["counts"].get("funnel", [])
    strips = []
    for index, step in list(enumerate(steps))[:REASONS]:
        name = step["step"]
        part = rows.filter(pc.and_(rows["considered"], pc.fill_null(pc.equal(rows["reason"], name), False)))
        if not len(part):
            continue
        alone = pc.not_equal(part["failed"], pa.scalar(1 << index, pa.uint64()))
        part = part.append_column("others", alone).sort_by([("others", "ascending"), ("uid", "ascending")])
        part = part.slice(0, PER_REASON)
        words = ["by other steps too" if others else "" for others in part["others"].to_pylist()]
        note = f"{last.reasons[name]:,} pairs, {step.get('only', 0):,} by this step only"
        strips.append((name, note, list(zip(part["uid"].to_pylist(), words, strict=True))))
    return strips


def _sliding(gathered: Gathered, uids: set[str]) -> list[dict[str, Any]]:
    """What a slider must know of each picture: which combination of steps it fails, and its value of each column."""
    told = gathered.numbers["thresholds"]
    if told is None:
        return []
    rows = gathered.rows.table
    funnel = (gathered.numbers["filter"] or {"counts": {}})["counts"].get("funnel", [])
    base, rules = split(rows.filter(rows["considered"]), funnel)
    part = base.filter(pc.is_in(base["uid"], pa.array(sorted(uids), pa.string()))).sort_by("uid")
    steps = len(rules)
    values = [part[column["column"]].to_pylist() for column in told["columns"]]
    failed = part["failed"].to_pylist()
    return [
        {"uid": uid, "fails": [bit if bit < steps else steps for bit in range(64) if failed[at] >> bit & 1],
         "values": [column[at] for column in values]}
        for at, uid in enumerate(part["uid"].to_pylist())
    ]  # fmt: skip
