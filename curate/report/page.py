"""The page itself: sections of HTML from the numbers and the chosen pictures; every word from outside is escaped."""

from collections.abc import Callable
from html import escape
from importlib import resources
from string import Template
from typing import Any

from curate.report import charts, evaluations, overlaps
from curate.report.samples import Picture, Shown

KEY = (
    '<p class="key"><span class="kept">kept</span><span class="dropped">dropped</span>'
    '<span class="cut">a rule\'s cut</span></p>'
)

NO_PICTURE = '<i class="none">no picture</i>'


def render(numbers: dict[str, Any], shown: Shown) -> str:
    """The whole page as one string."""
    sections = [(name, title, section(numbers, shown)) for name, title, section in SECTIONS]
    written = [(name, title, html) for name, title, html in sections if html]
    here = resources.files("curate.report")
    return Template(here.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        style=here.joinpath("page.css").read_text(encoding="utf-8"),
        script=here.joinpath("page.js").read_text(encoding="utf-8"),
        dataset=text(numbers["dataset"]),
        about=_about(numbers),
        links="".join(f'<a href="#{name}">{title}</a>' for name, title, _ in written),
        sections="".join(
            f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{html}</section>'
            for name, title, html in written
        ),
    )


def text(value: Any) -> str:
    """Anything as text that is safe between tags and inside quoted attributes."""
    return escape(str(value), quote=True)


def table(head: list[str], rows: list[list[Any]], numeric: int = 1) -> str:
    """A table; all columns but the first `numeric` are numbers, set right."""
    cells = [
        "".join(f"<th scope='row'>{text(_said(cell))}</th>" if at == 0
                else f"<td{_right(at, numeric)}>{text(_said(cell))}</td>" for at, cell in enumerate(row))
        for row in rows
    ]  # fmt: skip
    heads = "".join(f"<th scope='col'{_right(at, numeric)}>{text(name)}</th>" for at, name in enumerate(head))
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _right(at: int, numeric: int) -> str:
    return " class='n'" if at >= numeric else ""


def _said(cell: Any) -> str:
    if isinstance(cell, bool) or cell is None:
        return "–" if cell is None else str(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _about(numbers: dict[str, Any]) -> str:
    facts = [
        f"{numbers['rows']:,} pairs with an image in {numbers['shards']:,} shards",
        f"{numbers['kept']:,} selected",
    ]
    if numbers["written"]:
        facts.append(f"last changed {numbers['written'][:16].replace('T', ' ')} UTC")
    facts.append(f"curate {numbers['curate']}")
    return " · ".join(text(fact) for fact in facts)


def _funnel(numbers: dict[str, Any], shown: Shown) -> str:
    steps = numbers["funnel"]
    most = max((step["count"] for step in steps), default=0) or 1
    rows, before = [], None
    for step in steps:
        share = "" if before in (None, 0) else f"{step['count'] / before:.1%} of the step before"
        rows.append(
            f'<li><span class="label">{text(step["label"])}</span><span class="bar" aria-hidden="true">'
            f'<span style="width:{100 * step["count"] / most:.2f}%"></span></span>'
            f'<span class="count">{step["count"]:,}</span><span class="share">{share}</span></li>'
        )
        before = step["count"]
    return f'<ol class="funnel">{"".join(rows)}</ol>'


def _steps(numbers: dict[str, Any], shown: Shown) -> str:
    steps = [
        f"<li><b>{text(step['stage'])}</b> {text(step['summary'])}"
        f"<span class='when'>{text(step['date'][:16].replace('T', ' '))} · {text(step['version'])}</span></li>"
        for step in numbers["steps"]
    ]
    return f'<ol class="steps">{"".join(steps)}</ol>' if steps else ""


def _harvest(numbers: dict[str, Any], shown: Shown) -> str:
    harvest = numbers["harvest"]
    if not harvest:
        return ""
    names = {"pool": "rows in the pool", "matched": "texts that hold a query", "pairs": "distinct pairs matched",
             "matches": "matches of a pair and a query", "draws": "draws", "selected": "pairs drawn",
             "downloaded": "downloaded", "queries": "queries", "queries_matched": "queries that matched",
             "queries_unmatched": "queries without a pair", "queries_capped": "queries over the cap",
             "cap": "cap for each query"}  # fmt: skip
    facts = [(label, harvest[name]) for name, label in names.items() if harvest.get(name) is not None]
    html = tiles(facts)
    failed = harvest.get("failed") or {}
    if failed:
        ranked = sorted(failed.items(), key=lambda item: (-item[1], item[0]))
        html += "<h3>Downloads that failed, by cause</h3>" + table(["cause", "pairs"], [list(row) for row in ranked])
    tail = harvest["long_tail"]
    if tail:
        largest = [[row["query"], row["matched"], row["drawn"]] for row in tail["largest"]]
        html += (
            "<h3>The long tail of queries</h3>"
            "<p>Pairs for each query, the largest on the left: the line is what matched, the dots what was drawn. "
            f"{_head_and_tail(tail)}</p>"
            f"{charts.long_tail(tail, harvest['cap'])}"
            f"<details><summary>The {len(largest)} largest queries</summary>"
            f"{table(['query', 'matched', 'drawn'], largest)}</details>"
        )
    return html


def _head_and_tail(tail: dict[str, Any]) -> str:
    """How the matches divide between the queries over the cap and the others."""
    if not tail["over_cap"]:
        return f"No query is over the cap; {tail['unmatched']:,} have no pair (reports/queries.parquet)."
    return (
        f"The head, {tail['over_cap']:,} queries over the cap, holds {tail['head_share']:.1%} of the matches; "
        f"the tail, {tail['queries'] - tail['over_cap']:,} queries, {1 - tail['head_share']:.1%}; "
        f"{tail['unmatched']:,} have no pair (reports/queries.parquet)."
    )


def tiles(facts: list[tuple[str, Any]]) -> str:
    """Large numbers with a word under each."""
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{text(k)}</dt><dd>{text(_said(v))}</dd></div>" for k, v in facts)
        + "</dl>"
    )


