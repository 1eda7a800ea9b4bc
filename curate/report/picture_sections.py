"""Sections of pictures: by score, around each cut, by the step that dropped them, duplicates, benchmark overlap."""

from typing import Any

from curate.report import charts, overlaps
from curate.report.elements import bars, figure, of, strip, table, text, tiles
from curate.report.samples import Shown

FRAMES = '<p class="key"><span class="kept">frame: kept</span><span class="dropped">frame: dropped</span></p>'


def samples(numbers: dict[str, Any], shown: Shown) -> str:
    """Pictures of each range of the score, lowest first."""
    if not shown.scores:
        return ""
    words = f"<p>Pairs of each range of <b>{text(shown.column)}</b>, drawn by uid, lowest first.{_left_out(shown)}</p>"
    return words + FRAMES + "".join(strip(*one) for one in shown.scores)


def _left_out(shown: Shown) -> str:
    return f" {shown.left_out:,} pictures are left out to keep the page small." if shown.left_out else ""


def cuts(numbers: dict[str, Any], shown: Shown) -> str:
    """The nearest pairs on both sides of each cut."""
    return FRAMES + "".join(strip(*one) for one in shown.cuts) if shown.cuts else ""


def reasons(numbers: dict[str, Any], shown: Shown) -> str:
    """What each step dropped, and no step before it; those that only this step drops first."""
    return "".join(strip(f"dropped by “{title}”", note, pictures) for title, note, pictures in shown.reasons)


def duplicates(numbers: dict[str, Any], shown: Shown) -> str:
    """How large the groups are, counted in images, and some of them."""
    step, found = numbers["dedup"], numbers["groups"]
    if not step:
        return ""
    counts = step["counts"]
    facts = [("pairs looked at", counts.get("of")), ("groups", counts.get("groups"))]
    facts += [(f"dropped by {name}", count) for name, count in sorted((counts.get("duplicates") or {}).items())]
    html = f"<p>{text(step['summary'])}</p>" + tiles([*facts, ("kept", counts.get("kept"))])
    if found:
        rows = [(f"{low} images" if low == high else f"{low} to {high} images", groups, 0, f"{images:,} images in all")
                for low, high, groups, images in found["sizes"]]  # fmt: skip
        html += (
            f"<h3>Groups by size <small>{found['groups']:,} groups, the largest of {found['largest']:,}</small></h3>"
        )
        html += bars(rows, "sizes")
    groups = "".join(
        f'<div class="group"><h3>{text(title)}</h3><ul class="grid">'
        + "".join(f"<li>{figure(picture)}</li>" for picture in pictures) + "</ul></div>"
        for title, _, pictures in shown.groups
    )  # fmt: skip
    return html + (f'<div class="groups">{groups}</div>' if groups else "")


def overlap(numbers: dict[str, Any], shown: Shown) -> str:
    """What benchmarks and the pool both hold, and what that does to accuracy."""
    told = ((numbers["dedup"] or {}).get("counts") or {}).get("overlap") or {}
    html = ""
    if told:
        rows = [(name, about.get("overlapping") or 0, 0, of(about.get("overlapping") or 0, about.get("images") or 0))
                for name, about in sorted(told.items())]  # fmt: skip
        html = bars(rows, "hosts") + table(*overlaps.overlap(told), named="Overlap by benchmark")
    if found := numbers["contamination"]:
        html += f"<h3>What overlap does to a model's accuracy</h3><p>{overlaps.METHOD}</p>"
        html += table(overlaps.CONTAMINATION, overlaps.contamination(found))
        points = overlaps.points(found)
        html += charts.scatter(points) if points else ""
    for name, note, pairs in shown.overlaps:
        items = "".join(f'<li class="pair">{figure(left)}{figure(right)}</li>' for left, right in pairs)
        html += f'<h3>{text(name)} <small>{text(note)}</small></h3><ul class="grid pairs">{items}</ul>'
    return html
