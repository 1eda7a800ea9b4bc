"""Plots of an evaluation as SVG that stands alone: dots with intervals, and accuracy on a shift by accuracy at home."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from scipy.special import expit, logit

from curate.evaluate.robustness import BORDER, Line
from curate.evaluate.table import Row

COLOURS = ("#2563eb", "#d97706", "#059669", "#be185d", "#7c3aed", "#475569")
STYLE = ("text{font:12px system-ui,sans-serif;fill:#1f2937}.faint{fill:#6b7280}.axis{stroke:#9ca3af}"
         ".grid{stroke:#e5e7eb}.chance{stroke:#9ca3af;stroke-width:2}")  # fmt: skip
LEFT, LINE, WIDE = 330, 26, 460  # pixels: of the names, of a row, of the scale
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
SIDE, BELOW = 380, 60  # of a panel

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#1f2937}}
table{{border-collapse:collapse;width:100%}}
td,th{{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e5e7eb}}
td:nth-child(n+4),th:nth-child(n+4){{text-align:right;font-variant-numeric:tabular-nums}}
svg{{max-width:100%;height:auto}}.table{{overflow-x:auto}}</style>
<main><h1>{title}</h1><p>{about}</p>{plots}
<div class="table" tabindex="0" role="region" aria-label="Numbers">{table}</div></main></html>
"""


def page(title: str, about: str, plots: Sequence[str], table: str) -> str:
    """One HTML page that needs nothing beside it."""
    return PAGE.format(title=escape(title), about=escape(about), plots="".join(plots), table=table)


def html_table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in cells)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"


def dots(found: Sequence[Row], label: str) -> str:
    """A line for each benchmark, task and metric: of each run a dot with its 95% interval; a tick marks chance."""
    models = list(dict.fromkeys(row.model for row in found))
    names = list(dict.fromkeys((row.benchmark, row.task, row.metric) for row in found))
    ends = [end for row in found for end in (row.value, row.low, row.high) if end is not None]
    step = next(step for step in (0.05, 0.1, 0.2, 0.5) if max(*ends, 0) - min(*ends, 0) <= 6 * step or step == 0.5)
    ticks = [step * at for at in range(math.floor(min(*ends, 0) / step), math.ceil(max(ends) / step) + 1)]
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return LEFT + WIDE * (value - low) / ((high - low) or 1)

    bottom = LINE * (len(names) + 1)
    starts = [10 + 8 * sum(len(model) + 4 for model in models[:at]) for at in range(len(models))]
    parts = [_text(starts[at], 16, f"● {model}", fill=_colour(at)) for at, model in enumerate(models)]
    for tick in ticks:
        parts += [
            _segment("grid", x(tick), LINE, x(tick), bottom),
            _text(x(tick), bottom + 16, f"{tick:.0%}", "middle"),
        ]
    for at, name in enumerate(names):
        y = LINE * (at + 1.5)
        parts.append(_text(LEFT - 12, y + 4, " · ".join(name), "end"))
        here = [row for row in found if (row.benchmark, row.task, row.metric) == name]
        for row in here:
            place = models.index(row.model)
            height = y + (place - (len(models) - 1) / 2) * min(7, 18 / len(models))
            parts.append(_dot(row, x, height, _colour(place)))
        chance = next((row.chance for row in here if row.chance is not None and row.chance <= high), None)
        parts += [] if chance is None else [_segment("chance", x(chance), y - 9, x(chance), y + 9)]
    return _svg(max(LEFT + WIDE + 30, starts[-1] + 8 * (len(models[-1]) + 4)), bottom + 26, label, parts)


class Panel(NamedTuple):
    """One shift: runs as (name, accuracy on the base set, on the shift), the same of the baseline models without their
    names, and the line through those."""

    name: str
    runs: Sequence[tuple[str, float, float]]
    others: Sequence[tuple[float, float]]
    line: Line | None


