"""Sections of numbers: stages, the recipe's steps, histograms, domains, harvest, queries, selections, history."""

from typing import Any

from curate.report import charts, evaluations
from curate.report.elements import bars, fold, of, said, table, text, tiles
from curate.report.samples import Shown

KEY = (
    '<p class="key"><span class="kept">kept</span><span class="dropped">dropped</span>'
    '<span class="cut">a step\'s cut</span></p>'
)
ASKED = ("signal", "options")  # of what made a file: the spec says them


def about(numbers: dict[str, Any]) -> str:
    """What stands under the title: the counts, when, by which version."""
    facts = [("pairs with an image", numbers["rows"]), ("selected", numbers["kept"]),
             ("of them", of(numbers["kept"], numbers["rows"])), ("shards", numbers["shards"])]  # fmt: skip
    words = [f"selection {numbers['selection']}"] if numbers["selection"] else ["no selection: every pair is kept"]
    if numbers["written"]:
        words.append(f"last changed {_minute(numbers['written'])} UTC")
    words.append(f"curate {numbers['curate']}")
    return f'{tiles(facts)}<p class="about">{text(" · ".join(words))}</p>'


def _minute(date: str) -> str:
    return date[:16].replace("T", " ")


def funnel(numbers: dict[str, Any], shown: Shown) -> str:
    """A bar for every stage, from the pool to what is selected."""
    rows, before = [], None
    for step in numbers["funnel"]:
        note = "" if not before else of(step["count"], before)
        rows.append((step["label"], step["count"], 0, note))
        before = step["count"]
    return bars(rows, "stages") + "<p class='about'>Per cent of the line above.</p>"


def recipe(numbers: dict[str, Any], shown: Shown) -> str:
    """The text of the recipe, and what each of its steps does: alone, after those before it, and as the only one."""
    told, step = numbers["recipe"], numbers["filter"]
    if not told:
        return ""
    counts = step["counts"]
    of_rows = counts.get("of") or 0
    named = f"Recipe {told['name']}" if told["name"] else "Rules given on the command line"
    where = f"of {told['parent']}" if told["parent"] else "of every pair"
    html = (f"<p>{text(named)}, selection <b>{text(told['selection'])}</b> {text(where)}: "
            f"{counts.get('kept', 0):,} of {of_rows:,} kept ({of(counts.get('kept', 0), of_rows)}).</p>"
            f'<pre tabindex="0" role="region" aria-label="The recipe">{text(told["text"])}</pre>')  # fmt: skip
    head = ["step", "rule", "alone", "", "after it", "", "dropped by it only", "no value", "then"]
    rows = [[rule["step"], _rule(rule), rule.get("alone"), of(rule.get("alone") or 0, of_rows), rule.get("kept"),
             of(rule.get("kept") or 0, of_rows), rule.get("only"), rule.get("null"), _nulls(rule)]
            for rule in counts.get("funnel", [])]  # fmt: skip
    note = ("<p class='about'>“Alone”: pairs that this step keeps if it is the only one. “After it”: pairs that it and "
            "all steps before it keep. “Dropped by it only”: pairs that every other step keeps.</p>")  # fmt: skip
    left = [(rule["step"], rule.get("kept") or 0, 0, of(rule.get("kept") or 0, of_rows))
            for rule in counts.get("funnel", [])]  # fmt: skip
    start = [("considered", of_rows, 0, "")] if of_rows else []
    return html + bars([*start, *left], "stages") + table(head, rows, 2, "Steps of the recipe") + note


def _rule(rule: dict[str, Any]) -> str:
    words = "the same" if rule["rule"] == rule["step"] else rule["rule"]
    return f"{words} (≥ {rule['threshold']:.6g})" if "threshold" in rule else words


def _nulls(rule: dict[str, Any]) -> str:
    return {"drop": "dropped", "keep": "kept"}.get(rule.get("on_null", ""), "an error") if rule.get("null") else ""