def _signals(numbers: dict[str, Any], shown: Shown) -> str:
    columns = [column for column in numbers["columns"] if _constant(column) is None]
    cards = [_numbers(column) if column["kind"] == "numbers" else _words(column) for column in columns]
    same = [f"{c['column']} {_constant(c)}" for c in numbers["columns"] if _constant(c) is not None]
    html = f'{KEY}<div class="cards">{"".join(cards)}</div>' if cards else ""
    return html + (f"<p class='about'>The same for every pair: {text(', '.join(same))}.</p>" if same else "")


def _constant(column: dict[str, Any]) -> str | None:
    """The only value of a column, or None where it has several."""
    if column["kind"] == "numbers":
        return _said(column["least"]) if column["least"] == column["most"] and not column["missing"] else None
    return column["values"][0]["value"] if len(column["values"]) == 1 else None


def _named(column: dict[str, Any]) -> str:
    return f"<figcaption><h3>{text(column['column'])}</h3><small>{text(column['signal'])}</small></figcaption>"


def _numbers(column: dict[str, Any]) -> str:
    named = [["mean", column["mean"]], ["least", column["least"]]]
    named += [[f"{float(share):.0%} are below", value] for share, value in column["quantiles"].items()]
    named += [["most", column["most"]], ["not measured", column["missing"]]]
    return (
        f'<figure class="card">{_named(column)}{charts.histogram(column)}{_slider(column)}'
        f"<details><summary>Mean and quantiles</summary>{table(['', column['column']], named)}</details></figure>"
    )


def _slider(column: dict[str, Any]) -> str:
    """A cut to try: the script counts the rows above it from the histogram."""
    counts = [kept + dropped for kept, dropped in zip(column["kept"], column["dropped"], strict=True)]
    return (
        f'<label class="try">try a cut <input type="range" min="0" max="{len(counts)}" value="0" '
        f'data-counts="{text(",".join(map(str, counts)))}" data-edges="{text(",".join(map(str, column["edges"])))}" '
        f'aria-label="try a cut of {text(column["column"])}"><output></output></label>'
    )


def _words(column: dict[str, Any]) -> str:
    most = max(row["count"] for row in column["values"])
    bars = "".join(
        f'<li><span class="label">{text(row["value"])}</span><span class="bar" aria-hidden="true">'
        f'<span style="width:{100 * row["kept"] / most:.2f}%"></span>'
        f'<span class="dropped" style="width:{100 * (row["count"] - row["kept"]) / most:.2f}%"></span></span>'
        f'<span class="count">{row["count"]:,}</span></li>'
        for row in column["values"]
    )
    return f'<figure class="card">{_named(column)}<ol class="funnel words">{bars}</ol></figure>'