def shifts(panels: Sequence[Panel], base: str) -> str:
    """A panel for each shift, both axes on the logit scale; dashed: no gap."""
    pairs = [pair for panel in panels for pair in [*(run[1:] for run in panel.runs), *panel.others]]
    accuracies = [value for pair in pairs for value in pair]
    low, high = max(BORDER, min(accuracies) * 0.7), min(1 - BORDER, 1 - (1 - max(accuracies)) * 0.7)
    parts = []
    for at, panel in enumerate(panels):
        moved = "".join(_panel(panel, base, low, high))
        parts.append(f'<g transform="translate({at % 3 * (SIDE + 60)} {at // 3 * (SIDE + BELOW)})">{moved}</g>')
    columns, lines = min(3, len(panels)), -(-len(panels) // 3)
    label = f"Accuracy on {', '.join(panel.name for panel in panels)} by accuracy on {base}"
    return _svg(columns * (SIDE + 60), lines * (SIDE + BELOW), label, parts)


def _panel(panel: Panel, base: str, low: float, high: float) -> list[str]:
    first, last = float(logit(low)), float(logit(high))

    def along(value: float) -> float:
        return (float(logit(min(max(value, low), high))) - first) / (last - first) * SIDE

    def at(x: float, y: float) -> tuple[float, float]:
        return 50 + along(x), SIDE + 10 - along(y)

    parts = [_text(50, 6, panel.name)]
    for tick in [tick for tick in TICKS if low <= tick <= high][:: 2 if high - low > 0.8 else 1]:
        (x, _), (_, y) = at(tick, low), at(low, tick)
        parts += [_segment("grid", x, 10, x, SIDE + 10), _segment("grid", 50, y, 50 + SIDE, y)]
        parts += [
            _text(x, SIDE + 26, f"{tick:.0%}", "middle", "faint"),
            _text(44, y + 4, f"{tick:.0%}", "end", "faint"),
        ]
    parts.append(_segment("axis", *at(low, low), *at(high, high), dashed=True))
    if panel.line:
        steps = [expit(first + (last - first) * step / 100) for step in range(101)]
        inside = [step for step in steps if low <= panel.line.predicted(step) <= high]
        points = " ".join("{:.1f},{:.1f}".format(*at(step, panel.line.predicted(step))) for step in inside)
        parts.append(f'<polyline points="{points}" fill="none" stroke="#dc2626"/>')
    parts += [
        f'<circle cx="{at(*pair)[0]:.1f}" cy="{at(*pair)[1]:.1f}" r="3" fill="#9ca3af"/>' for pair in panel.others
    ]
    for place, (run, x, y) in enumerate(panel.runs):
        told = f"<title>{escape(run)}: {x:.1%} on {escape(base)}, {y:.1%} on {escape(panel.name)}</title>"
        left, top = at(x, y)
        parts.append(f'<g>{told}<circle cx="{left:.1f}" cy="{top:.1f}" r="6" fill="{_colour(place)}"/></g>')
        parts.append(_text(left + 9, top + 4, run, fill=_colour(place)))
    return [*parts, _text(50 + SIDE / 2, SIDE + 44, f"accuracy on {base}, the same classes", "middle", "faint")]


def _dot(row: Row, x: Callable[[float], float], y: float, colour: str) -> str:
    told, bar = f"<title>{escape(f'{row.model}: {row.value:.1%}')}</title>", ""
    if row.low is not None and row.high is not None:
        ends = f'x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
        bar = f'<line {ends} stroke="{colour}"/>'
    return f'<g>{told}{bar}<circle cx="{x(row.value):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/></g>'


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "", fill: str = "") -> str:
    look = (f' class="{kind}"' if kind else "") + (f' style="fill:{fill}"' if fill else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escape(words)}</text>'


def _segment(kind: str, x1: float, y1: float, x2: float, y2: float, dashed: bool = False) -> str:
    look = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{look}/>'


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    box = f'viewBox="0 -8 {width:.0f} {height + 8:.0f}" width="{width:.0f}"'
    said = f'role="img" aria-label="{escape(label, quote=True)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} {said}><style>{STYLE}</style>{"".join(parts)}</svg>'