def signals(numbers: dict[str, Any], shown: Shown) -> str:
    """A card for every column: how its values are spread over the kept and the dropped pairs."""
    columns = [column for column in numbers["columns"] if _constant(column) is None]
    cards = [_numbers(column) if column["kind"] == "numbers" else _words(column) for column in columns]
    same = [f"{c['column']} {_constant(c)}" for c in numbers["columns"] if _constant(c) is not None]
    html = f'{KEY}<div class="cards">{"".join(cards)}</div>' if cards else ""
    html += f"<p class='about'>The same for every pair: {text(', '.join(same))}.</p>" if same else ""
    if numbers["same"]:
        twins = ", ".join(f"{name} ({twin})" for name, twin in sorted(numbers["same"].items()))
        html += f"<p class='about'>Equal to another column: {text(twins)}.</p>"
    return html + (fold("How each signal was measured", _models(numbers)) if numbers["models"] else "")


def _models(numbers: dict[str, Any]) -> str:
    rows = []
    for name, spec in sorted(numbers["signals"].items()):
        facts = {
            key: value for key, value in numbers["models"].get(name, {}).items() if key not in ("signal", "options")
        }
        rows.append([name, spec, ", ".join(f"{key} {_short(value)}" for key, value in sorted(facts.items()))])
    return table(["signal", "asked for as", "made by"], rows, 3, "Signals")


def _short(value: Any) -> str:
    words = str(value)
    return words if len(words) <= 40 else f"{words[:16]}…"


def _constant(column: dict[str, Any]) -> str | None:
    """The only value of a column, or None where it has several."""
    if column["kind"] == "numbers":
        return said(column["least"]) if column["least"] == column["most"] and not column["missing"] else None
    return column["values"][0]["value"] if len(column["values"]) == 1 else None


def _named(column: dict[str, Any]) -> str:
    source = (column["signal"] or "of the shards") if column["signal"] != column["column"] else ""
    return f"<figcaption><h3>{text(column['column'])}</h3><small>{text(source)}</small></figcaption>"


def _numbers(column: dict[str, Any]) -> str:
    named = [["mean", column["mean"]], ["least", column["least"]]]
    named += [[f"{float(share):.0%} are below", value] for share, value in column["quantiles"].items()]
    named += [["most", column["most"]], ["not measured", column["missing"]]]
    values = fold("Mean and quantiles", table(["", "value"], named, named=f"Quantiles of {column['column']}"))
    return f'<figure class="card">{_named(column)}{charts.histogram(column)}{values}</figure>'


def _words(column: dict[str, Any]) -> str:
    rows = [(row["value"], row["kept"], row["count"] - row["kept"], f"{of(row['kept'], row['count'])} kept")
            for row in column["values"]]  # fmt: skip
    return f'<figure class="card">{_named(column)}{bars(rows, "words")}</figure>'


def domains(numbers: dict[str, Any], shown: Shown) -> str:
    """The hosts with the most pairs, kept and dropped."""
    found = numbers["domains"]
    if not found:
        return ""
    rows = [(row["value"], row["kept"], row["count"] - row["kept"], f"{of(row['kept'], row['count'])} kept")
            for row in found["largest"]]  # fmt: skip
    few = "the largest holds" if found["half"] == 1 else f"the {found['half']:,} largest hold"
    words = f"{found['hosts']:,} hosts; {few} half of the pairs." if found["hosts"] > 1 else "One host."
    without = f" {found['without']:,} pairs have no address." if found["without"] else ""
    return f"<p>{words}{without}</p>{KEY_PAIR}{bars(rows, 'hosts')}"


KEY_PAIR = '<p class="key"><span class="kept">kept</span><span class="dropped">dropped</span></p>'


