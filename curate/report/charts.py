"""Charts as SVG text: colours come from the page's style, so that they follow light and dark."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 420, 200  # of the drawing, about the pixels of a card, so that its words are as large as the page's
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 16, 28

SIGNS = {">=": "≥", "<=": "≤"}

Scale = Callable[[float], float]


def histogram(column: dict[str, Any]) -> str:
    """Bars of the kept rows with the dropped ones on top, and a line at every cut."""
    edges, kept, dropped = column["edges"], column["kept"], column["dropped"]
    x = scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT, column["logarithmic"])
    highest = max((a + b for a, b in zip(kept, dropped, strict=True)), default=0)
    y = scale(0, max(highest, 1), HEIGHT - BOTTOM, TOP)
    bars = []
    for start, end, below, above in zip(edges[:-1], edges[1:], kept, dropped, strict=True):
        left, width = x(start), max(1.0, x(end) - x(start) - 1)
        told = f"<title>{number(start)} to {number(end)}: {below:,} kept, {above:,} dropped</title>"
        bars.append(f'<g>{told}{_bar("kept", left, y(below), width, y(0) - y(below))}'
                    f'{_bar("dropped", left, y(below + above), width, y(below) - y(below + above))}</g>')  # fmt: skip
    inside = [cut for cut in column["cuts"] if edges[0] <= cut["value"] <= edges[-1]]
    lines = [_cut(x(cut["value"]), f"{SIGNS.get(cut['sign'], cut['sign'])} {number(cut['value'])}") for cut in inside]
    axes = _bottom(x, ticks(edges[0], edges[-1], column["logarithmic"])) + _side(y, ticks(0, max(highest, 1)))
    return _svg(f"Histogram of {column['column']}", [*axes, *bars, *lines])


def overlay(column: dict[str, Any]) -> str:
    """The outlines of two histograms on the same edges, each in per cent of its own sum."""
    edges = column["edges"]
    x = scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT, column["logarithmic"])
    shares = [[100 * count / (sum(column[side]) or 1) for count in column[side]] for side in ("a", "b")]
    highest = max([*shares[0], *shares[1]]) or 1
    y = scale(0, highest, HEIGHT - BOTTOM, TOP)
    lines = []
    for kind, values in zip(("one", "other"), shares, strict=True):
        corners = [(x(edge), y(value)) for at, value in enumerate(values) for edge in edges[at : at + 2]]
        lines.append(_line(kind, [(x(edges[0]), y(0)), *corners, (x(edges[-1]), y(0))]))
    axes = _bottom(x, ticks(edges[0], edges[-1], column["logarithmic"])) + _side(y, ticks(0, highest))
    return _svg(f"Histograms of {column['column']} of both sides, in per cent", [*axes, *lines])


def long_tail(tail: dict[str, Any], cap: int | None) -> str:
    """Pairs matched and drawn for each query, by rank, both axes logarithmic, with the line of the cap."""
    label = f"Long tail of {tail['queries']:,} queries: the largest matches {tail['points'][0][1]:,} pairs"
    return _ranked(tail["points"], cap, tail["over_cap"], "pairs of each query, by its rank", label)


def survival(found: dict[str, Any], cap: int | None) -> str:
    """Images of each query before the filter, by rank, and after it, both axes logarithmic."""
    label = f"Images of {found['queries']:,} queries before and after the filter; {found['erased']:,} lose all"
    return _ranked(found["points"], cap, 0, "images of each query, by its rank before", label)


def _ranked(points: Sequence[Sequence[int]], cap: int | None, over: int, words: str, label: str) -> str:
    """(rank, count, count of a dot): a line, its first `over` ranks set apart, a dot for each, the line of the cap."""
    most = max(points[0][1], cap or 1, 2)
    x = scale(1, max(points[-1][0], 2), LEFT, WIDTH - RIGHT, True)
    y = scale(0.8, most * 1.3, HEIGHT - BOTTOM, TOP, True)
    places = [(x(rank), y(count)) for rank, count, _ in points]
    head = sum(1 for rank, _, _ in points if rank <= over)
    line = _line("head", places[: head + 1] if head else []) + _line("tail", places[head:])
    dots = "".join(
        f'<circle class="drawn" cx="{x(rank):.1f}" cy="{y(kept):.1f}" r="1.8"/>' for rank, _, kept in points if kept
    )
    capped = ""
    if cap:
        right, height = WIDTH - RIGHT, y(cap)
        capped = (
            f'<line class="cut" x1="{LEFT}" x2="{right}" y1="{height:.1f}" y2="{height:.1f}"/>'
            f'<text class="cut-label" x="{right}" y="{height - 5:.1f}" text-anchor="end">cap {cap:,}</text>'
        )
    axes = _bottom(x, ticks(1, max(points[-1][0], 2), True)) + _side(y, ticks(1, most, True))
    names = f'<text x="{LEFT + 5}" y="{HEIGHT - BOTTOM - 5}">{words}</text>'
    return _svg(label, [*axes, names, line, dots, capped])


def curve(points: Sequence[Sequence[float]], label: str) -> str:
    """A line through (step, value), with its running mean on top."""
    steps, values = [point[0] for point in points], [point[1] for point in points]
    low, high = min(values), max(values)
    margin = (high - low or 1) * 0.06
    x = scale(steps[0], max(steps[-1], steps[0] + 1), LEFT, WIDTH - RIGHT)
    y = scale(max(0, low - margin), high + margin, HEIGHT - BOTTOM, TOP)
    raw = _line("raw", [(x(step), y(value)) for step, value in zip(steps, values, strict=True)])
    smooth = _line("smooth", [(x(step), y(value)) for step, value in zip(steps, smoothed(values), strict=True)])
    axes = _bottom(x, ticks(steps[0], steps[-1])) + _side(y, ticks(max(0, low - margin), high + margin))
    return _svg(f"{label}: from {values[0]:.3g} to {values[-1]:.3g}", [*axes, raw, smooth])


def scatter(points: Sequence[tuple[str, float, float, float, float]]) -> str:
    """A dot with its interval for each benchmark: how much of it overlaps, how much better a model is there."""
    x = scale(0, max(point[1] for point in points) * 1.1 or 1, LEFT, WIDTH - RIGHT)
    low, high = min(0.0, *(point[3] for point in points)), max(0.0, *(point[4] for point in points))
    y = scale(low, high if high > low else low + 1, HEIGHT - BOTTOM, TOP)
    dots = [
        f"<g><title>{escape(name)}: {share:.2f} % overlap, {gain:+.2f} points [{least:+.2f}, {most:+.2f}]</title>"
        f'<line class="axis" x1="{x(share):.1f}" x2="{x(share):.1f}" y1="{y(least):.1f}" y2="{y(most):.1f}"/>'
        f'<circle class="drawn" cx="{x(share):.1f}" cy="{y(gain):.1f}" r="3.5"/></g>'
        for name, share, gain, least, most in points
    ]
    zero = f'<line class="cut" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>'
    axes = _bottom(x, ticks(0, max(point[1] for point in points) * 1.1 or 1)) + _side(y, ticks(low, high))
    words = "points of accuracy, overlap less clean, by the per cent that overlap"
    said = f'<text x="{LEFT + 5}" y="{TOP - 5}">{words}</text>'
    return _svg(f"Accuracy on the overlap of {len(points)} benchmarks", [*axes, zero, *dots, said])


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of the last twentieth of the values up to each point."""
    reach = max(1, len(values) // 20)
    return [sum(values[max(0, i + 1 - reach) : i + 1]) / min(i + 1, reach) for i in range(len(values))]


def scale(low: float, high: float, start: float, end: float, logarithmic: bool = False) -> Scale:
    """Where a value lies between `start` and `end` of the drawing; values outside are held at its border."""
    change = math.log if logarithmic else float
    first, last = change(low), change(high)
    span = (last - first) or 1.0

    def at(value: float) -> float:
        held = min(max(value, low), high)
        return start + (change(held) - first) / span * (end - start)

    return at


def ticks(low: float, high: float, logarithmic: bool = False) -> list[float]:
    """Round numbers between two values."""
    if logarithmic and high / low >= 10:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        return [10.0**power for power in powers]
    if high <= low:
        return [low]
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number short enough for an axis."""
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        power = math.floor(math.log10(abs(value)))
        if abs(value) >= 10_000:
            for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
                if abs(value) >= size:
                    return f"{value / size:.3g}{letter}"
        return f"{value / 10**power:.3g}e{power}"
    return f"{value:.4g}"


def _svg(label: str, parts: Sequence[str]) -> str:
    said = escape(label, quote=True)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def _bar(kind: str, left: float, top: float, width: float, height: float) -> str:
    if height <= 0:
        return ""
    return f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _line(kind: str, points: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _cut(x: float, label: str) -> str:
    anchor, move = ("end", -5) if x > WIDTH * 0.8 else ("start", 5)
    line = f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{HEIGHT - BOTTOM}"/>'
    said = f'<text class="cut-label" x="{x + move:.1f}" y="{TOP}" text-anchor="{anchor}">{escape(label)}</text>'
    return line + said


def _bottom(x: Scale, values: Sequence[float]) -> list[str]:
    base = HEIGHT - BOTTOM
    line = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
    return [line, *(f'<text class="tick" x="{x(v):.1f}" y="{base + 17}" text-anchor="middle">{number(v)}</text>'
                    for v in values)]  # fmt: skip


def _side(y: Scale, values: Sequence[float]) -> list[str]:
    return [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
            f'<text class="tick" x="{LEFT - 7}" y="{y(v) + 4:.1f}" text-anchor="end">{number(v)}</text>'
            for v in values]  # fmt: skip
