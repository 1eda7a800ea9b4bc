"""Which pictures the page shows: by score, by the reason they were dropped, duplicate groups, benchmark overlap.

Everything is chosen by value and uid, so the same dataset shows the same pictures.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset
from curate.report.collect import Gathered, latest
from curate.report.thumbnails import Thumbnails, thumbnail

STRIP = 14  # pictures in one strip of a score
PER_REASON = 7
REASONS = 8
GROUPS = 12
MEMBERS = 5
OVERLAPS = 24
PDQ_BITS, ORB_DOUBT = 256, 5.0  # 60 inliers are as sure as 21 of 256 bits


@dataclass
class Picture:
    """One thumbnail and the words under it."""

    uid: str
    image: str  # data URI, "" where the picture cannot be shown
    caption: str
    note: str = ""


@dataclass
class Shown:
    """What `choose` found: (title, note, pictures) strips and groups."""

    scores: list[tuple[str, str, list[Picture]]] = field(default_factory=list)
    reasons: list[tuple[str, str, list[Picture]]] = field(default_factory=list)
    groups: list[tuple[str, str, list[Picture]]] = field(default_factory=list)
    overlaps: list[tuple[str, str, list[tuple[Picture, Picture]]]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        strips = [pictures for _, _, pictures in [*self.scores, *self.reasons, *self.groups]]
        return sum(map(len, strips)) + 2 * sum(len(pairs) for _, _, pairs in self.overlaps)


def choose(dataset: Dataset, gathered: Gathered) -> Shown:
    """The pictures of the page, read in one pass over the shards that hold them."""
    strips = _score_strips(gathered)
    reasons = _reason_strips(gathered)
    groups = _duplicate_groups(gathered)
    overlaps = _overlaps(dataset)
    wanted = {uid for _, _, rows in [*strips, *reasons, *groups] for uid, _ in rows}
    wanted |= {pair["uid"] for _, _, pairs in overlaps for pair in pairs}
    thumbnails = Thumbnails.read(dataset, gathered.rows, wanted)
    shown = Shown(failures=dict(thumbnails.failures))
    for there, found in ((shown.scores, strips), (shown.reasons, reasons), (shown.groups, groups)):
        for title, note, rows in found:
            there.append((title, note, [_picture(thumbnails, uid, words) for uid, words in rows]))
    for name, note, pairs in overlaps:
        shown.overlaps.append((name, note, _side_by_side(dataset, name, pairs, thumbnails)))
    return shown


def score_column(gathered: Gathered) -> str | None:
    """The column whose values are shown in pictures: an image-text score if there is one, else what a rule cut."""
    numbers = [column for column in gathered.numbers["columns"] if column["kind"] == "numbers"]
    clip = [column for column in numbers if column["signal"].split("(")[0] == "clip"]
    fractions = [column for column in numbers if column["column"] in gathered.rows.column_names]
    cut = [column for column in fractions if column["cuts"]]
    chosen = [*clip, *cut, *fractions]
    return chosen[0]["column"] if chosen else None


Strip = tuple[str, str, list[tuple[str, str]]]  # title, note, (uid, words under the picture)


def _score_strips(gathered: Gathered) -> list[Strip]:
    name = score_column(gathered)
    if name is None:
        return []
    rows = gathered.rows.filter(pc.and_(gathered.rows["considered"], pc.is_valid(gathered.rows[name])))
    rows = rows.sort_by([(name, "ascending"), ("uid", "ascending")])
    values = rows[name].cast(pa.float64()).to_numpy()
    strips = []
    column = next(column for column in gathered.numbers["columns"] if column["column"] == name)
    for title, start in _places(values, column["cuts"]):
        part = rows.slice(start, STRIP)
        words = [f"{name} {value:.4g}" for value in values[start : start + STRIP]]
        strips.append((title, name, list(zip(part["uid"].to_pylist(), words, strict=True))))
    return strips


def _places(values: np.ndarray, cuts: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Where the strips begin in the sorted values; strips never overlap."""
    count = len(values)
    places = [("lowest", 0), ("middle", max(0, count // 2 - STRIP // 2)), ("highest", max(0, count - STRIP))]
    for cut in cuts[:1]:
        at = int(np.searchsorted(values, cut["value"]))
        places += [(f"just below {cut['value']:g}", max(0, at - STRIP)), (f"just above {cut['value']:g}", at)]
    found: list[tuple[str, int]] = []
    for title, start in sorted(places, key=lambda place: place[1]):
        if start < count and (not found or start >= found[-1][1] + STRIP):
            found.append((title, start))
    return found


def _reason_strips(gathered: Gathered) -> list[Strip]:
    """What the newest filter dropped, a few of each reason."""
    last = next((s for s in reversed(gathered.numbers["selections"]) if s["stage"] == "filter"), None)
    if last is None:
        return []
    table = gathered.choices[last["name"]]
    strips = []
    for reason, count in list(last["reasons"].items())[:REASONS]:
        uids = sorted(table.filter(pc.equal(table["reason"], reason))["uid"].to_pylist())[:PER_REASON]
        strips.append((reason, f"{count:,} pairs", [(uid, "") for uid in uids]))
    return strips


def _duplicate_groups(gathered: Gathered) -> list[Strip]:
    """The largest groups, then others by the uid of their keeper; the keeper first in each."""
    last = next((s for s in reversed(gathered.numbers["selections"]) if s["stage"] == "dedup"), None)
    if last is None or "keeper" not in gathered.choices[last["name"]].column_names:
        return []
    table = gathered.choices[last["name"]]
    inside = pc.and_(pc.is_valid(table["keeper"]), pc.invert(pc.starts_with(table["reason"], "benchmark")))
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table.filter(inside).sort_by([("distance", "ascending"), ("uid", "ascending")]).to_pylist():
        groups.setdefault(row["keeper"], []).append(row)
    ranked = sorted(groups, key=lambda keeper: (-len(groups[keeper]), keeper))
    chosen = [*ranked[: GROUPS // 3], *sorted(ranked[GROUPS // 3 :])[: GROUPS - GROUPS // 3]]
    strips = []
    for keeper in chosen:
        members = _mixed(groups[keeper])
        words = [(keeper, "kept"), *((row["uid"], _told(row)) for row in members)]
        strips.append((f"{len(groups[keeper]) + 1} pictures", keeper, words))
    return strips


def _mixed(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MEMBERS - 1 of a group, every signal that found one of them among them."""
    firsts = {row["signal"]: row for row in reversed(members)}
    chosen = [*firsts.values(), *(row for row in members if row not in firsts.values())][: MEMBERS - 1]
    return sorted(chosen, key=lambda row: (str(row["signal"]), row["distance"] or 0, row["uid"]))


def _told(row: dict[str, Any]) -> str:
    """The signal, with the distance where one was measured, and the view that was found."""
    if row.get("inliers"):
        said = f"{row['signal']}, {row['inliers']} inliers"
    else:
        said = f"{row['signal']} {row['distance']:.3g}" if row["distance"] else f"{row['signal']}, equal"
    return said if row.get("view", "whole") == "whole" else f"{said}, {row['view']}"


def _overlaps(dataset: Dataset) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """For each benchmark: a few pairs (benchmark_key, uid, signal, distance ...), the least certain first."""
    found = []
    for name in dataset.folder.names("reports/overlap-*.parquet"):
        rows = dataset.folder.read_table(name).to_pylist()
        surest: dict[tuple[str, str], dict[str, Any]] = {}
        for row in sorted(rows, key=_doubt):
            surest.setdefault((row["benchmark_key"], row["uid"]), row)
        doubtful = sorted(surest.values(), key=_doubt, reverse=True)
        firsts = {row["benchmark_key"]: row for row in reversed(doubtful)}
        others = [row for row in doubtful if firsts[row["benchmark_key"]] is not row]
        chosen = [*sorted(firsts.values(), key=_doubt, reverse=True), *others][:OVERLAPS]
        benchmark = name.removeprefix("reports/overlap-").removesuffix(".parquet")
        note = f"{len(firsts):,} benchmark images, {len(surest):,} pairs; the least certain first"
        found.append((benchmark, note, chosen))
    return found


def _doubt(row: dict[str, Any]) -> tuple[float, str, str]:
    """Between 0, equal, and 1; then the keys, so that the order is always the same."""
    distance = row["distance"] or 0.0
    if row.get("inliers"):
        doubt = ORB_DOUBT / row["inliers"]
    else:
        doubt = distance / PDQ_BITS if distance > 1 else distance
    return doubt, row["benchmark_key"], row["uid"]


def _side_by_side(
    dataset: Dataset, name: str, pairs: list[dict[str, Any]], thumbnails: Thumbnails
) -> list[tuple[Picture, Picture]]:
    images = _benchmark_images(dataset, name, {pair["benchmark_key"] for pair in pairs})
    return [
        (
            Picture(pair["benchmark_key"], images.get(pair["benchmark_key"], ""), pair["benchmark_key"], "test image"),
            _picture(thumbnails, pair["uid"], _told(pair)),
        )
        for pair in pairs
    ]


def _benchmark_images(dataset: Dataset, name: str, keys: set[str]) -> dict[str, str]:
    """Thumbnails by the benchmark's own key, from the copy that dedup measured; none where that was deleted since."""
    step = latest(dataset, "dedup")
    digest = (step or {"options": {}})["options"].get("against", {}).get(name)
    copy = Dataset.create(dataset.folder.within(f"work/dedup/{name}-{digest}").url)
    found = {}
    for shard in copy.shards:
        with shard.images() as encoded:
            for row in shard.rows().select(["key", "url"]).to_pylist():
                if row["url"] in keys:
                    found[row["url"]] = thumbnail(encoded[row["key"]])
    return found


def _picture(thumbnails: Thumbnails, uid: str, note: str) -> Picture:
    return Picture(uid, thumbnails.images.get(uid, ""), thumbnails.captions.get(uid, ""), note)
