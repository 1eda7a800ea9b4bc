"""Training runs as cards: what was trained, the loss, and every evaluation beside chance."""

from html import escape
from typing import Any

from curate.report import charts


def card(run: dict[str, Any]) -> str:
    """One run: its summary, loss curve and evaluations."""
    about = run["about"]
    summary = about.get("summary") or "not finished yet: no summary in its run.json"
    loss = (
        charts.curve(run["curve"], f"Loss of {run['name']}") if len(run["curve"]) > 1 else "<p>No loss was logged.</p>"
    )
    evaluated = "".join(map(_evaluation, run["evaluations"]))
    return f"<article><h3>{escape(run['name'])}</h3><p>{escape(summary)}</p>{loss}{evaluated}</article>"


def measures(evaluation: dict[str, Any]) -> list[tuple[str, float, float | None]]:
    """(name, value, chance) of everything between 0 and 1 that an evaluation states; chance where it states it."""
    chance = evaluation.get("chance", {})
    return [
        (f"{task} {name}".replace("_", " "), value, _number(chance.get(task, {}).get(name) if chance else None))
        for task in ("zero_shot", "retrieval")
        for name, value in evaluation.get(task, {}).items()
        if _number(value) is not None
    ]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _evaluation(evaluation: dict[str, Any]) -> str:
    rows = "".join(
        f'<li class="beside"><span>{escape(name)}</span><span class="bar" aria-hidden="true">'
        f'<i style="width:{100 * min(value, 1):.2f}%"></i>{_mark(chance)}</span>'
        f"<span class='count'>{value:.1%}{'' if chance is None else f' (chance {chance:.1%})'}</span></li>"
        for name, value, chance in measures(evaluation)
    )
    return f"<h4>{escape(str(evaluation.get('benchmark', 'benchmark')))}</h4><ul>{rows}</ul>"


def _mark(chance: float | None) -> str:
    return "" if chance is None else f'<u style="left:{100 * chance:.2f}%"></u>'
