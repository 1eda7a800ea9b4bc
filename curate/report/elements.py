"""The parts that sections are made of, as HTML: tables, tiles, bars, pictures; every word from outside is escaped."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from curate.report.thumbnails import Picture

NO_PICTURE = '<i class="none">no picture</i>'
DATA_URI = re.compile(r'src="(data:image/[^"]+)"')


def text(value: Any) -> str:
    """Anything as text that is safe between tags and inside quoted attributes."""
    return escape(str(value), quote=True)


def said(cell: Any) -> str:
    """A number with separators or four digits, a dash for None, everything else as it is."""
    if isinstance(cell, bool) or cell is None:
        return "–" if cell is None else str(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 10_000 else f"{cell:.4g}"
    return str(cell)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], numeric: int = 1, named: str = "") -> str:
    """A table; all columns but the first `numeric` are numbers, set right. It scrolls, by keyboard too, if too wide."""
    cells = [
        "".join(f"<th scope='row'>{text(said(cell))}</th>" if at == 0
                else f"<td{_right(at, numeric)}>{text(said(cell))}</td>" for at, cell in enumerate(row))
        for row in rows
    ]  # fmt: skip
    heads = "".join(
        f"<th scope='col'{_right(at, numeric)}>{text(name)}</th>" if name else "<td></td>"
        for at, name in enumerate(head)
    )
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    label = text(named or f"Table by {next((name for name in head if name), 'row')}")
    return (f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")  # fmt: skip


def _right(at: int, numeric: int) -> str:
    return " class='n'" if at >= numeric else ""


def tiles(facts: Sequence[tuple[str, Any]]) -> str:
    """Large numbers with a word under each."""
    there = [fact for fact in facts if fact[1] is not None]
    inside = "".join(f"<div><dt>{text(name)}</dt><dd>{text(said(value))}</dd></div>" for name, value in there)
    return f'<dl class="tiles">{inside}</dl>'


def bars(rows: Sequence[tuple[str, int, int, str]], kind: str = "") -> str:
    """(label, kept, dropped, note) each as a line with a bar and its total; the longest bar is as wide as its place."""
    most = max((kept + dropped for _, kept, dropped, _ in rows), default=0) or 1
    items = "".join(
        f'<li><span class="label" dir="auto" title="{text(label)}">{text(label)}</span>'
        f'<span class="bar" aria-hidden="true"><span style="width:{100 * kept / most:.2f}%"></span>'
        f'<span class="dropped" style="width:{100 * dropped / most:.2f}%"></span></span>'
        f'<span class="count">{kept + dropped:,}</span><span class="share">{text(note)}</span></li>'
        for label, kept, dropped, note in rows
    )
    return f'<ol class="bars {kind}">{items}</ol>'


def of(part: float, whole: float) -> str:
    """A share in per cent."""
    return f"{part / whole:.1%}" if whole else "–"


def fold(title: str, inside: str) -> str:
    """Something to open by a click or a key."""
    return f"<details><summary>{text(title)}</summary>{inside}</details>"


def strip(title: str, note: str, pictures: Sequence[Picture]) -> str:
    """A heading and its pictures."""
    items = "".join(f"<li>{figure(picture)}</li>" for picture in pictures)
    return f'<h3>{text(title)} <small>{text(note)}</small></h3><ul class="grid">{items}</ul>'


def figure(picture: Picture) -> str:
    """A picture with its words, veiled where it should be, and framed by what became of it."""
    caption = text(picture.caption or "(no text)")
    image = (
        f'<img src="{picture.image}" alt="sample picture" width="128" height="128">' if picture.image else NO_PICTURE
    )
    if picture.veiled and picture.image:
        image = f'<button type="button" class="veil" aria-pressed="false">{image}<span>Show</span></button>'
    note = f"<b>{text(picture.note)}</b>" if picture.note else ""
    fate = {True: " is-kept", False: " is-dropped", None: ""}[picture.kept]
    words = f'<figcaption>{note}<span dir="auto">{caption}</span></figcaption>'
    return f'<figure class="picture{fate}" data-uid="{text(picture.uid)}">{image}{words}</figure>'


def shared(html: str) -> str:
    """The page with each picture inside it once: where it stands again the script copies it."""
    first: dict[str, int] = {}

    def once(match: re.Match[str]) -> str:
        number = first.get(match[1])
        if number is not None:
            return f'data-same="{number}"'
        first[match[1]] = len(first)
        return f'data-nth="{len(first) - 1}" {match[0]}'

    return DATA_URI.sub(once, html)
