"""Pictures that belong together: the largest groups of duplicates, and what the pool and a benchmark both hold."""

from typing import Any

import pyarrow as pa

from curate.dataset import Dataset
from curate.report import duplicates as groups_of
from curate.report.thumbnails import Picture, Thumbnails, thumbnail

GROUPS = 12
MEMBERS = 5
OVERLAPS, LEAST_OVERLAPS = 48, 2  # pairs of pictures over all benchmarks, and of each
PDQ_BITS, ORB_DOUBT = 256, 5.0  # 60 inliers are as sure as 21 of 256 bits

Strip = tuple[str, str, list[tuple[str, str]]]  # title, note, (uid, words under the picture)


def duplicates(table: pa.Table) -> list[Strip]:
    """The largest groups, then others by the uid of their keeper; the keeper first in each."""
    found = groups_of.inside(table)
    if not len(found):
        return []
    counts = [(row["values"], row["counts"]) for row in found["keeper"].value_counts().to_pylist()]
    ranked = [keeper for keeper, _ in sorted(counts, key=lambda item: (-item[1], item[0]))]
    chosen = [*ranked[: GROUPS // 3], *sorted(ranked[GROUPS // 3 :])[: GROUPS - GROUPS // 3]]
    sizes = dict(counts)
    strips = []
    for keeper in chosen:
        rows = found.filter(pa.compute.equal(found["keeper"], keeper))
        members = _mixed(rows.sort_by([("distance", "ascending"), ("uid", "ascending")]).to_pylist())
        words = [(keeper, "kept"), *((row["uid"], told(row)) for row in members)]
        strips.append((f"{sizes[keeper] + 1:,} pictures", keeper, words))
    return strips


def _mixed(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MEMBERS - 1 of a group, every signal that found one of them among them."""
    firsts = {row["signal"]: row for row in reversed(members)}
    chosen = [*firsts.values(), *(row for row in members if row not in firsts.values())][: MEMBERS - 1]
    return sorted(chosen, key=lambda row: (str(row["signal"]), row["distance"] or 0, row["uid"]))


def told(row: dict[str, Any]) -> str:
    """The signal, with the distance where one was measured, and the view that was found."""
    if row.get("inliers"):
        said = f"{row['signal']}, {row['inliers']} inliers"
    else:
        said = f"{row['signal']} {row['distance']:.3g}" if row["distance"] else f"{row['signal']}, equal"
    return said if row.get("view", "whole") == "whole" else f"{said}, {row['view']}"


def overlaps(dataset: Dataset) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """For each benchmark: a few pairs (benchmark_key, uid, signal, distance ...), the least certain first."""
    found = []
    names = dataset.folder.names("reports/overlap-*.parquet")
    most = max(LEAST_OVERLAPS, min(OVERLAPS // 2, OVERLAPS // max(1, len(names))))
    for name in names:
        rows = dataset.folder.read_table(name).to_pylist()
        surest: dict[tuple[str, str], dict[str, Any]] = {}
        for row in sorted(rows, key=_doubt):
            surest.setdefault((row["benchmark_key"], row["uid"]), row)
        doubtful = sorted(surest.values(), key=_doubt, reverse=True)
        firsts = {row["benchmark_key"]: row for row in reversed(doubtful)}
        others = [row for row in doubtful if firsts[row["benchmark_key"]] is not row]
        chosen = [*sorted(firsts.values(), key=_doubt, reverse=True), *others][:most]
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


def side_by_side(
    dataset: Dataset, name: str, pairs: list[dict[str, Any]], thumbnails: Thumbnails
) -> list[tuple[Picture, Picture]]:
    """The test image and the image of the pool, of each pair."""
    found = _benchmark_images(dataset, name, {pair["benchmark_key"] for pair in pairs})
    return [
        (
            thumbnails.foreign(pair["benchmark_key"], found.get(pair["benchmark_key"], ""), "test image"),
            thumbnails.picture(pair["uid"], told(pair)),
        )
        for pair in pairs
    ]


def _benchmark_images(dataset: Dataset, name: str, keys: set[str]) -> dict[str, str]:
    """Thumbnails by the benchmark's own key, from the copy that dedup measured; none where that was deleted since."""
    step = next((step for step in reversed(dataset.history) if step["stage"] == "dedup"), None)
    digest = (step or {"options": {}})["options"].get("against", {}).get(name)
    copy = Dataset.create(dataset.folder.within(f"work/dedup/{name}-{digest}").url)
    found = {}
    for shard in copy.shards:
        with shard.images() as encoded:
            for row in shard.rows().select(["key", "url"]).to_pylist():
                if row["url"] in keys:
                    found[row["url"]] = thumbnail(encoded[row["key"]])
    return found
