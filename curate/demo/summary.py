"""What the demo found, beside what was staged: counts, copies, wrong texts, scores beside chance."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.dataset import Dataset
from curate.demo.prepare import Demo
from curate.files import Folder


def gather(demo: Demo, facts: dict[str, Any]) -> dict[str, Any]:
    """All numbers of the closing table, as JSON."""
    dataset = Dataset.open(demo.path("dataset"))
    truth = demo.folder.read_table("truth.parquet")
    newest = {step["stage"]: step["counts"] for step in dataset.history}
    dedup, filtered = dataset.parent_for("filter"), dataset.selection
    return {
        "harvest": newest["harvest"],
        "dedup": newest["dedup"],
        "filter": newest["filter"],
        "leaks": _leaks(dataset, truth, facts),
        "removed": _removed(_chosen(dataset, filtered), truth),
        "kept_by_dedup": len(_kept(_chosen(dataset, dedup))),
        "runs": {name: _run(demo.folder.within(name)) for name in ("run-1", "run-2")},
    }


def told(found: dict[str, Any], seconds: dict[str, float]) -> str:
    """The closing table."""
    harvest, dedup, leaks, removed = found["harvest"], found["dedup"], found["leaks"], found["removed"]
    failed = ", ".join(f"{count} {status}" for status, count in sorted(harvest["failed"].items()))
    duplicates = ", ".join(f"{count:,} {signal}" for signal, count in sorted(dedup["duplicates"].items()))
    wrong, others = removed["wrong"], removed["english"]
    score = found["filter"]["funnel"][-1]
    lines = [
        "",
        "Counts",
        *_table([
            ("rows in the pool", f"{harvest['pool']:,}", ""),
            ("texts that hold a query", f"{harvest['matched']:,}", f"{harvest['queries_matched']:,} queries matched"),
            ("drawn under the cap", f"{harvest['selected']:,}", f"{harvest['queries_capped']:,} queries over the cap"),
            ("images downloaded", f"{harvest['downloaded']:,}", f"failed: {failed}"),
            ("kept by dedup", f"{dedup['kept']:,}", f"dropped: {duplicates} duplicates"),
            ("kept by filter", f"{found['filter']['kept']:,}", f"score >= {score['threshold']:.3f}"),
        ]),
        "",
        "Found beside what was staged",
        *_table([
            ("copies of test images", f"{leaks['found']} of {leaks['in_dataset']}",
             f"found by dedup ({leaks['planted']} were planted, the cap and the queries left out the others)"),
            ("", "", ", ".join(f"{about['found']} of {about['in_dataset']} {change}"
                               for change, about in leaks["by_change"].items())),
            ("other test images", f"{leaks['alike']}", "have a look-alike in the pool that is no planted copy"),
            ("wrong texts", f"{wrong['by_score']:.0%}", f"of {wrong['of']} dropped by the clip score, "
             f"against {others['by_score']:.0%} of {others['of']:,} right English texts"),
            ("texts in other languages", f"{removed['foreign']['dropped']:.0%}",
             f"of {removed['foreign']['of']} dropped by all rules"),
        ]),
        "",
        "Models. The score above is run-1's own, and run-1 was trained on the wrong texts too: offline there are no",
        "pretrained weights. With a network: --signal \"clip(model=ViT-B-32, pretrained=laion2b_s34b_b79k)\".",
        "run-1 stops early, before it learns the wrong texts by heart; run-2 trains longer on cleaner data, so their",
        "difference is of both.",
        *_table(_models(found["runs"])),
        "",
        "Seconds",
        *_table([(title, f"{value:.0f}", "") for title, value in seconds.items()]),
    ]  # fmt: skip
    return "\n".join(lines)


def _models(runs: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for name, about in runs.items():
        rows.append((name, f"{about['pairs']:,} pairs", f"loss {about['first_loss']:.2f} -> {about['last_loss']:.2f}"))
        for measure, value, chance in about["measures"]:
            rows.append((f"  {measure}", f"{value:.1%}", f"chance {chance:.1%}"))
    return rows


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    first, second = (max(len(row[at]) for row in rows) for at in (0, 1))
    return [f"  {a:<{first}}  {b:>{second}}  {c}".rstrip() for a, b, c in rows]


def _leaks(dataset: Dataset, truth: pa.Table, facts: dict[str, Any]) -> dict[str, Any]:
    """Planted copies that are in the dataset, and how many of them dedup found, by how the copy was changed."""
    here = pa.concat_tables([shard.rows().select(["uid"]) for shard in dataset.shards])["uid"]
    planted = truth.filter(
        pc.and_(pc.not_equal(truth["benchmark_key"], ""), pc.is_in(truth["uid"], here.combine_chunks()))
    )
    matches = (
        dataset.folder.read_table("reports/overlap-benchmark.parquet").select(["benchmark_key", "uid"]).to_pylist()
    )
    pairs = {(row["benchmark_key"], row["uid"]) for row in matches}
    by_change: dict[str, dict[str, int]] = {}
    copied = set()
    for row in planted.sort_by("form").to_pylist():
        about = by_change.setdefault(row["form"], {"in_dataset": 0, "found": 0})
        about["in_dataset"] += 1
        about["found"] += (row["benchmark_key"], row["uid"]) in pairs
        copied.add(row["benchmark_key"])
    return {
        "planted": facts["planted"],
        "in_dataset": sum(about["in_dataset"] for about in by_change.values()),
        "found": sum(about["found"] for about in by_change.values()),
        "alike": len({key for key, _ in pairs} - copied),
        "by_change": by_change,
    }


def _chosen(dataset: Dataset, selection: str | None) -> pa.Table:
    tables = [dataset.folder.read_table(f"selections/{selection}/{shard.name}.parquet") for shard in dataset.shards]
    return pa.concat_tables(tables)


def _kept(chosen: pa.Table) -> pa.Table:
    return chosen.filter(pc.greater(chosen["weight"], 0))


def _removed(chosen: pa.Table, truth: pa.Table) -> dict[str, Any]:
    """For each kind of text: how many the filter looked at, the share dropped at all and by the score alone."""
    kinds = dict(zip(truth["uid"].to_pylist(), truth["kind"].to_pylist(), strict=True))
    rows = chosen.select(["uid", "weight", "reason"]).to_pylist()
    score = [row["reason"] for row in rows if row["reason"] and row["reason"].startswith("top")]
    found = {}
    for kind in sorted(set(kinds.values())):
        own = [row for row in rows if kinds[row["uid"]] == kind]
        total = max(len(own), 1)
        found[kind] = {
            "of": len(own),
            "dropped": sum(row["weight"] == 0 for row in own) / total,
            "by_score": sum(row["reason"] in score for row in own) / total,
        }
    return found


def _run(folder: Folder) -> dict[str, Any]:
    about, found = folder.read_json("run.json"), folder.read_json("eval/benchmark.json")
    shot, recalls = found["zero_shot"], found["retrieval"]
    measures = [("zero-shot top-1", shot["top1"]["value"], shot["chance"])]
    for way, words in (("image_to_text", "image to text"), ("text_to_image", "text to image")):
        measures += [(f"{words} R@{k}", recalls[way][f"recall@{k}"]["value"], recalls[way]["chance"][f"recall@{k}"])
                     for k in (1, 10)]  # fmt: skip
    numbers = about["numbers"]
    return {"pairs": about["data"]["samples"], "first_loss": numbers["first_loss"], "last_loss": numbers["last_loss"],
            "seconds": numbers["seconds"], "measures": measures}  # fmt: skip