def _filter(numbers: dict[str, Any], shown: Shown) -> str:
    step = numbers["filter"]
    if not step:
        return ""
    counts = step["counts"]
    rows = [[rule["step"], rule.get("rule") or "", rule.get("alone"), rule.get("only"), rule.get("kept")]
            for rule in counts.get("funnel", [])]  # fmt: skip
    head = ["step", "rule", "would keep alone", "dropped by it only", "kept after it"]
    return f"<p>{text(step['summary'])}</p>" + (table(head, rows, numeric=2) if rows else "")


def _samples(numbers: dict[str, Any], shown: Shown) -> str:
    return "".join(_strip(f"{title} {note}", pictures) for title, note, pictures in shown.scores)


def _reasons(numbers: dict[str, Any], shown: Shown) -> str:
    return "".join(_strip(f"dropped by “{title}”, {note}", pictures) for title, note, pictures in shown.reasons)


def _strip(title: str, pictures: list[Picture]) -> str:
    return (
        f'<h3>{text(title)}</h3><ul class="grid">{"".join(f"<li>{_figure(picture)}</li>" for picture in pictures)}</ul>'
    )


def _figure(picture: Picture) -> str:
    said = text(picture.caption or "(no text)")
    image = f'<img src="{picture.image}" alt="{said}" loading="lazy">' if picture.image else NO_PICTURE
    note = f"<b>{text(picture.note)}</b>" if picture.note else ""
    words = f'<figcaption>{note}<span dir="auto">{said}</span></figcaption>'
    return f'<figure class="picture" title="{text(picture.uid)}">{image}{words}</figure>'


def _duplicates(numbers: dict[str, Any], shown: Shown) -> str:
    step = numbers["dedup"]
    if not step:
        return ""
    counts = step["counts"]
    facts = [("pairs looked at", counts.get("of")), ("groups", counts.get("groups"))]
    facts += [(f"dropped by {name}", count) for name, count in sorted((counts.get("duplicates") or {}).items())]
    facts += [("kept", counts.get("kept"))]
    html = f"<p>{text(step['summary'])}</p>" + tiles([fact for fact in facts if fact[1] is not None])
    groups = "".join(
        f'<div class="group"><h3>{text(title)}</h3><ul class="grid">'
        + "".join(f"<li>{_figure(picture)}</li>" for picture in pictures) + "</ul></div>"
        for title, _, pictures in shown.groups
    )  # fmt: skip
    return html + (f'<div class="groups">{groups}</div>' if groups else "")


def _overlap(numbers: dict[str, Any], shown: Shown) -> str:
    told = ((numbers["dedup"] or {}).get("counts") or {}).get("overlap") or {}
    html = table(*overlaps.overlap(told)) if told else ""
    if found := numbers["contamination"]:
        html += f"<h3>What overlap does to a model's accuracy</h3><p>{overlaps.METHOD}</p>"
        html += table(overlaps.CONTAMINATION, overlaps.contamination(found))
        points = overlaps.points(found)
        html += charts.scatter(points) if points else ""
    for name, note, pairs in shown.overlaps:
        items = "".join(f'<li class="pair">{_figure(left)}{_figure(right)}</li>' for left, right in pairs)
        html += f'<h3>{text(name)}: {text(note)}</h3><ul class="grid pairs">{items}</ul>'
    return html


def _selections(numbers: dict[str, Any], shown: Shown) -> str:
    if not numbers["selections"]:
        return ""
    rows = [
        [one["name"], one["parent"] or "every pair", _reasons_of(one), one["of"], one["kept"]]
        for one in numbers["selections"]
    ]
    return table(["selection", "made from", "dropped", "of", "kept"], rows, numeric=3)


def _reasons_of(selection: dict[str, Any]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in selection["reasons"].items())


def _training(numbers: dict[str, Any], shown: Shown) -> str:
    return f'<div class="runs">{"".join(map(evaluations.card, numbers["runs"]))}</div>' if numbers["runs"] else ""


Section = Callable[[dict[str, Any], Shown], str]
SECTIONS: tuple[tuple[str, str, Section], ...] = (
    ("funnel", "From the pool to the selection", _funnel),
    ("harvest", "Harvest", _harvest),
    ("signals", "What was measured", _signals),
    ("filter", "What each rule does", _filter),
    ("samples", "Pictures by score", _samples),
    ("reasons", "What the filter dropped", _reasons),
    ("duplicates", "Duplicates", _duplicates),
    ("overlap", "Overlap with benchmarks", _overlap),
    ("selections", "Selections", _selections),
    ("training", "Training and evaluation", _training),
    ("steps", "Every step", _steps),
)
