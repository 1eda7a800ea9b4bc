"""The page that sets two selections side by side."""

from typing import Any

import pyarrow as pa

from curate.report import charts
from curate.report.differences import Side, only
from curate.report.elements import bars, of, said, strip, table, text, tiles
from curate.report.page import frame
from curate.report.samples import Strip
from curate.report.thumbnails import Picture, Thumbnails

PICTURES = 32  # of each side

Strips = list[tuple[str, str, list[Picture]]]


def render(numbers: dict[str, Any], shown: Strips) -> str:
    """The whole page as one string."""
    a, b = numbers["a"]["name"], numbers["b"]["name"]
    written = [
        ("counts", "What each side keeps", _counts(numbers)),
        ("recipes", "Recipes", _recipes(numbers)),
        ("samples", "Pictures that only one side keeps", "".join(strip(*one) for one in shown)),
        ("signals", "How the kept pairs differ", _columns(numbers)),
        ("values", "Languages and other values", _values(numbers)),
        ("queries", "Queries", _queries(numbers)),
        ("domains", "Domains", _domains(numbers)),
    ]
    about = tiles([(f"kept by {a}", numbers["a"]["kept"]), (f"kept by {b}", numbers["b"]["kept"]),
                   ("by both", numbers["both"])])  # fmt: skip
    url = numbers["a"]["url"] if numbers["a"]["url"] == numbers["b"]["url"] else (
        f"{numbers['a']['url']} and {numbers['b']['url']}")  # fmt: skip
    return frame("curate report --diff", f"{a} beside {b}", url, about, written, {"thresholds": None, "samples": []})


def choose(a: Side, b: Side, blur: str) -> tuple[Strips, dict[str, str]]:
    """Pictures of the pairs that only one side keeps, drawn by uid, with why the other does not; failed shards."""
    strips: Strips = []
    failures: dict[str, str] = {}
    for one, other in ((a, b), (b, a)):
        lost = only(one, other)
        _, note, pictures = _strip(lost, other)
        thumbnails = Thumbnails.read(one.dataset, one.rows.table, [uid for uid, _ in pictures], blur)
        failures |= thumbnails.failures
        if pictures:
            found = [thumbnails.picture(uid, words) for uid, words in pictures]
            strips.append((f"Only in {one.name}", note, found))
    return strips, failures


def _strip(lost: pa.Table, other: Side) -> Strip:
    part = lost.sort_by("uid").slice(0, PICTURES)
    everything = other.rows.table
    place = pa.compute.index_in(part["uid"], value_set=everything["uid"].combine_chunks())
    why = everything["reason"].cast(pa.string()).take(place).to_pylist()
    words = [reason or "" for reason in why]
    note = f"{len(lost):,} pairs; under each, what drops it in {other.name}"
    return "", note, list(zip(part["uid"].to_pylist(), words, strict=True))


def _counts(numbers: dict[str, Any]) -> str:
    a, b = numbers["a"], numbers["b"]
    either = numbers["both"] + numbers["only_a"] + numbers["only_b"]
    rows = [(f"only {a['name']}", numbers["only_a"], 0, of(numbers["only_a"], either)),
            ("both", numbers["both"], 0, of(numbers["both"], either)),
            (f"only {b['name']}", 0, numbers["only_b"], of(numbers["only_b"], either))]  # fmt: skip
    html = bars(rows, "stages")
    for name, other, why in ((a["name"], b["name"], "why_not_b"), (b["name"], a["name"], "why_not_a")):
        if numbers[why]:
            told = [[reason, count] for reason, count in list(numbers[why].items())[:20]]
            title = f"What {other} drops of {name}"
            html += f"<h3>{text(title)}</h3>{table(['reason', 'pairs'], told, named=title)}"
    return html


def _recipes(numbers: dict[str, Any]) -> str:
    parts = []
    for side in (numbers["a"], numbers["b"]):
        told = (side["recipe"] or {}).get("text")
        label = f"Recipe of {side['name']}"
        inside = (f'<pre tabindex="0" role="region" aria-label="{text(label)}">{text(told)}</pre>' if told
                  else "<p>No filter.</p>")  # fmt: skip
        parts.append(f"<div><h3>{text(side['name'])}</h3>{inside}</div>")
    return f'<div class="halves">{"".join(parts)}</div>'


def _key(numbers: dict[str, Any]) -> str:
    a, b = (text(numbers[side]["name"]) for side in ("a", "b"))
    return f'<p class="key"><span class="kept">{a}</span><span class="dropped">{b}</span></p>'


def _columns(numbers: dict[str, Any]) -> str:
    cards = []
    for column in numbers["columns"]:
        if column["kind"] == "numbers":
            medians = f"median {said(column['median_a'])} and {said(column['median_b'])}"
            head = f"<figcaption><h3>{text(column['column'])}</h3><small>{text(medians)}</small></figcaption>"
            cards.append(f'<figure class="card">{head}{charts.overlay(column)}</figure>')
    key = f"{_key(numbers)}<p class='about'>Per cent of the pairs that each side keeps.</p>"
    return f'{key}<div class="cards">{"".join(cards)}</div>' if cards else ""


def _values(numbers: dict[str, Any]) -> str:
    html, head = "", _sides(numbers)
    for column in numbers["columns"]:
        if column["kind"] == "words":
            rows = [_change(numbers, row) for row in column["values"]]
            named = f"{column['column']} of both sides"
            html += f"<h3>{text(column['column'])}</h3>{table([column['column'], *head], rows, named=named)}"
    return html


def _queries(numbers: dict[str, Any]) -> str:
    found, a, b = numbers["queries"], numbers["a"]["name"], numbers["b"]["name"]
    if not found["count_a"] and not found["count_b"]:
        return ""
    html = (f"<p>{found['count_a']:,} queries have pairs in {text(a)}, {found['count_b']:,} in {text(b)}; "
            f"{found['changed']:,} have another number of pairs.</p>")  # fmt: skip
    rows = [_change(numbers, row) for row in found["largest"]]
    if rows:
        html += f"<h3>Changed most</h3>{table(['query', *_sides(numbers)], rows, named='Queries that changed most')}"
    parts = []
    for key, name in (("only_a", a), ("only_b", b)):
        if found[key]["count"]:
            only_here = [[row["value"], row["count"]] for row in found[key]["largest"]]
            title = f"Only in {text(name)} <small>{found[key]['count']:,} queries</small>"
            named = f"Queries only in {name}"
            parts.append(f"<div><h3>{title}</h3>{table(['query', 'pairs'], only_here, named=named)}</div>")
    return html + (f'<div class="thirds">{"".join(parts)}</div>' if parts else "")


def _domains(numbers: dict[str, Any]) -> str:
    rows = [_change(numbers, row) for row in numbers["domains"]["largest"]]
    return table(["host", *_sides(numbers)], rows, named="Hosts that changed most") if rows else ""


def _sides(numbers: dict[str, Any]) -> list[str]:
    a, b = numbers["a"]["name"], numbers["b"]["name"]
    return [a, b, "change", f"of {a}", f"of {b}"]


def _change(numbers: dict[str, Any], row: dict[str, Any]) -> list[Any]:
    shares = [of(row[side], numbers[side]["kept"]) for side in ("a", "b")]
    return [row["value"], row["a"], row["b"], f"{row['b'] - row['a']:+,}", *shares]
