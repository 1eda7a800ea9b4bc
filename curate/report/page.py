"""The page itself: its frame, and the sections that have something to tell."""

import json
from collections.abc import Callable, Sequence
from importlib import resources
from string import Template
from typing import Any

from curate.report import comparisons, picture_sections, sections, slider
from curate.report.elements import shared, text
from curate.report.samples import Shown

Section = Callable[[dict[str, Any], Shown], str]
SECTIONS: tuple[tuple[str, str, Section], ...] = (
    ("funnel", "From the pool to the selection", sections.funnel),
    ("filter", "Recipe and its steps", sections.recipe),
    ("threshold", "Try a threshold", slider.section),
    ("signals", "What was measured", sections.signals),
    ("samples", "Pictures by score", picture_sections.samples),
    ("cuts", "Pictures around each cut", picture_sections.cuts),
    ("reasons", "What the filter dropped", picture_sections.reasons),
    ("domains", "Where the pairs come from", sections.domains),
    ("harvest", "Harvest", sections.harvest),
    ("failures", "Downloads that failed", sections.failures),
    ("queries", "What the filter does to queries", sections.queries),
    ("duplicates", "Duplicates", picture_sections.duplicates),
    ("overlap", "Overlap with benchmarks", picture_sections.overlap),
    ("selections", "Selections", sections.selections),
    ("training", "Training and evaluation", sections.training),
    ("comparison", "Is it better data?", comparisons.section),
    ("steps", "Every step", sections.steps),
)


def render(numbers: dict[str, Any], shown: Shown) -> str:
    """The whole page as one string."""
    written = [(name, title, section(numbers, shown)) for name, title, section in SECTIONS]
    data = {"thresholds": numbers["thresholds"], "samples": shown.sliding, "column": shown.column}
    name = numbers["dataset"].rstrip("/").rsplit("/", 1)[-1]
    return frame("curate report", name, numbers["dataset"], sections.about(numbers), written, data)


def frame(brand: str, title: str, url: str, about: str, written: Sequence[tuple[str, str, str]], data: Any) -> str:
    """A page of the sections (id, title, HTML) that are not empty; `data` is what its script reads."""
    there = [(name, heading, html) for name, heading, html in written if html]
    here = resources.files("curate.report")
    style, script = ("".join(here.joinpath(name).read_text(encoding="utf-8") for name in names)
                     for names in (("page.css", "parts.css", "print.css"), ("page.js", "slider.js")))  # fmt: skip
    return shared(
        Template(here.joinpath("page.html").read_text(encoding="utf-8")).substitute(
            style=style,
            script=script,
            brand=text(brand),
            dataset=text(title),
            url=text(url),
            about=about,
            data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
            links="".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in there),
            sections="".join(
                f'<section id="{name}" aria-labelledby="{name}-title">'
                f'<h2 id="{name}-title">{heading}</h2>{html}</section>'
                for name, heading, html in there
            ),
        )
    )