def harvest(numbers: dict[str, Any], shown: Shown) -> str:
    """What was read, matched, drawn and downloaded, and the long tail of queries with the line of the cap."""
    found = numbers["harvest"]
    if not found:
        return ""
    names = {"pool": "rows in the pool", "matched": "texts that hold a query", "pairs": "distinct pairs matched",
             "matches": "matches of a pair and a query", "draws": "draws", "selected": "pairs drawn",
             "downloaded": "downloaded", "queries": "queries", "queries_matched": "queries that matched",
             "queries_unmatched": "queries without a pair", "queries_capped": "queries over the cap",
             "cap": "cap for each query"}  # fmt: skip
    html = tiles([(label, found.get(name)) for name, label in names.items()])
    tail = found["long_tail"]
    if tail:
        largest = [[row["query"], row["matched"], row["drawn"]] for row in tail["largest"]]
        html += (
            "<h3>The long tail of queries</h3>"
            "<p>Pairs for each query, the largest on the left: the line is what matched, the dots what was drawn. "
            f"{_head_and_tail(tail)}</p>"
            f"{charts.long_tail(tail, found['cap'])}"
        )
        html += fold(f"The {len(largest)} largest queries", table(["query", "matched", "drawn"], largest))
    return html


def failures(numbers: dict[str, Any], shown: Shown) -> str:
    """Pairs without an image, by cause."""
    found = numbers["failures"]
    total = sum(found.values())
    rows = [(cause, 0, count, of(count, total)) for cause, count in found.items()]
    return f"<p>{total:,} pairs have no image.</p>{bars(rows, 'causes')}" if rows else ""


def _head_and_tail(tail: dict[str, Any]) -> str:
    """How the matches divide between the queries over the cap and the others."""
    if not tail["over_cap"]:
        return f"No query is over the cap; {tail['unmatched']:,} have no pair (reports/queries.parquet)."
    return (
        f"The head, {tail['over_cap']:,} queries over the cap, holds {tail['head_share']:.1%} of the matches; "
        f"the tail, {tail['queries'] - tail['over_cap']:,} queries, {1 - tail['head_share']:.1%}; "
        f"{tail['unmatched']:,} have no pair (reports/queries.parquet)."
    )


def queries(numbers: dict[str, Any], shown: Shown) -> str:
    """Images of each query before and after the newest filter, and the queries that lose all."""
    found = numbers["queries"]
    if not found or not numbers["filter"]:
        return ""
    cap = (numbers["harvest"] or {}).get("cap")
    left = found["queries"] - found["erased"]
    html = (f"<p>{found['queries']:,} queries had images before the filter, {left:,} have some after it; "
            f"{found['erased']:,} lose all. The line is before, the dots are after.</p>"
            f"{charts.survival(found, cap)}")  # fmt: skip
    parts = []
    if found["lost"]:
        rows = [[row["query"], row["before"]] for row in found["lost"]]
        parts.append(f"<h3>Erased, the largest first</h3>{table(['query', 'before'], rows, named='Erased queries')}")
    for key, title in (("thinned", "Thinned most"), ("largest", "The largest")):
        rows = [[row["query"], row["before"], row["after"], of(row["after"], row["before"])] for row in found[key]]
        if rows:
            parts.append(f"<h3>{title}</h3>{table(['query', 'before', 'after', 'kept'], rows, named=title)}")
    return html + f'<div class="thirds">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def selections(numbers: dict[str, Any], shown: Shown) -> str:
    """The chain of selections."""
    rows = [
        [one["name"], one["parent"] or "every pair", _reasons_of(one), one["of"], one["kept"]]
        for one in numbers["selections"]
    ]
    return table(["selection", "made from", "dropped", "of", "kept"], rows, numeric=3) if rows else ""


def _reasons_of(selection: dict[str, Any]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in selection["reasons"].items())


def training(numbers: dict[str, Any], shown: Shown) -> str:
    """A card for each training run."""
    return f'<div class="runs">{"".join(map(evaluations.card, numbers["runs"]))}</div>' if numbers["runs"] else ""


def steps(numbers: dict[str, Any], shown: Shown) -> str:
    """The history of the dataset."""
    told = [
        f"<li><b>{text(step['stage'])}</b> {text(step['summary'])}"
        f"<span class='when'>{text(_minute(step['date']))} · {text(step['version'])}</span></li>"
        for step in numbers["steps"]
    ]
    return f'<ol class="steps">{"".join(told)}</ol>' if told else ""
