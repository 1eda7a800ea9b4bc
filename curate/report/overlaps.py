"""What benchmarks and the pool have in common, and what that does to a model: rows of tables, points of a chart."""

from typing import Any

Cells = list[Any]
OVERLAP = {
    "images": "test images",
    "compared": "compared",
    "overlapping": "of them in the pool",
    "share": "per cent",
    "pool_rows": "pool rows dropped",
    "confirmed": "by local features alone",
    "twins": "held twice",
    "blank": "blank",
    "low_quality": "too little to see",
    "unreadable": "unreadable",
}
CONTAMINATION = ["benchmark", "accuracy on all", "clean", "overlap", "all - clean", "99.5 % interval of overlap", "p",
                 "p, corrected", "significant"]  # fmt: skip
METHOD = (
    "p is the chance of so many right answers on the overlap if it were no easier than the clean images (one-tailed "
    "binomial), then corrected for the number of benchmarks (Bonferroni)."
)


def overlap(told: dict[str, Any]) -> tuple[list[str], list[Cells]]:
    """Head and rows of dedup's counts for each benchmark."""
    rows = [[name, *(about.get(key) for key in OVERLAP)] for name, about in sorted(told.items())]
    return ["benchmark", *OVERLAP.values()], rows


def contamination(found: dict[str, Any]) -> list[Cells]:
    """Rows for CONTAMINATION."""
    rows = []
    for name, about in sorted(found.items()):
        shares = [_per_cent(about[part]["accuracy"]) for part in ("all", "clean", "overlap")]
        interval = " to ".join(_per_cent(end) for end in about["interval"]) if about["interval"] else None
        chances = [about["p"], about["p_corrected"], "yes" if about["significant"] else "no"]
        rows.append([name, *shares, _per_cent(about["difference"]), interval, *chances])
    return rows


def points(found: dict[str, Any]) -> list[tuple[str, float, float, float, float]]:
    """(benchmark, per cent of images that overlap, and in points of accuracy: overlap less clean, its interval)."""
    drawn = []
    for name, about in sorted(found.items()):
        clean = about["clean"]["accuracy"]
        if about["interval"] and clean is not None:
            share = 100 * about["overlap"]["images"] / about["all"]["images"]
            gains = [100 * (value - clean) for value in (about["overlap"]["accuracy"], *about["interval"])]
            drawn.append((name, share, *gains))
    return drawn


def _per_cent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
